"""`balance`: the sweep over share and amount of recommendation data, and the point that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.asking import BalanceSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.ability import BASE, TUNED, Ability, compare, read_measured, write_tables


@dataclass(frozen=True)
class Balance(Stage):
    """Compares the base model and the model of every point of the sweep.

    Attributes:
        failed: (point, reason) of points that could not be measured: the table says so and goes on without them.
    """

    failed: tuple[tuple[str, str], ...] = ()

    name = "balance"
    version = 2

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"balance": _section(recipe), "points": list(recipe.points), "failed": dict(self.failed)}

    def needs(self, recipe: Recipe) -> Sequence[Ability]:
        _section(recipe)
        lost = dict(self.failed)
        return [Ability(BASE), *(stage for stage in swept_stages(recipe) if stage.point not in lost)]

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.llm.asking.ability import choose
        from llmcf_cli.llm.asking.plots import plot_balance
        from llmcf_cli.llm.asking.tables import markdown, mass_alarms

        recipe, section = job.recipe, _section(job.recipe)
        models = [read_measured(stage.variant, job.inputs[stage.role]) for stage in self.needs(recipe)]
        rows = compare(models)
        for row in rows[1:]:
            point = recipe.points[row["name"]]
            row |= {"share": point.share, "amount": point.amount, "recommendation": point.recommendation,
                    "general": point.general}  # fmt: skip
        report = {
            "split": recipe.ability.split, "rows": rows, "tolerance": section.tolerance,
            "chosen": choose(rows, section.tolerance), "own": next(iter(recipe.points)), "failed": dict(self.failed),
            "alarms": mass_alarms(rows, recipe.ability.min_mass),
        }  # fmt: skip
        write_tables(report, markdown(report), job.out)
        plot_balance(report, job.out)
        return report


def swept_stages(recipe: Recipe) -> list[Ability]:
    """The measurement of every point, that of the recipe's own mix first."""
    return [Ability(TUNED, point) for point in recipe.points]


def _section(recipe: Recipe) -> BalanceSection:
    if recipe.balance is None:
        raise LlmcfError(
            "the recipe has no section `balance`",
            code="section-missing",
            where="balance",
            hint="add `balance: {}` to the recipe",
        )
    return recipe.balance
