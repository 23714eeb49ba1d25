"""A trained model that learns on: from later rows and a share of the earlier ones, with a longer vocabulary.

Legend: N samples, V rows of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.features.batch import Catalog, Samples, encode_entities
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.spec import grown_features
from llmcf_cli.rec.bundle.bundle import Bundle
from llmcf_cli.rec.input.base import Input, default_inputs
from llmcf_cli.rec.input.dataset import TaskData, load_task_data
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.measure.base import measured
from llmcf_cli.rec.recommender import Recommender, build
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.rec.train.reports import FitReport
from llmcf_cli.recipe.refresh import FinetuneSection
from llmcf_cli.recipe.sections import FitSection
from llmcf_cli.store.open import connect_read

_FOLDED = "collaborative"
"""Of this input a bundle keeps nothing that was made without an earlier row's own label."""


@dataclass(frozen=True)
class Tuned:
    """A model that has learned on.

    Attributes:
        model: With the weights of the best epoch; those that it began with, if no epoch was better.
        report: How the fit went.
        epoch: The epoch whose weights it has; 0: none.
        before: Validation measures of the weights that it began with.
        after: Those of the weights that it has.
        new: Rows that no model had learned from.
        replayed: Earlier rows among those of an epoch.
        values: Values of features, ids among them, that have an embedding of their own now.
        validation: Validation samples that the epoch was chosen by.
    """

    model: Recommender
    report: FitReport
    epoch: int
    before: dict[str, float]
    after: dict[str, float]
    new: int
    replayed: int
    values: int
    validation: int


def finetuned(
    bundle: Bundle, longer: Recommender, database: Path, since: int, tune: FinetuneSection, section: FitSection, *,
    seed: int, work: Path, progress: Progress = SILENT,
) -> Tuned:  # fmt: skip
    """Train a bundle's model on: from all its weights, on the train rows that it does not know, and some that it does.

    Validation rows decide about the epoch, and whether to learn at all; test rows are not read.

    Args:
        bundle: A trained bundle.
        longer: Its model over the catalogue of the later rows; see `grow.refreshed`.
        database: DuckDB file of an ingest with these rows, and cuts that leave some of them to train.
        since: Train rows from this time on are new to the model, in microseconds since 1970.
        tune: Share of earlier rows, epochs, learning rate.
        section: What else training goes by.
        seed: Initial weights of new values, which earlier rows are drawn, order of samples, dropout.
        work: Folder for checkpoints.
        progress: Where to report.

    Raises:
        DataError: There is no new train row, or what `fit` refuses.
        ModelError: Models of this form do not learn on, or weights do not fit.
    """
    data, new, replayed = _rows(bundle, longer.resources, database, since, tune.replay, seed)
    model = _grown(longer, data.resources, bundle, seed)
    values = model.vocabulary(data.resources.spec) - model.vocabulary(longer.resources.spec)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    truth, measures = data.truth("validation"), data.task.measures
    monitor = data.task.monitor(section.monitor)
    before = measured(measures, predict(model, data, "validation"), truth)
    changes = {"epochs": tune.epochs, "learning_rate": tune.learning_rate}
    report = fit(model, data, section.model_copy(update=changes), seed=seed, work=work, progress=progress)
    gain = monitor.sign * (report.best[monitor.name] - before.get(monitor.name, -np.inf * monitor.sign))
    if gain <= 0:
        model.load_state_dict(start)
    after, epoch = (report.best, report.best_epoch) if gain > 0 else (before, 0)
    return Tuned(model.eval(), report, epoch, before, after, new, replayed, values, len(truth))


def _rows(
    bundle: Bundle, resources: Resources, database: Path, since: int, replay: float, seed: int
) -> tuple[TaskData, int, int]:
    """What the model learns from; how many of the train rows are new to it, and how many are not."""
    data = load_task_data(database, bundle.task, history_length=resources.spec.history_length)
    spec, vocab = grown_features((resources.spec, resources.vocab), (data.resources.spec, data.resources.vocab))
    with connect_read(database) as con:
        tables = [con.sql(f'SELECT * FROM "{e}" ORDER BY {e}_row').to_arrow_table() for e in ENTITIES]
    catalog = Catalog(*(encode_entities(table, e, spec, vocab) for table, e in zip(tables, ENTITIES, strict=True)))
    resources = replace(resources, spec=spec, vocab=vocab, catalog=catalog)
    time_N = data.splits["train"].time_N
    new_N = time_N >= since
    if not new_N.any():
        raise DataError(
            "no train rows are new to the model", code="split-impossible", where="dataset.recut", hint="add more rows"
        )
    share = 0.0 if _FOLDED in resources.held else replay
    drawn_N = np.random.default_rng(derive_seed(seed, "replay")).random(len(time_N)) < share
    kept = np.flatnonzero(new_N | drawn_N)
    splits = {**data.splits, "train": data.splits["train"].take(kept)}
    targets = {**data.targets, "train": data.targets["train"][kept]}
    loaded = _values(bundle, resources, {split: splits[split] for split in ("train", "validation")})
    new = int(new_N.sum())
    return TaskData(resources, data.task, splits, targets, loaded), new, len(kept) - new


def _values(
    bundle: Bundle, resources: Resources, splits: Mapping[str, Samples]
) -> dict[str, dict[str, NDArray[Any]]]:  # fmt: skip
    """Values of the inputs that the model reads, by split: as requests at the samples' times would get them."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    inputs: Mapping[str, Input] = {**default_inputs(bundle.model.reads), **bundle.inputs}
    for name in bundle.model.reads:
        one = inputs[name]
        if one.config.for_losses:  # written for the rows of the first training; the loss passes over others
            found[name] = {"train": np.full(len(splits["train"]), np.nan, np.float32)}
            continue
        answers = one.answers(resources, bundle.clock)
        values = {split: answers(resources, samples) for split, samples in splits.items()}
        found[name] = {split: value for split, value in values.items() if value is not None}
    return found


def _grown(longer: Recommender, resources: Resources, bundle: Bundle, seed: int) -> Recommender:
    """The model over a longer vocabulary: weights of before, and of new values those that they would start with."""
    before, configs = longer.resources.spec, longer.configs
    rows = torch.as_tensor(longer.kept_rows(before, resources.spec))
    model = build(bundle.task.config, resources, configs.backbone, configs.augment, configs.objectives, seed=seed)
    old, state = longer.state_dict(), model.state_dict()
    sizes = longer.vocabulary(before), longer.vocabulary(resources.spec)
    for name, tensor in state.items():
        if (len(old[name]), len(tensor)) == sizes if tensor.ndim else False:
            tensor[rows] = old[name]
        elif old[name].shape == tensor.shape:
            tensor.copy_(old[name])
        else:
            raise ModelError(
                f"{name} changes shape with the longer vocabulary", code="finetune-unsupported", where="refresh",
                hint="llmcf refresh RECIPE --level full",
            )  # fmt: skip
    model.load_state_dict(state)
    return model
