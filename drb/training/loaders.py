"""What a task is loaded by: all of it in each epoch, or a mix."""

from __future__ import annotations

from functools import partial

from drb.data.datasets import Source
from drb.data.loader import TaskLoader
from drb.data.mixed_loader import MixedLoader
from drb.data.pinned import memory_for
from drb.data.scenarios.task import Task
from drb.training.components import Components
from drb.training.state.resume import loader_seed
from drb.training.stored_rows import Loader


def loader_of(source: Source, task: Task, components: Components) -> Loader:
    """The loader of a task on this rank.

    source: what is trained on, the task's own samples or those of all tasks so far.
    Raises:
        ValueError: a mixed task, and a method that stores exemplars or trains on the data of all tasks.
    """
    world, seed = components.world, loader_seed(components.seed, task.index)
    make = partial(MixedLoader, source, task.mix) if task.mix else partial(TaskLoader, source)
    if task.mix and (components.rehearsal is not None or components.method.needs.cumulative):
        raise ValueError(
            f"{task} mixes old samples with new ones itself, from the data and not from a buffer; train it with "
            "strategy=finetune"
        )
    return make(
        components.training.rows_per_rank(world.world_size),
        rank=world.rank,
        world_size=world.world_size,
        seed=seed,
        memory=memory_for(world.device),
    )
