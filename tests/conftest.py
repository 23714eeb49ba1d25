"""What every test may use: real assets, and an environment without the network where libraries would ask for it."""

import os

# Before anything imports these libraries: they read their settings once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Hundreds of processes that the tests start would each compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import shutil
import signal
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from llmcf_cli.core.errors import AssetError
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.store.assets import Locator, open_assets
from llmcf_cli.store.fetch import MismatchError

# Recipes of tests name files all over the test's own folders; the user's own permissions stay out of it.
os.environ["LLMCF_CONFIG"] = tempfile.mkdtemp(prefix="llmcf-config-")
os.environ["LLMCF_ALLOW_READ"] = os.pathsep.join([tempfile.gettempdir(), str(Path(__file__).parents[1])])

# A shell that starts the tests in the background makes them, and what they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CONFIG = Path(os.environ["LLMCF_CONFIG"])
_tests = count()

settings.register_profile("llmcf", deadline=None, max_examples=50)
settings.load_profile("llmcf")


def pytest_unconfigure() -> None:
    shutil.rmtree(_CONFIG, ignore_errors=True)


class Assets:
    """The library's assets in the user's own cache, so that a machine fetches each once for all test runs."""

    def __init__(self) -> None:
        self._locate = Locator(library_dir(), open_assets(library_dir()))

    def path(self, ref: str) -> Path:
        """The folder of `asset:NAME`; skips the test where it cannot be fetched, fails it on wrong bytes."""
        try:
            return self._locate.path(ref)
        except MismatchError:
            raise
        except AssetError as error:
            pytest.skip(f"{ref} cannot be fetched: {error.what}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, whole, so that no worker begins one when the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def own_permissions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test allows, no other one may do; the folder is made by who writes there."""
    monkeypatch.setenv("LLMCF_CONFIG", str(_CONFIG / str(next(_tests))))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The small world of `tests/rec_world.py`, made once; a test that changes what all share fails the run."""
    import rec_world

    made = rec_world.make_world(tmp_path_factory.mktemp("world"))
    before = rec_world.digest(made.data)
    yield made
    assert rec_world.digest(made.data) == before, "a test changed the world that it shares: let it copy what it changes"


@pytest.fixture(scope="session")
def assets() -> Assets:
    return Assets()


@pytest.fixture(scope="session")
def smollm(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M in Hugging Face format, converted once for all processes of a test run."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    from filelock import FileLock

    from llmcf_cli.llm.models.load import hf_folder

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own
    source, printed = assets.path("asset:smollm2-135m-instruct"), StringIO()
    with FileLock(shared / "smollm.lock"), redirect_stdout(printed), redirect_stderr(printed):
        folder = hf_folder(source, shared / "smollm")
    assert printed.getvalue() == ""
    return folder
