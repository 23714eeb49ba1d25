"""`bundle.json`: what a bundle says of itself, apart from any recipe, whose schema may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmcf_cli import __version__
from llmcf_cli.core.errors import ModelError, UnknownNameError
from llmcf_cli.core.types import Broken, ComponentConfig, Config, rule
from llmcf_cli.plugin import registry
from llmcf_cli.tabular.times import TimeFormat, format_problem, zone_problem


class FileRecord(Config):
    """A file of the bundle."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of its content."""
    bytes: Annotated[int, Field(ge=0)]
    """Size."""


class StoredComponent(Config):
    """Settings of a registered component."""

    settings: dict[str, Any]
    """With `type`, the name that it is registered under."""
    version: Annotated[int, Field(ge=1)] = 1
    """Of what the settings mean; see `ComponentConfig.version`."""
    origin: str = "built-in"
    """Where the component came from: `built-in`, or the plugin that must be installed."""

    @classmethod
    def of(cls, kind: str, config: ComponentConfig) -> StoredComponent:
        """Of some settings."""
        origin = registry().get(kind, config.type).origin
        return cls(settings=config.model_dump(mode="json"), version=config.version, origin=origin)

    def config(self, kind: str) -> Any:
        """The settings, brought up to date.

        Raises:
            ModelError: The component is not installed, or a later version of it made the bundle.
        """
        try:
            component = registry().get(kind, self.settings["type"], where="bundle.json")
        except UnknownNameError as error:
            plugin = "" if self.origin == "built-in" else f": {self.origin:.80}"
            hint = f"install the plugin that provides it{plugin}"
            raise ModelError(
                error.what, code="type-unknown", where="bundle.json", allowed=error.allowed, hint=hint
            ) from error
        cls = component.config()
        if self.version > cls.version:
            what = f"{kind} {component.name} has version {self.version}; this installation reads up to {cls.version}"
            other = "llmcf" if component.origin == "built-in" else self.origin
            raise ModelError(
                what, code="bundle-component", where="bundle.json", hint=f"install a later version of {other:.80}"
            )
        settings: Mapping[str, Any] = self.settings
        if self.version < cls.version:
            settings = cls.upgraded(settings, self.version)
        return cls.model_validate(dict(settings))


class Times(Config):
    """How requests write times; see `tabular.times.TimeFormat`."""

    format: Annotated[str, Field(max_length=200)] | None = None
    """Format of times; None: ISO 8601, and numbers of seconds."""
    zone: Annotated[str, Field(max_length=200)] | None = None
    """Zone of times that name none; None: UTC."""

    @rule("format", "zone")
    def _are_read(self) -> Iterator[Broken]:
        for name, problem in (("format", format_problem), ("zone", zone_problem)):
            value = getattr(self, name)
            found = None if value is None else problem(value)
            if found:
                yield Broken(found, (name,))

    def as_format(self) -> TimeFormat:
        """For the readers of requests."""
        return TimeFormat(self.format, self.zone)


class Manifest(Config):
    """A bundle of this format."""

    FORMAT: ClassVar[int] = 4

    format: Literal[4] = 4
    """Raised when a reader of before could not read the bundle, or would read it wrongly."""
    llmcf: str = __version__
    """Version that wrote it."""
    clock: Literal["global", "per_user"]
    """How times of examples and requests compare."""
    times: Times = Times()
    """How requests write times."""
    task: StoredComponent
    """What is predicted."""
    backbone: StoredComponent
    """The collaborative-filtering model."""
    augment: StoredComponent
    """Where the extra context feature comes from."""
    objectives: Annotated[tuple[StoredComponent, ...], Field(max_length=32)]
    """Losses; they decide which parts the model has."""
    inputs: Annotated[tuple[StoredComponent, ...], Field(max_length=100)] = ()
    """What `augment` reads beside the features of a sample, each after what it is made of, with what serving must know:
    of `examples` space, search, K, balance and guards, of `text` the encoder and the template of a text."""
    features: dict[str, Any]
    """Fields of users and items; see `FeatureSpec`."""
    files: Annotated[dict[str, FileRecord], Field(max_length=1000)]
    """Files of the bundle."""
