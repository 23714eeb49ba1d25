"""The planted world as a source: its tables, made when they are asked for."""

from __future__ import annotations

from typing import Any

from llmcf_cli.data.raw import Locate, Meaning, RawData, Role
from llmcf_cli.planted.config import PlantedConfig
from llmcf_cli.planted.world import make_world
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat


class PlantedSource:
    """Tables of a made-up book shop."""

    times = TimeFormat("seconds")

    def __init__(self, config: PlantedConfig) -> None:
        self._config = config

    def load(self, con: Any, locate: Locate, rows: int | None = None) -> RawData:
        """See `Source.load`."""
        found: dict[Role, Table] = {}
        made = make_world(self._config).tables()
        for role in ("interactions", "items", "users"):
            table = made[role].slice(0, rows)
            relation = f"file_{role}"
            con.register("planted_rows", table)
            con.execute(f"CREATE OR REPLACE TABLE {relation} AS FROM planted_rows")
            con.unregister("planted_rows")
            found[role] = Table(relation, f"the planted world of seed {self._config.seed}", whole=rows is None)
        return RawData(found, Meaning(
            "user_id", "item_id", "rating", "timestamp", times=self.times, keys={"item": "item_id", "user": "user_id"},
        ))  # fmt: skip
