"""YAML read strictly and safely: data only, every value with its line, every fault reported at once. The one reader.

The scalars are those of YAML 1.2 (`1e-5` is a number; `no`, `on` and `2024-01-01` are strings). Custom tags, repeated
keys, text that no file can hold (NUL, lone surrogates) and whatever is past the limits below, aliases expanded, are
refused: reading takes a bounded time, whoever wrote the file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.files import read_small
from llmcf_cli.core.place import Place
from llmcf_cli.core.text import visible
from llmcf_cli.core.tree import Node, Origin, origins, shown

MAX_BYTES = 1 << 19
MAX_VALUES = 10_000
"""Of a file, mappings and lists counted too."""
MAX_ENTRIES = 2_000
"""Of one list or mapping."""
MAX_DEPTH = 64
MAX_KEY = 256
"""Characters of a key."""
MAX_DIGITS = 100
"""Characters of a number."""
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_SHOWN = 40
_NO_FOLDING = 1 << 30
_TOO_MANY = f"has too many values, more than {MAX_VALUES:,}"
_TOO_DEEP = f"is nested too deeply, more than {MAX_DEPTH} levels"

_CORE = "tag:yaml.org,2002:"
_CONTAINERS = {_CORE + "map", _CORE + "seq"}
_SCALARS = {_CORE + name for name in ("str", "int", "float", "bool", "null")}


class _Loader(yaml.composer.Composer, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader with the scalar rules of YAML 1.2 instead of 1.1; libyaml scans, where it is there."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own class attribute)
    _count = _depth = 0

    def __init__(self, text: str) -> None:
        super(yaml.composer.Composer, self).__init__(text)
        yaml.composer.Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node and all below it; counted here, so that no more is parsed than is allowed."""
        self._count += 1
        self._depth += 1
        if self._count > 2 * MAX_VALUES or self._depth > MAX_DEPTH:  # keys are nodes, not values
            what = _TOO_MANY if self._depth <= MAX_DEPTH else _TOO_DEEP
            event: Any = self.peek_event()
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(rf"^(?:{_pattern})$"), _first)


def read_yaml(file: Path) -> Node:
    """A YAML file of keys and values as nodes.

    Raises:
        RecipeError: The file is missing, too big, empty, no YAML, no mapping, or holds something refused.
    """
    node, where = read_any_yaml(file), Place(file=shown(file))
    if node.value is None:
        raise RecipeError([LlmcfError("the file is empty", code="yaml-empty", where=where)])
    if not isinstance(node.value, dict):
        raise RecipeError(
            [LlmcfError("not a mapping of keys to values", code="yaml-no-mapping", where=node.origin.place())]
        )
    return node


def read_any_yaml(file: Path) -> Node:
    """A YAML file as nodes, whatever is in it; of an empty one a node without a value.

    Raises:
        RecipeError: The file is missing, too big, no YAML, or holds something refused.
    """
    where = Place(file=shown(file))
    try:
        text = read_small(file, MAX_BYTES).decode("utf-8-sig")
    except LlmcfError as error:
        raise RecipeError([LlmcfError(error.what, code=error.code, where=where, hint=error.hint)]) from error
    except UnicodeDecodeError as error:
        raise RecipeError([LlmcfError(f"cannot be read: {error}", code="file-unreadable", where=where)]) from error
    return _parse(text, where, Origin(file, 1))


def read_value(text: str, origin: Origin) -> Node:
    """One YAML value from a command line, e.g. `[200, 80]`; all of it has the same origin.

    Raises:
        RecipeError: It is no YAML or holds something refused.
    """
    return _parse(text, origin.place(), origin)


def _parse(text: str, where: Place, origin: Origin) -> Node:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and origin.file:  # libyaml ends a text with a line of its own
            where = replace(where, line=min(mark.line, text.count("\n")) + 1)
        what = " ".join(filter(None, [error.problem, error.context]))
        if what in (_TOO_MANY, _TOO_DEEP):
            raise RecipeError([LlmcfError(what, code="yaml-limit", where=where)]) from error
        raise RecipeError([LlmcfError(f"not valid YAML: {what}", code="yaml-invalid", where=where)]) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:  # libyaml reads UTF-8, which has no lone surrogates
        raise RecipeError(
            [LlmcfError(f"not valid YAML: {' '.join(str(error).split())}", code="yaml-invalid", where=where)]
        ) from error
    except RecursionError as error:
        raise RecipeError([LlmcfError(_TOO_DEEP, code="yaml-limit", where=where)]) from error
    if root is None:
        return Node(None, origin)
    builder = _Builder(origin)
    node = builder.build(root, origin, 0)
    if builder.problems:
        raise RecipeError(builder.problems)
    return node


class _Builder:
    """Turns PyYAML's nodes into ours, collecting problems on the way."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._scalars = yaml.constructor.SafeConstructor()
        self._count = 0
        self.problems: list[LlmcfError] = []

    def build(self, node: yaml.Node, origin: Origin, depth: int) -> Node:
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            # Counted where aliases expand, so a small file of nested aliases ends here as well.
            what = _TOO_MANY if self._count > MAX_VALUES else _TOO_DEEP
            raise RecipeError([*self.problems, LlmcfError(what, code="yaml-limit", where=origin.place())])
        if isinstance(node, yaml.CollectionNode) and len(node.value) > MAX_ENTRIES:
            self._problem("yaml-limit", f"has {len(node.value):,} entries; at most {MAX_ENTRIES:,} are allowed", origin)
            return Node(None, origin)
        if isinstance(node, yaml.MappingNode) and node.tag in _CONTAINERS:
            return Node(self._mapping(node, depth), origin)
        if isinstance(node, yaml.SequenceNode) and node.tag in _CONTAINERS:
            return Node([self.build(item, self._at(item), depth + 1) for item in node.value], origin)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return Node(self._scalar(node, origin), origin)
        self._problem("yaml-refused", f"the tag `{node.tag}` is not allowed; recipes are plain data", origin)
        return Node(None, origin)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        inherited: dict[str, Node] = {}
        own: dict[str, Node] = {}
        for key_node, value_node in node.value:
            origin = self._at(key_node)
            if key_node.tag == _CORE + "merge":
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    below = self.build(source, origin, depth + 1).value
                    if not isinstance(below, dict):
                        self._problem("yaml-refused", "`<<` needs a mapping", origin)
                        continue
                    inherited = {**below, **inherited}
                continue
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _SCALARS:
                self._problem("yaml-refused", "a key must be a plain name", origin)
            elif len(key) > MAX_KEY:
                self._problem("yaml-limit", f"a key has {len(key):,} characters; at most {MAX_KEY} are allowed", origin)
            elif _UNWRITABLE.search(key):
                self._problem("yaml-refused", _unwritable("a key", key), origin)
            elif key in own:
                self._problem("yaml-key-twice", f"duplicate key `{key}`; first at {own[key].origin}", origin)
            else:
                own[key] = self.build(value_node, origin, depth + 1)
        return {**inherited, **own}

    def _scalar(self, node: yaml.ScalarNode, origin: Origin) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_CORE)
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self._problem(
                "yaml-limit", f"a number has {len(text):,} characters; at most {MAX_DIGITS} are allowed", origin
            )
            return None
        if _UNWRITABLE.search(text):
            self._problem("yaml-refused", _unwritable("a text", text), origin)
            return None
        try:
            if kind == "int":
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            self._problem(
                "value-invalid",
                f"`{text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}` is not a valid {kind}",
                origin,
            )
            return None

    def _at(self, node: yaml.Node) -> Origin:
        if self._origin.file is None:
            return self._origin
        return Origin(self._origin.file, node.start_mark.line + 1)

    def _problem(self, code: str, what: str, origin: Origin) -> None:
        self.problems.append(LlmcfError(what, code=code, where=origin.place()))


def _unwritable(what: str, text: str) -> str:
    found = _UNWRITABLE.search(text)
    assert found is not None
    sign = "a NUL character" if found[0] == "\0" else f"half a character (U+{ord(found[0]):04X})"
    return f"{what} has {sign} at position {found.start() + 1}, which files and tables cannot hold; leave it out"


def dump_yaml(data: Any) -> str:
    """Plain data as block-style YAML that `read_yaml` reads back to the same values."""
    text = str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_NO_FOLDING))
    return visible(text)  # what that writes out stands in double quotes, where YAML reads it back


def dump_lines(data: Any) -> list[tuple[str, str]]:
    """The lines of `dump_yaml`, each with the key path of the first value that starts on it, or an empty string."""
    text = dump_yaml(data)
    starts: dict[int, str] = {}
    for key, origin in origins(data, _parse(text, Place(), Origin(Path(), 1))).items():
        starts.setdefault(origin.line, key)
    return [(line, starts.get(number, "")) for number, line in enumerate(text.splitlines(), start=1)]


class _Dumper(yaml.SafeDumper):
    """Writes what this module reads: strings quoted by our rules as well as PyYAML's, short lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = all(not isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence(_CORE + "seq", data, flow_style=flat)


def _represent_str(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    patterns = _Loader.yaml_implicit_resolvers.get(data[:1], ())
    looks_like_other = any(pattern.match(data) for _, pattern in patterns)
    if visible(data) != data:
        return dumper.represent_scalar(_CORE + "str", data, style='"')
    style = "|" if "\n" in data else "'" if looks_like_other else None
    return dumper.represent_scalar(_CORE + "str", data, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)
