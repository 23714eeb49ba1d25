"""A whole recipe: its sections, and its arms, each a recipe of its own."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, SerializeAsAny

from llmcf_cli.core.errors import LlmcfError, closest
from llmcf_cli.core.types import Broken, ComponentConfig, Config, Distinct, Runtime, rule
from llmcf_cli.plugin import STAGE
from llmcf_cli.recipe.asking import AbilitySection, BalanceSection, KnowledgeSection, TeacherSection
from llmcf_cli.recipe.component import ComponentOf
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.points import Point, recommendation_source, sweep_points
from llmcf_cli.recipe.promotion import PromoteSection
from llmcf_cli.recipe.refresh import RefreshSection
from llmcf_cli.recipe.sections import (
    CoTSection,
    LLMSection,
    MatchSection,
    RecSection,
    SearchSection,
    Seed,
    ServeSection,
)

_COMPONENTS = ("rec.augment", "rec.compare", "rec.objectives")
_S = TypeVar("_S", bound=ComponentConfig)
StageSettings = Annotated[SerializeAsAny[ComponentConfig], ComponentOf(STAGE)]


def _named(value: Any) -> Any:
    """Settings of stages with their `type`, which is the key."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: {"type": name, **settings} if isinstance(settings, Mapping) else settings
        for name, settings in value.items()
    }


class Recipe(Config):
    """One run of LLM-CF, from raw data to a served model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)
    """Name of the run: letters, digits, `_`, `.` and `-`, starting with a letter or digit."""
    description: str = ""
    """What the recipe is for, in one sentence."""
    seed: Seed = 2024
    """Seed from which every random choice is derived."""
    dataset: DatasetSection
    """Data set, labels, splits and histories."""
    llm: LLMSection | None = None
    """Language model and tuning mix. Needed if an engine generates with the tuned model, or if `teacher` or `balance`
    is set."""
    cot: CoTSection
    """How chains of thought are generated."""
    match: MatchSection
    """How examples are retrieved."""
    knowledge: KnowledgeSection | None = None
    """Texts about users and items; required by the augmenter `kar`."""
    teacher: TeacherSection | None = None
    """The language model's answers to learn from; required by the objective `distill`."""
    ability: AbilitySection = AbilitySection()
    """Evaluation of the language model: how well it recommends, and its general ability."""
    balance: BalanceSection | None = None
    """Sweep over the share and amount of recommendation data in the tuning mix."""
    rec: RecSection
    """Recommender and comparison."""
    serve: ServeSection = ServeSection()
    """Which model is served, and what its bundle contains."""
    refresh: RefreshSection | None = None
    """Which trained model to bring up to date, and how. If not set, every model is trained from scratch."""
    promote: PromoteSection | None = None
    """When a new bundle replaces the one that is served."""
    tracking: Annotated[tuple[Literal["tensorboard", "mlflow", "wandb"], ...], Runtime(), Distinct()] = ()
    """Trackers that record the measures of each training as it runs, in files under `tracking/` in the artifact
    folder."""
    search: SearchSection | None = None
    """Fair tuning of every arm. If not set, all arms train with the recipe's own settings."""
    stages: Annotated[Mapping[str, StageSettings], BeforeValidator(_named)] = Field(default_factory=dict)
    """Settings of stages that plugins add: stage name → settings."""

    @rule("stages")
    def _settings_are_of_their_stage(self) -> Iterator[Broken]:
        for name, settings in self.stages.items():
            if settings.type != name:
                yield Broken(f"is set by the stage `{settings.type}`; leave `type` out", ("stages", name, "type"))

    @rule(*_COMPONENTS, "knowledge")
    def _knowledge_is_there(self) -> Iterator[Broken]:
        yield from self._without_section("knowledge")

    @rule(*_COMPONENTS, "teacher")
    def _teacher_is_there(self) -> Iterator[Broken]:
        yield from self._without_section("teacher")

    @rule("rec.task", "rec.augment", "rec.compare", "rec.variants", "match.query")
    def _examples_are_found_without_the_target(self) -> Iterator[Broken]:
        readers = [config for _, config in self.rec.augmenters() if "examples" in config.needs]
        if readers and self.rec.task.form == "user" and self.match.query != "history":
            what = f"the task `{self.rec.task.type}` has no target to find the examples of `{readers[0].type}` by"
            yield Broken(f"{what}; set match.query: history", ("match", "query"), ("history",))

    @rule("llm", "cot.engine", "knowledge", "teacher", "balance")
    def _language_model_is_there(self) -> Iterator[Broken]:
        if self.llm is not None:
            return
        engines: list[tuple[tuple[str, ...], ComponentConfig]] = [(("cot", "engine"), self.cot.engine)]
        engines += [(("knowledge", "engine"), self.knowledge.engine)] if self.knowledge is not None else []
        readers = [(at, f"the engine `{engine.type}`") for at, engine in engines if "model" in engine.needs]
        readers += [((section,), f"`{section}`") for section in ("teacher", "balance") if getattr(self, section)]
        for at, reader in readers:
            yield Broken(f"{reader} needs the section `llm`, but the recipe has none", at)

    @rule("knowledge")
    def _knowledge_is_asked_for(self) -> Iterator[Broken]:
        section = self.knowledge
        if section is None:
            return
        if "data" not in section.engine.needs:
            for name in ("user_prompt", "item_prompt"):
                if getattr(section, name) is None:
                    yield Broken(f"the engine `{section.engine.type}` needs a prompt", ("knowledge", name))
        elif not getattr(section.engine, "describes", False):
            what = f"`{section.engine.type}` cannot write about single users and items"
            yield Broken(what, ("knowledge", "engine"))

    @rule("rec.augment", "rec.compare", "rec.variants", "rec.baselines")
    def _arms_have_names_of_their_own(self) -> Iterator[Broken]:
        taken = set(self._augmented())
        for name, at in self._named_arms():
            if name in taken:
                yield Broken(f"two arms of the comparison are named {name!r}", at)
            taken.add(name)

    @rule("rec.augment", "rec.compare", "rec.variants", "rec.baselines", "rec.references")
    def _references_are_arms(self) -> Iterator[Broken]:
        names = [*self._augmented(), *(name for name, _ in self._named_arms())]
        known = {*names, *type(self.rec).model_fields["references"].get_default()}
        for place, name in enumerate(self.rec.references):
            if name not in known and len(names) > 1:
                near = closest(name, names)
                what = f"{name!r} is not an arm of the comparison" + (f"; did you mean {near!r}?" if near else "")
                yield Broken(what, ("rec", "references", place), tuple(names))

    @rule("rec.augment", "rec.compare", "rec.variants")
    def _controls_are_of_arms(self) -> Iterator[Broken]:
        names = [*self._augmented(), *(variant.name for variant in self.rec.variants)]
        for place, variant in enumerate(self.rec.variants):
            allowed = tuple(name for name in names if name != variant.name)
            if variant.control_of is not None and variant.control_of not in allowed:
                near = closest(variant.control_of, allowed)
                what = f"{variant.control_of!r} is not another arm" + (f"; did you mean {near!r}?" if near else "")
                yield Broken(what, ("rec", "variants", place, "control_of"), allowed)

    @rule("serve.arm", "rec.augment", "rec.compare", "rec.variants")
    def _served_is_an_arm(self) -> Iterator[Broken]:
        names = [*self._augmented(), *(variant.name for variant in self.rec.variants)]
        if self.serve.arm is not None and self.serve.arm not in names:
            near = closest(self.serve.arm, names)
            what = f"{self.serve.arm!r} is not an arm that can be served" + (
                f"; did you mean {near!r}?" if near else ""
            )
            yield Broken(what, ("serve", "arm"), tuple(names))

    @rule("refresh", "rec.augment", "rec.compare", "rec.variants", "rec.seeds", "seed", "dataset.added",
          "dataset.recut")  # fmt: skip
    def _refreshed_is_trained(self) -> Iterator[Broken]:
        if self.refresh is None or self.refresh.arm is None:
            return
        names = [*self._augmented(), *(variant.name for variant in self.rec.variants)]
        if self.refresh.arm not in names:
            near = closest(self.refresh.arm, names)
            what = f"{self.refresh.arm!r} is not a trained arm" + (f"; did you mean {near!r}?" if near else "")
            yield Broken(what, ("refresh", "arm"), tuple(names))
        if self.refresh.seed not in self.seeds:
            yield Broken(
                f"no arm is trained with seed {self.refresh.seed}", ("refresh", "seed"), tuple(map(str, self.seeds))
            )
        known, added, learns = self.refresh.learned[-1], len(self.dataset.added), self.refresh.level != "items"
        if known.additions >= added + learns:
            what = f"none of {added} additions is new to a model that knows {known.additions}"
            yield Broken(what, ("refresh", "learned"))
        if known.recut != self.dataset.recut:
            yield Broken("differs from the last cuts of the model (refresh.learned)", ("dataset", "recut"))

    @rule("promote", "rec.task")
    def _promotion_goes_by_measures_of_the_task(self) -> Iterator[Broken]:
        known = self.rec.task.monitors
        for name in self.promote.measures if self.promote is not None else ():
            if name not in known:
                near = closest(name, known)
                what = f"{name!r} is not a measure of the task" + (f"; did you mean {near!r}?" if near else "")
                yield Broken(what, ("promote", "measures", name), known)

    @rule("balance", "llm.mix", "llm.count")
    def _balance_can_be_swept(self) -> Iterator[Broken]:
        if self.balance is not None and self.llm is not None:
            try:
                sweep_points(self.balance, self.llm)
            except ValueError as error:
                yield Broken(str(error), ("balance",))

    @rule("balance", "ability.split")
    def _balance_chooses_by_validation(self) -> Iterator[Broken]:
        if self.balance is not None and self.ability.split == "test":
            what = "balance must not choose by the test split; set ability.split: validation"
            yield Broken(what, ("ability", "split"))

    @property
    def language_model(self) -> LLMSection:
        """The section `llm`, for those who cannot do without.

        Raises:
            LlmcfError: There is none.
        """
        if self.llm is None:
            raise LlmcfError(
                "the recipe has no section `llm`, so no language model", code="llm-missing", where=self.name,
                hint="add the section (see llm in docs/recipe-reference.md), or use a recipe that has one",
            )  # fmt: skip
        return self.llm

    @cached_property
    def points(self) -> dict[str, Point]:
        """Name → point of the sweep `balance`, that of the recipe's own mix first; none without the section."""
        return sweep_points(self.balance, self.language_model) if self.balance is not None else {}

    def at(self, point: str) -> "Recipe":
        """The recipe whose mix is that of a point of the sweep.

        Raises:
            KeyError: There is no such point.
        """
        found = self.points[point]
        changes = {"llm.mix": found.mix, "llm.count": found.count, "balance": None}
        question = self.ability.question or recommendation_source(self.language_model)
        if question is not None:  # the mix of a point may have none, and is asked the same
            changes["ability.question"] = question.model_dump(mode="json")
        return self.with_changes(changes)

    @cached_property
    def arms(self) -> dict[str, "Recipe"]:
        """Name → the recipe of that arm alone: `rec.compare` in order, or `rec.augment` where there is
        none, then `rec.variants`.

        Raises:
            ValidationError: A variant sets what the schema does not allow (`load_recipe` checks this first).
        """
        alone: dict[str, Any] = {"rec.compare": [], "rec.variants": [], "rec.baselines": [], "serve.arm": None,
                                 "refresh": None}  # fmt: skip
        arms = {
            name: self.with_changes({"rec.augment": config.model_dump(mode="json"), **alone})
            for name, config in self._augmented().items()
        }
        return arms | {v.name: self.with_changes({**v.set, **alone}) for v in self.rec.variants}

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run per arm and seed."""
        return self.rec.seeds or (self.seed,)

    def with_changes(self, changes: Mapping[str, Any]) -> "Recipe":
        """The recipe with other values at some key paths; mappings of one `type` merge, everything else is replaced.

        Raises:
            ValidationError: The result is no valid recipe.
        """
        data = self.model_dump(mode="json")
        for path, value in changes.items():
            _put(data, path.split("."), value)
        return Recipe.model_validate(data)

    def stage_settings(self, stage: str, settings: type[_S]) -> _S:
        """What the recipe sets for a stage of a plugin, of its class; the defaults where it sets nothing.

        Raises:
            TypeError: The stage is registered with another class.
        """
        found = self.stages.get(stage) or settings.model_validate({})
        if not isinstance(found, settings):
            raise TypeError(f"stage {stage} is registered with {type(found).__name__}, not with {settings.__name__}")
        return found

    def try_value(self, path: str, value: Any) -> None:
        """Check a value at a key path within `rec.fit`, `rec.backbone` or `rec.augment` by the rules of that part.

        Raises:
            ValidationError: It cannot stand there.
        """
        outer, name, *rest = path.split(".")
        part = getattr(getattr(self, outer), name)
        data = part.model_dump(mode="json")
        _put(data, rest, value)
        type(part).model_validate(data)

    def value_at(self, path: str) -> Any:
        """The value at a key path; None where the components have no such setting."""
        found: Any = self
        for step in path.split("."):
            found = getattr(found, step, None)
        return found

    def _without_section(self, section: str) -> Iterator[Broken]:
        """The arms and objectives that need a section which is not there."""
        if getattr(self, section) is not None:
            return
        places: list[tuple[tuple[str | int, ...], ComponentConfig]]
        places = [(("rec", *at), config) for at, config in self.rec.augmenters()]
        places += [(("rec", "objectives", place), config) for place, config in enumerate(self.rec.objectives)]
        for at, config in places:
            if section in config.needs:
                yield Broken(
                    f"`{config.type}` needs the section `{section}`, but the recipe has none; see {section} in "
                    "docs/recipe-reference.md",
                    at,
                )

    def _named_arms(self) -> list[tuple[str, tuple[str | int, ...]]]:
        """(name, where it is written) of the variants and the baselines."""
        variants = [(v.name, ("rec", "variants", place, "name")) for place, v in enumerate(self.rec.variants)]
        return [*variants, *((b.type, ("rec", "baselines", place)) for place, b in enumerate(self.rec.baselines))]

    def _augmented(self) -> dict[str, ComponentConfig]:
        return {arm_name(config): config for config in self.rec.compare or (self.rec.augment,)}


def arm_name(augment: ComponentConfig) -> str:
    """The augmenter's type, followed by the settings that differ from its defaults."""
    changed = augment.model_dump(exclude_defaults=True, exclude={"type"})
    shown = {name: "+".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in changed.items()}
    return " ".join([augment.type, *(f"{name}={value}" for name, value in shown.items())])


def _put(data: Any, path: list[str], value: Any) -> None:
    """Set `value` at `path` in place, making mappings on the way; list entries are numbers."""
    key: Any = int(path[0]) if isinstance(data, list) else path[0]
    if len(path) > 1:
        if isinstance(data, dict) and not isinstance(data.get(key), dict | list):
            data[key] = {} if data.get(key) is None else {"type": data[key]}
        _put(data[key], path[1:], value)
        return
    found = data[key] if isinstance(data, list) or key in data else None
    if (
        isinstance(found, dict)
        and isinstance(value, Mapping)
        and value.get("type", found.get("type")) == found.get("type")
    ):
        for name, below in value.items():
            _put(found, [name], below)
    else:
        data[key] = value
