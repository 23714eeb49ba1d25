"""`balance`: the sweep over share and amount of recommendation data, and the point that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.asking import BalanceSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import ComparingStage, Job, Stage
from llmcf_cli.stages.engine.report import to_json
from llmcf_cli.stages.steps.ability import BASE, TUNED, Ability, TablesOutput, compare, read_measured, write_tables
from llmcf_cli.store.layout import File


class BalanceOutput(TablesOutput):
    """The points of the sweep side by side."""

    picture = File("balance.png", "recommendation against general ability", optional=True)
    plot = File("balance.html", "the same to look into", optional=True)


@dataclass(frozen=True)
class BalanceReport:
    """The sweep; also what `ability.json` holds.

    Attributes:
        split: Of the recommendation samples.
        rows: Per model, base first: as for `eval-llm`, and of a point its `share`, `amount` and samples.
        tolerance: Standard errors by which general ability may fall.
        chosen: The point that is chosen; None where there is none.
        own: The point of the recipe's own mix.
        failed: Point → why it could not be measured.
        alarms: What makes the measures doubtful.
    """

    split: str
    rows: list[dict[str, Any]]
    tolerance: float
    chosen: str | None
    own: str
    failed: dict[str, str]
    alarms: list[str]


@dataclass(frozen=True)
class Balance(ComparingStage):
    """Compares the base model and the model of every point of the sweep."""

    name = "balance"
    version = 2
    report = BalanceReport
    output = BalanceOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"balance": _section(recipe), "points": list(recipe.points), "failed": dict(self.failed)}

    def needs(self, recipe: Recipe) -> Sequence[Ability]:
        _section(recipe)
        lost = dict(self.failed)
        return [Ability(BASE), *(stage for stage in swept_stages(recipe) if stage.point not in lost)]

    def compared(self, recipe: Recipe) -> Sequence[tuple[str, Stage]]:
        return [(stage.point, stage) for stage in swept_stages(recipe)]

    def run(self, job: Job) -> BalanceReport:
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
        report = BalanceReport(
            split=recipe.ability.split, rows=rows, tolerance=section.tolerance, chosen=choose(rows, section.tolerance),
            own=next(iter(recipe.points)), failed=dict(self.failed),
            alarms=mass_alarms(rows, recipe.ability.min_mass),
        )  # fmt: skip
        plain = to_json(report)
        write_tables(plain, markdown(plain), job.out)
        plot_balance(plain, job.out)
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
