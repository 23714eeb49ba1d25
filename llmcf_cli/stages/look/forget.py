"""Users leave all that a recipe owns: the list that keeps them out from now on, what is removed, and the record of it.

The order makes a kill harmless. First the list, so that nothing new can hold them; then the certificate as it is meant
to end; then the cache of texts, while their prompts can still be told from the samples; then results, those that were
made last first, so that samples go last and whatever is left can still be looked into.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llmcf_cli import __version__
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.tree import plain
from llmcf_cli.core.types import Config, file_refs
from llmcf_cli.core.yamlfile import read_yaml
from llmcf_cli.data.forgotten import Forgotten
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.llm.writing.travel import StepCalls
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.recipe.library import is_installed
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.stages.engine.base import Context, Node
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.look.holders import Holder, Holders, Sought
from llmcf_cli.stages.steps import gen_cot, knowledge
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.knowledge import Knowledge
from llmcf_cli.store.artifacts import KEY_LENGTH, ArtifactStore, write_atomic
from llmcf_cli.store.open import connect_read, read_parquet

KEY = "forgotten"
"""Of `dataset`: the list."""
MAX_CERTIFICATE = 1 << 26
ELSEWHERE = (
    "copies elsewhere: exported and pushed parcels, copied bundles and reports, backups, logs",
    "servers that have loaded a bundle: restart them, or let them follow a pointer",
    "servers of language models that were sent prompts",
    "free disk space",
)
"""What nobody looks at."""


class Removed(Config):
    """Something that held the users."""

    path: str
    """Where it was."""
    what: str
    """Stage and variant, or what it was."""
    why: str
    """What made it hold them."""
    rows: dict[str, int] = Field(default_factory=dict)
    """Table in it → rows of theirs."""
    learned: bool = False
    """Whether it had weights that learned from them."""
    bytes: int = 0
    """Its size."""
    gone: bool = False
    """Whether it is gone."""


class Remaining(Config):
    """Something that holds the users still, or may."""

    path: str
    """Where it is."""
    what: str
    """What it is."""
    why: str
    """Why it stays, and what to do about it."""
    ours: bool
    """Whether it belongs to the recipe, so that forgetting is not complete while it is there."""


class Certificate(Config):
    """What was removed and what remains."""

    format: Literal[1] = 1
    """Version of this layout."""
    llmcf: str = __version__
    """Version that wrote it."""
    recipe: str
    """Name of the recipe."""
    recipe_file: str
    """Its file."""
    artifacts: str
    """The artifact folder."""
    listed_in: str
    """The list that keeps the users out of every ingest."""
    users: tuple[str, ...]
    """The users, as they are listed."""
    unknown: int
    """How many of them nothing here held."""
    started: datetime
    """When it began."""
    finished: datetime | None = None
    """When it ended; None: it was interrupted, and the same command goes on."""
    removed: tuple[Removed, ...] = ()
    """What held them."""
    remains: tuple[Remaining, ...] = ()
    """What holds them still."""
    not_looked_at: tuple[str, ...] = ELSEWHERE
    """What nobody looked at."""

    @property
    def complete(self) -> bool:
        """Whether nothing that belongs to the recipe holds them."""
        return not any(one.ours for one in self.remains) and all(one.gone for one in self.removed)


@dataclass(frozen=True)
class Texts:
    """Texts in the cache.

    Attributes:
        file: The cache.
        theirs: Digests of prompts that were made from the users' histories.
        count: Texts of these prompts.
        unclear: Texts of prompts that the recipe does not ask, so that nobody can tell whom they are about.
    """

    file: Path
    theirs: frozenset[str] = frozenset()
    count: int = 0
    unclear: int = 0


def list_of(loaded: LoadedRecipe, context: Context) -> Path:
    """Where a recipe's list is, or is to be.

    Raises:
        StoreError: The recipe is one of llmcf's own.
    """
    if context.recipe.dataset.forgotten is not None:
        return context.locate.path(context.recipe.dataset.forgotten)
    path = loaded.path.resolve()
    if is_installed(path):
        raise StoreError("is installed; a list of forgotten users belongs to a recipe of your own",
                         code="forget-recipe",
                         where=loaded.path.name, hint=f"llmcf recipe new mine --from {loaded.path.stem}, then use "
                         "it")  # fmt: skip
    return path.with_name(f"{path.stem}.forgotten.json")


def write_list(loaded: LoadedRecipe, listed: Forgotten, file: Path) -> bool:
    """Write a list, and have the recipe name it; whether the recipe was changed for that.

    Raises:
        StoreError: The recipe is written in a way that a line cannot be put into; it stays as it is.
    """
    text = None if loaded.recipe.dataset.forgotten is not None else _naming(loaded.path, file.name)
    write_atomic(file, listed.written())
    if text is not None:
        mode = loaded.path.stat().st_mode
        write_atomic(loaded.path, text)
        loaded.path.chmod(mode)
    return text is not None


def texts_of(sought: Sought, found: Holders, store: ArtifactStore) -> Texts | None:
    """The users' texts in the cache; None where there is no cache.

    Prompts are rendered again from the samples, and read from the results that hold texts.
    """
    file = sought.after[0].generations
    if not file.is_file():
        return None
    theirs, others = set(_written(store, found)), set[str]()
    for context in (*sought.before, *sought.after):
        for step in plan(context, [Evaluate()]):
            node = step.node
            if not isinstance(node.stage, GenCoT | Knowledge) or not all(need.made for need in node.needs.values()):
                continue
            rows = found.samples.get(node.needs["ingest"].key[:KEY_LENGTH], frozenset())
            for call in _calls(node, rows) if rows else ():
                theirs.update(call.prompts if call.about == "user" else ())
            for call in _calls(node, None):
                others.update(call.prompts)
    with SharedTexts(file) as cache:
        counts = cache.counts()
    count = sum(number for prompt, number in counts.items() if prompt in theirs)
    unclear = sum(number for prompt, number in counts.items() if prompt not in theirs and prompt not in others)
    return Texts(file, frozenset(theirs), count, unclear)


def certificate(
    loaded: LoadedRecipe, sought: Sought, found: Holders, texts: Texts | None, listed_in: Path, store: ArtifactStore
) -> Certificate:
    """What removing would come to; nothing is gone yet."""
    removed = [
        Removed(path=str(one.path), what=one.label, why=one.why, rows=dict(one.rows), learned=one.learned,
                bytes=one.bytes)
        for one in found.found if not one.stays
    ]  # fmt: skip
    remains = [_staying(one) for one in found.found if one.stays]
    if texts is not None and texts.count:
        removed.append(Removed(path=str(texts.file), what="texts of a language model", why="written from their "
                               "histories", rows={"generation": texts.count}))  # fmt: skip
    if texts is not None and texts.unclear:
        remains.append(Remaining(path=str(texts.file), what=f"{texts.unclear:,} texts", ours=False,
                                 why="of prompts that this recipe, with its present settings, does not send, so it is "
                                 "unknown whom they are about; remove the file to be sure"))  # fmt: skip
    remains += _tables(sought.after)
    return Certificate(
        recipe=loaded.recipe.name, recipe_file=str(loaded.path.resolve()), artifacts=str(store.root),
        listed_in=str(listed_in), users=tuple(sorted(sought.users.users)),
        unknown=len(sought.users.users - found.known), started=_now(), removed=tuple(removed), remains=tuple(remains),
    )  # fmt: skip


def certificate_file(loaded: LoadedRecipe, users: Forgotten, listed_in: Path) -> tuple[Path, Certificate | None]:
    """Where the next certificate goes; or one of the same users that was interrupted, which is carried on."""
    number = 1
    while (file := listed_in.with_name(f"{listed_in.stem}-{number}.json")).exists():
        earlier = read_certificate(file)
        if earlier.finished is None and set(earlier.users) == users.users:
            return file, earlier
        number += 1
    return file, None


def read_certificate(file: Path) -> Certificate:
    """A certificate.

    Raises:
        StoreError: It is none.
    """
    try:
        return Certificate.model_validate(read_json(file, MAX_CERTIFICATE))
    except ValidationError as error:
        raise StoreError("not a certificate of `llmcf forget`", code="forget-list", where=str(file),
                         hint="move the file away") from error  # fmt: skip


def write_certificate(one: Certificate, file: Path) -> None:
    """Write a certificate, in the place of one that is there."""
    write_atomic(file, one.model_dump_json(indent=1) + "\n")


def carried_on(one: Certificate, earlier: Certificate | None) -> Certificate:
    """A certificate with what an interrupted one has beside."""
    if earlier is None:
        return one
    now = {entry.path for entry in one.removed}
    before = tuple(entry for entry in earlier.removed if entry.path not in now)
    unknown = min(one.unknown, earlier.unknown)
    return one.model_copy(update={"removed": (*before, *one.removed), "started": earlier.started, "unknown": unknown})


def remove(
    store: ArtifactStore, meant: Certificate, found: Holders, texts: Texts | None
) -> tuple[Certificate, list[StoreError]]:
    """Remove what can go.

    Returns:
        The certificate as it ends, and why something stayed that was to go.
    """
    failed: dict[str, StoreError] = {}
    if texts is not None and texts.theirs:
        with SharedTexts(texts.file) as cache:
            cache.forget(texts.theirs)
    for one in found.found:
        try:
            if not one.stays:
                _remove(store, one)
        except StoreError as error:  # somebody began to use it, or it is not ours: the others can go
            failed[str(one.path)] = error
    removed, remains = [], [*meant.remains]
    for entry in meant.removed:
        gone = entry.path not in failed and (entry.what.startswith("texts") or not Path(entry.path).exists())
        removed.append(entry.model_copy(update={"gone": gone}))
        if not gone:
            why = failed[entry.path].what if entry.path in failed else "exists again: run this again"
            remains.append(Remaining(path=entry.path, what=entry.what, why=why, ours=True))
    ended = {"removed": tuple(removed), "remains": tuple(remains), "finished": _now()}
    return meant.model_copy(update=ended), [*failed.values()]


def _remove(store: ArtifactStore, one: Holder) -> None:
    if one.stage:
        store.remove(one.stage, one.key)
        return
    try:
        if not one.path.is_dir():
            one.path.unlink(missing_ok=True)
            return
        aside = one.path.with_name(f".{one.path.name}.gone")  # at once: nobody ever sees a part of it
        shutil.rmtree(aside, ignore_errors=True)
        one.path.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise StoreError(f"cannot be removed: {error.strerror}", code="store-unwritable", where=str(one.path),
                         hint="ask the owner of the files to remove it") from error  # fmt: skip


def _naming(recipe: Path, list_name: str) -> str:
    """The text of a recipe that names a list beside it, all else as it is.

    Raises:
        StoreError: A line put into it would not say that.
    """
    root = read_yaml(recipe)
    with recipe.open(encoding="utf-8", newline="") as handle:
        text = handle.read()
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    section = root.value.get("dataset")
    said = f"{KEY}: {list_name}{end}"
    if section is None:
        before = text if text.endswith(("\n", "\r")) else text + end
        changed = f"{before}dataset:{end}  {said}"
    else:
        below = section.value if isinstance(section.value, dict) else {}
        first = min((node.origin.line for node in below.values()), default=1)
        line = lines[first - 1]
        lines.insert(first - 1, line[: len(line) - len(line.lstrip())] + said)
        changed = "".join(lines)
    wanted: dict[str, Any] = plain(root)
    wanted = {**wanted, "dataset": {**(wanted.get("dataset") or {}), KEY: list_name}}
    draft = recipe.with_name(f".{recipe.name}.draft")
    try:
        with draft.open("w", encoding="utf-8", newline="") as handle:
            handle.write(changed)
        same = plain(read_yaml(draft)) == wanted
    except LlmcfError:
        same = False
    finally:
        draft.unlink(missing_ok=True)
    if not same:
        raise StoreError("no place where the list can be added", code="forget-recipe", where=str(recipe),
                         hint=f"write `{KEY}: {list_name}` into its section `dataset`, write "
                         '{"format": 1, "salt": "00000000000000000000000000000000", "users": []} into that file, '
                         "and run this again")  # fmt: skip
    return changed


def _calls(node: Node, users: frozenset[int] | None) -> list[StepCalls]:
    calls = gen_cot.calls_of if isinstance(node.stage, GenCoT) else knowledge.calls_of
    return calls(node, users)


def _written(store: ArtifactStore, found: Holders) -> Iterator[str]:
    """Digests of prompts of the users in results that hold texts, whatever the settings were that they were made by."""
    for one in found.found:
        if one.stage != GenCoT.name or one.kind != "result" or not one.ours:
            continue
        output = CoTOutput(one.path)
        for samples, rows in found.samples.items():
            if samples not in _inputs(store, one):
                continue
            with connect_read(IngestOutput(store.folder("ingest", samples)).database) as con:
                theirs = {row for (row,) in con.execute(
                    "SELECT sample_id FROM sample WHERE user_row IN (SELECT unnest(?::INTEGER[]))", [sorted(rows)]
                ).fetchall()}  # fmt: skip
            for file in (output.cots, output.dropped, output.parts):
                for row in read_parquet(file, ["sample_id", "prompt_hash"]).to_pylist() if file.is_file() else ():
                    if row["sample_id"] in theirs:
                        yield row["prompt_hash"]


def _inputs(store: ArtifactStore, one: Holder) -> set[str]:
    manifest = next(m for m in store.manifests(one.stage) if m.key[:KEY_LENGTH] == one.key)
    inputs: Mapping[str, str] = manifest.material["inputs"]
    return {key[:KEY_LENGTH] for key in inputs.values()}


def _tables(contexts: Sequence[Context]) -> list[Remaining]:
    """The user's own tables, which nobody changes."""
    found = dict.fromkeys(
        str(context.locate.path(ref).resolve()) for context in contexts
        for part in (context.recipe.dataset.source, *context.recipe.dataset.added) for ref in file_refs(part)
    )  # fmt: skip
    return [Remaining(path=path, what="your table", ours=False, why="llmcf does not change tables; it no longer reads "
                      "these rows") for path in found]  # fmt: skip


def _staying(one: Holder) -> Remaining:
    return Remaining(path=str(one.path), what=one.label, why=f"{one.why}; {one.stays}", ours=one.ours)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
