"""Work on a Ray cluster of two nodes on this machine: complete, once each, and errors that name what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError, ModelError, UnknownNameError
from llmcf_cli.scale.cluster import RayExecutor

# Workers are made inside of functions, so that they travel by value: the nodes cannot import a test.


class TwoNodes:
    """A cluster whose second node can be lost and comes back for the next test."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._node = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._node, "include_dashboard": False})
        self.address = self.cluster.address
        self.second = None

    def complete(self) -> None:
        self.second = self.second or self.cluster.add_node(**self._node)

    def lose_one(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes():
    nodes = TwoNodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def two_nodes(nodes):
    nodes.complete()
    return nodes


@pytest.mark.slow
def test_every_item_is_done_once_although_a_node_is_lost(two_nodes):
    def worker(item):
        import os
        import time

        time.sleep(0.2)
        return item * item, os.getpid()

    taken, done = [], {}

    def items():
        for item in range(30):
            taken.append(item)
            yield item

    with RayExecutor(two_nodes.address).pool(worker) as pool:
        for item, (square, process) in pool.map(items()):
            assert item not in done
            done[item] = (square, process)
            assert len(taken) - len(done) <= 4, "two items per worker are taken in advance"
            if two_nodes.second and len({process for _, process in done.values()}) == 2:
                two_nodes.lose_one()
        assert two_nodes.second is None, "both nodes had work"
        assert sorted(done) == list(range(30))
        assert all(square == item * item for item, (square, _) in done.items())
        assert sorted(item for item, _ in pool.map([1, 2])) == [1, 2], "the worker that is left goes on"


@pytest.mark.slow
def test_what_workers_raise_is_raised_here(two_nodes):
    def error(item):
        if item == "model":
            return ModelError("is no model", where="there", allowed=("a", "b"), hint="take another")
        return UnknownNameError("judge", "rubrik", ["rubric"])

    def worker(item):
        import os

        if item == "package":
            raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
        if item == "dies":
            os._exit(1)
        if item == "fine":
            return item.upper()
        raise error(item)

    with RayExecutor(two_nodes.address, workers=2).pool(worker) as pool:
        for item in ("model", "name"):
            with pytest.raises(LlmcfError) as caught:
                list(pool.map(["fine", item]))
            assert str(caught.value) == str(error(item))
            assert isinstance(caught.value, ModelError) == (item == "model")
        with refused("package-missing", LlmcfError, names="'elsewhere'"):
            list(pool.map(["package"]))
        with refused("cluster-worker-died", LlmcfError, names="3"):
            list(pool.map(["dies"]))
        assert list(pool.map(["fine"])) == [("fine", "FINE")], "a pool outlives what went wrong"


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_no_endless_wait(two_nodes):
    class Unreadable:
        def __reduce__(self):
            return int, ("no number",)

        def __call__(self, item):
            return item

    with RayExecutor(two_nodes.address).pool(Unreadable()) as pool, refused("cluster-worker-died", LlmcfError):
        list(pool.map([1]))


def test_no_cluster_at_the_address():
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "[::1]:1"):
        with refused("cluster-unreachable", LlmcfError):
            RayExecutor(address)
    for command in ("run", "gen-cot", "match"):
        done = CliRunner().invoke(app, [command, "quickstart", "--on", "ray", "--address", "127.0.0.1:1"])
        assert isinstance(done.exception, LlmcfError)
        assert "ray start --head" in str(done.exception)
        done = CliRunner().invoke(app, [command, "quickstart", "--workers", "2"])
        assert "add --on ray" in str(done.exception)


@pytest.mark.parametrize(
    "address", ["foo", "foo:", "foo:bar", ":6379", "http://foo:80", "ray://foo", "foo:99999", "a b:1"]
)
def test_what_is_no_address_is_refused_before_ray_sees_it(address):
    with refused("cluster-address", LlmcfError) as caught:
        RayExecutor(address)
    assert str(caught.value.where) == f"--address {address}"
    assert caught.value.allowed == ("HOST:PORT", "ray://HOST:PORT", "auto", "local")


@pytest.mark.slow
def test_that_ray_is_started_here_is_said_and_nothing_else(tmp_path):
    """In a process of its own, as a terminal sees it."""
    script = """
        from llmcf_cli.core.progress import PlainProgress
        from llmcf_cli.scale.cluster import RayExecutor
        with RayExecutor("local", 1, PlainProgress()).pool(str) as pool:
            print([found for _, found in pool.map([1, 2])])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said, result = done.stdout.splitlines()
    assert said.startswith(f"starting Ray on this machine, {os.cpu_count()} CPUs")
    assert said.endswith("for a cluster, give --address")
    assert sorted(result) == sorted("['1', '2']")
    assert done.stderr == ""
