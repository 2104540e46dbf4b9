"""What a configuration must satisfy before anything is started: the limits of each setting, and what settings mean
together.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from drb.checkpoint import check_signals
from drb.options import check_settings
from drb.program.config.rehearsal import rehearsal_settings
from drb.program.config.schema import TrainConfig
from drb.program.config.variants import GROUPS, build_method, build_variant
from drb.training.method.method import Method


def check_config(config: TrainConfig, world_size: int) -> None:
    """Check the whole configuration.

    Raises:
        ValueError: one line naming a setting, its value and what is allowed.
    """
    check_settings(config)
    _check_choices(config)
    check_signals(config.checkpoint.signals)
    if config.checkpoint.key_file is not None and getattr(config.dataset, "cache", "never") == "always":
        raise ValueError(
            "checkpoint.key_file encrypts samples, but dataset.cache=always writes the decoded images unencrypted to "
            "disk; set dataset.cache=never"
        )
    config.training.rows_per_rank(world_size)
    config.strata.check()
    _check_device(config)
    if config.model.init not in ("random", "torchvision") and not Path(config.model.init).exists():
        raise ValueError(
            "model.init must be random, torchvision or a path (a file of weights, a run, a checkpoint), got "
            f"{config.model.init!r}"
        )
    strategy, terms, _ = build_method(config.strategy, config.terms, config.objective)
    smoothing = getattr(config.objective, "label_smoothing", 0.0)
    if build_variant("scenario", config.scenario).task_aware and smoothing > 0:
        raise ValueError(
            f"objective.label_smoothing must be 0 with scenario={config.scenario.name}, got {smoothing}: it would move "
            "weight to classes outside the task"
        )
    method = Method(strategy, terms)
    if method.draws.total:
        _check_rehearsal(config, world_size)
    if (fields := build_variant("dataset", config.dataset).fields) is not None:
        check_fields(config, method, fields)


def check_fields(config: TrainConfig, method: Method, fields: Collection[str]) -> None:
    """Check that samples have what the objective takes and what decides on exemplars.

    Args:
        fields: what each sample of the data set has.
    Raises:
        ValueError: naming the setting and the field that is not there.
    """
    task = {"task"} if build_variant("scenario", config.scenario).task_aware else set()
    there = {"sample_id", *fields, *task, *config.strata.fields}
    named = [(f"objective.{name}", getattr(config.objective, name, None), there) for name in ("input", "target")]
    if method.draws.total:
        settings = rehearsal_settings(config.rehearsal, config.training, config.seed, 1, num_samples=1)
        late = there | set(method.needs.late)
        named.append(("rehearsal.stratum", config.rehearsal.stratum, late))
        named += [
            (f"rehearsal.admission={config.rehearsal.admission} reads", name, late) for name in settings.policy.reads
        ]
    for setting, name, known in named:
        if isinstance(name, str) and name not in known:
            raise ValueError(
                f"{setting}{' ' if ' reads' in setting else '='}{name}: there is no such field, the samples of "
                f"dataset={config.dataset.name} have {', '.join(sorted(known))}"
            )


def _check_accuracies(config: TrainConfig) -> None:
    """Check that there are accuracies on held-out samples, by which the proportions choose tasks."""
    chosen = f"rehearsal.proportions={config.rehearsal.proportions}"
    if build_variant("scenario", config.scenario).validation == 0:
        raise ValueError(
            f"{chosen} chooses by accuracies on held-out samples: hold some out, such as by scenario.validation=0.15"
        )
    metric = build_variant("objective", config.objective).metrics[0]
    if not metric.higher_is_better or metric.bounds != (0.0, 1.0):
        raise ValueError(
            f"{chosen} chooses by accuracies, and objective={config.objective.name} has none: its metric is "
            f"{metric.name}"
        )


def _check_device(config: TrainConfig) -> None:
    if _has_cuda(config):
        return
    for name, value, needs_cuda in (
        ("training.precision", config.training.precision, config.training.precision == "fp16"),
        ("training.sync_bn", "true", config.training.sync_bn),
    ):
        if needs_cuda:
            raise ValueError(f"{name}={value} needs CUDA, and this run is on the CPU; leave it at its default")


def _has_cuda(config: TrainConfig) -> bool:
    return config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())


def _check_choices(config: TrainConfig) -> None:
    for group in GROUPS:
        section = getattr(config, group)
        if section.name != type(section).name:
            raise ValueError(f"{group}.name={section.name} does not choose the {group}: write {group}={section.name}")
        build_variant(group, section)


def _check_rehearsal(config: TrainConfig, world_size: int) -> None:
    rehearsal, name = config.rehearsal, config.strategy.name
    if isinstance(rehearsal.exemplars, int) and rehearsal.exemplars < 1:
        raise ValueError(
            f"rehearsal.exemplars must be at least 1 for strategy={name}, got {rehearsal.exemplars}; strategy=finetune "
            "trains without"
        )
    settings = rehearsal_settings(rehearsal, config.training, config.seed, world_size, num_samples=1)
    if settings.shares.needs_accuracies:
        _check_accuracies(config)
    if isinstance(rehearsal.capacity, int):
        total = rehearsal.capacity * (1 if rehearsal.capacity_scope == "total" else world_size)
        if rehearsal.min_fill > total:
            raise ValueError(
                f"rehearsal.min_fill must be at most the total capacity, {total}, got {rehearsal.min_fill}: nothing "
                "would ever be rehearsed"
            )
    transport = settings.transport
    if transport is not None and transport.one_rank and world_size > 1:
        raise ValueError(
            f"rehearsal.exchange={rehearsal.exchange} is for one rank, but this run has {world_size}; choose auto or "
            "an exchange between ranks"
        )
    if transport is not None and transport.from_gpu_to_gpu and not _has_cuda(config):
        raise ValueError(
            f"rehearsal.exchange={rehearsal.exchange} needs CUDA, and this run is on the CPU; leave it at its default"
        )
