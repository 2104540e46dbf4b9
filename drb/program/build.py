"""The parts of a run from its configuration: network, preprocessing, rehearsal, and the trainer that has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drb.checkpoint import Saver
from drb.data.cache import open_prefilled
from drb.data.datasets import Dataset, Source, erased_rows
from drb.data.scenarios import build_scenario
from drb.data.scenarios.check import check_stream
from drb.distributed.world import World
from drb.program.config import TrainConfig
from drb.program.config.checks import check_fields
from drb.program.config.rehearsal import exemplars_per_rank, image_codec, rehearsal_settings
from drb.program.config.variants import build_method, build_variant
from drb.program.outputs import outputs_of
from drb.rehearsal.rehearsal import Rehearsal
from drb.seeding import derive_seed
from drb.training import Monitor, Trainer
from drb.training.augment import Preprocess
from drb.training.method.method import Method
from drb.training.models import Network, build_model
from drb.training.objectives.objective import Objective
from drb.types import Minibatch


def build_trainer(
    config: TrainConfig,
    world: World,
    dataset: Dataset,
    monitor: Monitor,
    saver: Saver | None,
    on_step: Callable[[], None] | None,
    stack: ExitStack,
) -> tuple[Trainer, Rehearsal | None]:
    strategy, terms, objective = build_method(config.strategy, config.terms, config.objective)
    method, rehearsal, num_exemplars = Method(strategy, terms), None, None
    scenario = build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)
    check_stream(scenario, world.world_size)
    one = _one_of(next(iter(scenario)).train)
    check_fields(config, method, one.keys())
    if method.draws.total:
        spec, codec = None, image_codec(config.rehearsal)
        if method.needs.late or codec is not None:
            spec = method.needs.record_of(one, max_outputs=objective.max_columns(one, dataset.num_classes))
            if codec is not None:
                name = getattr(config.objective, "input", "image")
                spec[name] = dataclasses.replace(spec[name], codec=codec)
        rehearsal = stack.enter_context(build_rehearsal(config, world, dataset, method, spec))
        if method.needs.candidates is not None:
            per_rank = exemplars_per_rank(config.rehearsal, config.training, world.world_size)
            num_exemplars = per_rank if isinstance(per_rank, int) else None
    trainer = Trainer(
        scenario,
        partial(build_network, config, dataset),
        build_preprocess(config, dataset),
        strategy,
        terms=terms,
        objective=objective,
        world=world,
        training=config.training,
        optimizer=build_variant("optimizer", config.optimizer),
        schedule=build_variant("schedule", config.schedule),
        rehearsal=rehearsal,
        num_exemplars=num_exemplars,
        monitor=monitor,
        saver=saver,
        on_step=on_step,
        num_outputs=_num_outputs(config, dataset, objective),
        allow_duplicates=config.rehearsal.allow_duplicates,
        timeout_s=config.timeout_s,
        seed=config.seed,
    )
    return trainer, rehearsal


def _one_of(source: Source) -> Minibatch:
    """Any one sample that was not erased, as a minibatch."""
    erased = erased_rows(source)
    return source.gather(np.array([0 if erased is None else int(np.argmin(erased))]))


def build_network(config: TrainConfig, dataset: Dataset, num_classes: int, task_index: int) -> Network:
    seed = derive_seed(config.seed, "weights", task_index)
    model = build_variant("model", config.model)
    init = config.model.init
    outputs = None if init in ("random", "torchvision") else outputs_of(config, dataset)
    return build_model(model, dataset.image_shape, num_classes, seed=seed, init=init, outputs=outputs)


def build_preprocess(config: TrainConfig, dataset: Dataset) -> Preprocess:
    mean, std = normalisation(config, dataset)
    settings = config.augmentation
    if (settings.flip or settings.crop_padding) and len(dataset.image_shape) != 3:
        raise ValueError(
            f"augmentation.flip and augmentation.crop_padding are for images [C, H, W], and the samples of "
            f"dataset={config.dataset.name} have the shape {list(dataset.image_shape)}; write augmentation=none"
        )
    return Preprocess(mean=mean, std=std, crop_padding=settings.crop_padding, flip=settings.flip)


def normalisation(config: TrainConfig, dataset: Dataset) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and the deviation of each channel that samples (divided by 255 if they are uint8) are normalised by."""
    channels = len(dataset.mean)
    return (dataset.mean, dataset.std) if config.augmentation.normalise else ([0.0] * channels, [1.0] * channels)


def _num_outputs(config: TrainConfig, dataset: Dataset, objective: Objective) -> int | None:
    """The size of the head from the start; None lets it grow as classes appear, all of which the stream then shows.

    Raises:
        ValueError: prefilled samples whose classes are numbered otherwise.
    """
    if objective.class_field is None:
        return None
    folder = config.rehearsal.prefilled
    if folder is None:
        return dataset.num_classes if config.model.head == "fixed" else None
    prefilled = open_prefilled(Path(folder).expanduser())
    theirs, ours = prefilled.identity.classes, dataset.identity.classes
    if bool(theirs) != bool(ours):
        named, numbered = (
            (f"rehearsal.prefilled={folder}", "the data") if theirs else ("the data", f"rehearsal.prefilled={folder}")
        )
        raise ValueError(
            f"{named} has names of classes and {numbered} has numbers, so whether they mean the same cannot be told; "
            "fill a folder from data that knows its classes alike"
        )
    if any(one != other for one, other in zip(theirs, ours, strict=False)):
        raise ValueError(
            f"rehearsal.prefilled={folder} numbers its classes {', '.join(theirs[:5])}, …, and the data "
            f"{', '.join(ours[:5])}, …; fill a folder from data with the same classes"
        )
    return max(dataset.num_classes, prefilled.num_classes)


def build_rehearsal(
    config: TrainConfig, world: World, dataset: Dataset, method: Method | None = None, spec: Any = None
) -> Rehearsal:
    """The rehearsal of a method: as configured, with as many draws and candidates as its parts need.

    spec: the record's schema, for methods with late fields.
    """
    settings = rehearsal_settings(
        config.rehearsal, config.training, config.seed, world.world_size, num_samples=len(dataset.train)
    )
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    values["data"] = dataset.identity.fingerprint
    if method is not None:
        values["draws"] = method.draws.total
        values["importance"] = method.needs.importance
        if method.needs.candidates is not None:
            values["exemplars"] = method.needs.candidates
    return Rehearsal(**values, spec=spec, device=world.device if world.device.type == "cuda" else None)
