"""What a task is loaded by: all of it in each epoch, or a mix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from drb.data.datasets import Source
from drb.data.loader import TaskLoader
from drb.data.mixed_loader import MixedLoader
from drb.data.pinned import memory_for
from drb.data.scenarios.task import Task, TaskMix
from drb.training.components import Components
from drb.training.state.resume import loader_seed
from drb.training.stored_rows import Loader


def loader_of(source: Source, task: Task, components: Components) -> Loader:
    """The loader of a task on this rank.

    source: what is trained on, the task's own samples or those of all tasks so far.
    Raises:
        ValueError: a mixed task, and a method that stores exemplars or trains on the data of all tasks; or one whose
            schedule or max_visits does not go with the settings of training.
    """
    world, training = components.world, components.training
    make: Callable[..., Loader] = partial(TaskLoader, source)
    if task.mix is not None:
        _require_mixable(task, task.mix, components)
        make = partial(MixedLoader, source, task.mix, accumulate=training.accumulate)
    return make(
        training.rows_per_rank(world.world_size),
        rank=world.rank,
        world_size=world.world_size,
        seed=loader_seed(components.seed, task.index),
        memory=memory_for(world.device),
    )


def _require_mixable(task: Task, mix: TaskMix, components: Components) -> None:
    training, world_size = components.training, components.world.world_size
    if components.rehearsal is not None or components.method.needs.cumulative:
        raise ValueError(
            f"{task} mixes old samples with new ones itself, from the data and not from a buffer; train it with "
            "strategy=finetune"
        )
    if mix.schedule and training.batch_scope == "rank":
        raise ValueError(
            f"the schedule of {task} counts steps, which must have as many samples on any number of ranks; set "
            "training.batch_scope=total"
        )
    rows_per_step = training.rows_per_rank(world_size) * world_size * training.accumulate
    end = mix.begin(rows_per_step, loader_seed(components.seed, task.index)).timeline.end
    if end is not None and end < training.epochs * mix.epoch:
        raise ValueError(
            f"after {end} samples all sources of {task} have had max_visits, and training.epochs={training.epochs} "
            f"of {mix.epoch} samples want more; train for {end // mix.epoch} epochs, or raise max_visits"
        )
