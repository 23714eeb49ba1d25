"""Work on a Ray cluster of two nodes on this machine: complete, once, and the same, also when one of them is lost."""

from __future__ import annotations

import os
import socket
import time

import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.progress import Progress
from llmcf_cli.scale.cluster import RayExecutor

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    """Two nodes of one processor each; the second can be lost."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    cluster.second = cluster.add_node(**small)
    yield cluster
    cluster.shutdown()


def test_every_item_is_done_once_although_a_node_is_lost(cluster):
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

    with RayExecutor(cluster.address).pool(worker) as pool:
        for item, (square, process) in pool.map(items()):
            assert item not in done
            done[item] = (square, process)
            assert len(taken) - len(done) <= 4, "two items per worker are taken in advance"
            if cluster.second is not None and len({process for _, process in done.values()}) == 2:
                cluster.remove_node(cluster.second, allow_graceful=False)
                cluster.second = None
        assert cluster.second is None, "both nodes had work"
        assert sorted(done) == list(range(30))
        assert all(square == item * item for item, (square, _) in done.items())
        assert [item for item, _ in pool.map([1, 2])] == [1, 2], "the workers that are left go on"
