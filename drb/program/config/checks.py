"""What a configuration must satisfy before anything is started: the limits of each setting, and what settings mean
together.
"""

from __future__ import annotations

from pathlib import Path

import torch

from drb.buffer.admission import MaxAge
from drb.buffer.capacity import bytes_in, check_capacity
from drb.checkpoint import check_signals
from drb.options import check_settings
from drb.program.config.schema import CHOICES, CachedDatasetConfig, TrainConfig
from drb.rehearsal.settings import auto_limit, check_ahead, check_auto
from drb.training import split_evenly
from drb.training.schedule import check_schedule
from drb.training.strategies import STRATEGIES


def check_config(config: TrainConfig, world_size: int) -> None:
    """Raises:
    ValueError: one line naming a setting, its value and what is allowed.
    """
    check_settings(config)
    _check_choices(config)
    check_schedule(config.schedule)
    check_signals(config.checkpoint.signals)
    config.training.rows_per_rank(world_size)
    _check_device(config)
    if isinstance(config.dataset, CachedDatasetConfig) and bytes_in(config.dataset.cache_limit) is None:
        raise ValueError(f"dataset.cache_limit must be an amount such as 20GiB, got {config.dataset.cache_limit!r}")
    if config.model.init not in ("random", "torchvision") and not Path(config.model.init).exists():
        raise ValueError(f"model.init must be random, torchvision or an existing file, got {config.model.init!r}")
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise ValueError("optimizer.nesterov=true needs optimizer.momentum above 0, got 0.0")
    if config.scenario.name == "task_incremental" and config.strategy.label_smoothing > 0:
        raise ValueError(
            "strategy.label_smoothing must be 0 with scenario=task_incremental, "
            f"got {config.strategy.label_smoothing}: it would move weight to classes outside the task"
        )
    if STRATEGIES.build(config.strategy.name).needs().exemplars != "none":
        _check_rehearsal(config, world_size)


def _check_device(config: TrainConfig) -> None:
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        return
    for name, value, needs_cuda in (
        ("training.precision", config.training.precision, config.training.precision == "fp16"),
        ("training.sync_bn", "true", config.training.sync_bn),
        ("rehearsal.exchange", config.rehearsal.exchange, config.rehearsal.exchange == "nccl"),
    ):
        if needs_cuda:
            raise ValueError(f"{name}={value} needs CUDA, and this run is on the CPU; leave it at its default")


def _check_choices(config: TrainConfig) -> None:
    for group, choices in CHOICES.items():
        section = getattr(config, group)
        if choices.get(section.name) is not type(section):
            raise ValueError(f"{group}.name={section.name} does not choose the {group}: write {group}={section.name}")


def exemplars_per_rank(config: TrainConfig, world_size: int) -> int | str:
    """r: exemplars that each rank draws per step; "auto:N" if that is to be found out, N at most a minibatch's rows.

    Raises:
        ValueError: a total that does not divide by the ranks.
    """
    exemplars, is_total = config.rehearsal.exemplars, config.rehearsal.exemplars_scope == "total"
    if isinstance(exemplars, int):
        return split_evenly("rehearsal.exemplars", exemplars, world_size) if is_total else exemplars
    limit = auto_limit(exemplars)
    if limit is None:
        return f"auto:{config.training.rows_per_rank(world_size)}"
    return f"auto:{split_evenly('rehearsal.exemplars', limit, world_size) if is_total else limit}"


def _check_rehearsal(config: TrainConfig, world_size: int) -> None:
    rehearsal, name = config.rehearsal, config.strategy.name
    if isinstance(rehearsal.exemplars, int) and rehearsal.exemplars < 1:
        raise ValueError(
            f"rehearsal.exemplars must be at least 1 for strategy={name}, got {rehearsal.exemplars}; strategy=finetune "
            "trains without"
        )
    try:
        exemplars = exemplars_per_rank(config, world_size)
        if isinstance(exemplars, str):
            check_auto(exemplars, rehearsal.asynchronous)
        check_ahead(rehearsal.depth, rehearsal.interval, exemplars=exemplars, exchange=rehearsal.exchange)
        check_capacity(rehearsal.capacity)
        if rehearsal.max_age is not None:
            MaxAge.parse(rehearsal.max_age)
    except ValueError as error:
        raise ValueError(f"rehearsal.{str(error).removeprefix('rehearsal.')}") from None
    if isinstance(rehearsal.capacity, int):
        total = rehearsal.capacity * (1 if rehearsal.capacity_scope == "total" else world_size)
        if rehearsal.min_fill > total:
            raise ValueError(
                f"rehearsal.min_fill must be at most the total capacity, {total}, got {rehearsal.min_fill}: nothing "
                "would ever be rehearsed"
            )
    if rehearsal.candidates is not None and rehearsal.admission != "random_replacement":
        raise ValueError(
            f"rehearsal.candidates={rehearsal.candidates} is only for rehearsal.admission=random_replacement, "
            f"got admission={rehearsal.admission}"
        )
    if rehearsal.exchange == "loopback" and world_size > 1:
        raise ValueError(
            f"rehearsal.exchange=loopback is for one rank, but this run has {world_size}; "
            "choose auto, collective, shared, hierarchical, rma or nccl"
        )
