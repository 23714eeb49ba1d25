"""Where stateless work is done: in this process, or by the workers of a Ray cluster. It never changes a result."""

from llmcf_cli.scale.base import LOCAL, Executor, LocalPool, Pool

__all__ = ["LOCAL", "Executor", "LocalPool", "Pool"]
