"""The registry: built-ins, duplicates, unknown names, drop-in folders, entry points; one door for all."""

import importlib
import subprocess
import sys

import commands
import pytest
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, UnknownNameError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import KINDS, Registry, registry
from llmcf_cli.plugin.builtin import register
from llmcf_cli.plugin.dropin import drop_ins

CONFIG = "llmcf_cli.core.types:ComponentConfig"

PLUGIN = '''\
from typing import Literal

from llmcf_cli.core.types import ComponentConfig


class LuckyConfig(ComponentConfig):
    """Scores at random."""

    type: Literal["lucky"] = "lucky"
    luck: float = 0.5
    """How lucky."""


class Lucky:
    def __init__(self, config, *args):
        self.config, self.args = config, args


def register(registry):
    registry.add("judge", "lucky", config=f"{__name__}:LuckyConfig", target=f"{__name__}:Lucky", summary="lucky")
'''


@pytest.fixture
def fresh():
    """A registry of its own, with the built-ins."""
    found = Registry()
    found.register_from("built-in", register)
    return found


BUILT_IN = Registry()
BUILT_IN.register_from("built-in", register)


@pytest.mark.parametrize("component", BUILT_IN.all(), ids=lambda c: f"{c.kind}-{c.name}")
def test_every_built_in_has_its_configuration_and_implementation(component):
    config = component.config()
    assert config.model_fields["type"].default == component.name
    if component.name == "vllm":
        pytest.importorskip("vllm")
    assert callable(component.load())
    assert component.origin == "built-in"
    assert component.summary
    assert not component.summary.endswith(".")


def test_configurations_are_light():
    """Importing every configuration class must not import numeric libraries."""
    script = (
        "import sys\n"
        "from llmcf_cli.plugin import registry\n"
        "[component.config() for component in registry().all()]\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'duckdb', 'lancedb', 'transformers', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_annotations_of_configurations_are_no_texts():
    """pydantic would compile every one on import, which took a tenth of `llmcf recipe validate`."""
    script = (
        "from llmcf_cli.core.types import Config\n"
        "from llmcf_cli.plugin import registry\n"
        "from llmcf_cli.recipe import prompt, schema\n"
        "from llmcf_cli.store import catalogue\n"
        "[component.config() for component in registry().all()]\n"
        "def below(cls):\n"
        "    return [cls, *(found for sub in cls.__subclasses__() for found in below(sub))]\n"
        "found = below(Config)\n"
        "assert len(found) > 90, len(found)\n"
        "texts = {name for cls in found for name in vars(cls).get('__annotations__', {}).values()}\n"
        "print(sorted(name for name in texts if isinstance(name, str)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_listing(fresh):
    assert fresh.names("backbone") == sorted(fresh.names("backbone"))
    assert [(c.kind, c.name) for c in fresh.all()] == sorted((c.kind, c.name) for c in fresh.all())
    assert {component.kind for component in fresh.all()} <= set(KINDS)


def test_an_unknown_name_lists_the_known_ones(fresh):
    with refused("unknown-name", UnknownNameError, names='"depfm".*"deepfm"') as caught:
        fresh.get("backbone", "depfm", where="a.yaml:3")
    assert "din" in caught.value.allowed
    assert str(caught.value.where) == "a.yaml:3"


def test_an_unknown_kind_is_refused(fresh):
    with refused("unknown-name", UnknownNameError, names='"bakbone".*"backbone"'):
        fresh.add("bakbone", "x", config=CONFIG, target=CONFIG, summary="x")


def test_nothing_replaces_another_component(fresh):
    def plugin(registry):
        registry.add("backbone", "deepfm", config=CONFIG, target=CONFIG, summary="x")

    with refused("plugin-name-taken", LlmcfError, names='"deepfm"') as caught:
        fresh.register_from("other 1.0", plugin)
    assert str(caught.value.where) == "built-in and other 1.0"


@pytest.mark.parametrize(
    ("target", "code"),
    [("no_such_package.x:Y", "package-missing"), ("llmcf_cli.core.types:Nope", "plugin-target"),
     ("llmcf_cli.core.types:key_view", "plugin-target"), ("llmcf_cli.core.types:Config", "plugin-target")],
)  # fmt: skip
def test_targets_that_cannot_be_used(fresh, target, code):
    fresh.add("judge", "broken", config=target, target=target, summary="x")
    with refused(code, LlmcfError) as caught:
        fresh.get("judge", "broken").config()
    assert str(caught.value.where) == "judge broken"


# ---- drop-in folders


def load_folder(into, folder):
    for dropin in drop_ins(folder):
        into.register_from(dropin.origin, dropin.module.register)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plugin folder; modules it brings in are forgotten afterwards."""
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("llmcf_dropin_"):
            del sys.modules[name]


def test_a_file_dropped_in_a_folder(fresh, folder):
    (folder / "lucky.py").write_text(PLUGIN)
    load_folder(fresh, folder)
    component = fresh.get("judge", "lucky")
    assert component.origin.startswith("lucky.py ")
    config = component.config()(luck=1)
    built = fresh.build("judge", config, "argument")
    assert (built.config, built.args) == (config, ("argument",))
    assert issubclass(component.config(), ComponentConfig)


def test_the_origin_changes_with_the_content(folder):
    path, origins = folder / "lucky.py", set()
    for text in (PLUGIN, PLUGIN + "\n"):
        path.write_text(text)
        found = Registry()
        load_folder(found, folder)
        origins.add(found.get("judge", "lucky").origin)
    assert len(origins) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [("def register(registry): ...\nraise RuntimeError('boom')", "plugin-failed"),
     ("def", "plugin-failed"),
     (PLUGIN.replace('"judge", "lucky"', '"jugde", "lucky"'), "unknown-name")],
)  # fmt: skip
def test_a_broken_file_is_named(fresh, folder, text, code):
    (folder / "bad.py").write_text(text)
    with refused(code, LlmcfError) as caught:
        load_folder(fresh, folder)
    assert "bad.py" in str(caught.value.where)


def test_a_missing_folder_is_named(fresh, folder):
    with refused("plugin-folder", LlmcfError) as caught:
        load_folder(fresh, folder / "none")
    assert "LLMCF_PLUGINS" in caught.value.hint


def test_two_folders_may_use_one_name(folder):
    origins = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "lucky.py").write_text(PLUGIN.replace("lucky", name))
        found = Registry()
        load_folder(found, folder / name)
        origins.append(found.get("judge", name).origin)
        assert found.build("judge", found.get("judge", name).config()()).config.luck == 0.5
    assert origins[0] != origins[1]


def test_helpers_and_packages_beside_a_plugin(fresh, folder):
    (folder / "helper.py").write_text("LUCK = 0.25\n")
    (folder / "tools").mkdir()
    (folder / "tools" / "__init__.py").write_text("")
    (folder / "not a module").mkdir()
    plugin = PLUGIN.replace("luck: float = 0.5", "luck: float = LUCK").replace('f"{__name__}:', 'f":')
    (folder / "lucky.py").write_text("from .helper import LUCK\n" + plugin)
    (folder / "boxed").mkdir()
    (folder / "boxed" / "__init__.py").write_text("from .parts import register\n")
    boxed = PLUGIN.replace("lucky", "boxed")
    (folder / "boxed" / "parts.py").write_text("from ..helper import LUCK\n" + boxed)
    load_folder(fresh, folder)
    assert fresh.get("judge", "lucky").config()().luck == 0.25
    assert fresh.get("judge", "boxed").config()().luck == 0.5
    before = fresh.get("judge", "lucky").origin
    (folder / "helper.py").write_text("LUCK = 0.75\n")
    again = Registry()
    load_folder(again, folder)
    assert again.get("judge", "lucky").origin != before


def test_a_folder_without_a_plugin_is_named(fresh, folder):
    (folder / "x.py").write_text("x = 1\n")
    with refused("plugin-folder", LlmcfError):
        load_folder(fresh, folder)


def test_the_environment_names_folders_and_recipes_can_use_what_is_in_them(folder):
    (folder / "lucky.py").write_text(PLUGIN)
    command = ["recipe", "show", "quickstart", "--set", "cot.judge={type: lucky, luck: 0.9}"]
    done = commands.llmcf(*command, LLMCF_PLUGINS=str(folder))
    assert done.returncode == 0, done.stderr
    assert "type: lucky" in done.stdout
    assert "luck: 0.9" in done.stdout


# ---- installed plugins


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution with the given entry point into a folder of its own; registry() starts afresh."""

    def install(module: str, text: str) -> None:
        info = tmp_path / "lucky_plugin-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lucky-plugin\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[llmcf.plugins]\nlucky = {module}:register\n")
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        registry.cache_clear()

    yield install
    registry.cache_clear()


def test_an_installed_plugin_registers_under_its_version(installed):
    installed("lucky_module_one", PLUGIN)
    component = registry().get("judge", "lucky")
    assert component.origin == "lucky-plugin 2.1"
    assert component.config()().luck == 0.5
    assert registry().get("judge", "rubric").origin == "built-in"


def test_an_installed_plugin_that_fails_is_named(installed):
    installed("lucky_module_two", "import not_installed_anywhere")
    with refused("plugin-failed", LlmcfError) as caught:
        registry()
    assert str(caught.value.where) == "lucky-plugin 2.1"
    assert "uninstall lucky-plugin" in caught.value.hint
