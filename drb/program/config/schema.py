"""Everything that a run can be told, as typed dataclasses with limits: what Hydra's configs are checked against.

One dataclass per choice of a group, with exactly the options of what it configures (a test compares them). The
settings of trainer, optimizer and schedule are declared where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from drb.checkpoint import CheckpointSettings
from drb.options import limits, setting
from drb.training import OptimizerSettings, ScheduleSettings, TrainingSettings
from drb.training.strategies import STRATEGIES


@dataclass
class DatasetConfig:
    """root: where files are looked for and downloaded to."""

    name: str = MISSING
    root: str = "data"


@dataclass
class DigitsConfig(DatasetConfig):
    seed: int = setting(0, at_least=0)  # of the test split: the same whatever the run's seed
    test_fraction: float = setting(0.2, above=0, below=1)


@dataclass
class CachedDatasetConfig(DatasetConfig):
    """Decoded images are kept in a file that all ranks of a node map; see docs/loader.md.

    cache:       auto (if they take at most cache_limit and half of the free space), always or never
    cache_dir:   null takes drb-cache in root, or in the temporary folder if root cannot be written
    cache_limit: bytes, such as 20GiB
    """

    cache: str = setting("auto", one_of=("auto", "always", "never"))
    cache_dir: str | None = None
    cache_limit: str = "20GiB"


@dataclass
class ImageFolderConfig(CachedDatasetConfig):
    """
    upright: turn images as their EXIF orientation says
    source:  the collection's name, a part of every sample id; another one for another collection
    renamed: {old: new} names of class folders of a run that goes on: {dog: hound}, or {dog: ''} if the class is gone
    workers: decoding processes of each rank, at most one per core that it may use
    """

    image_size: int = setting(224, at_least=1)
    resize: int | None = setting(None, at_least=1)
    upright: bool = True
    source: str = "image_folder"
    renamed: dict[str, str] = field(default_factory=dict)
    workers: int = setting(8, at_least=1)


@dataclass
class SyntheticConfig(CachedDatasetConfig):
    image_shape: list[int] = field(default_factory=lambda: [3, 32, 32], metadata=limits(at_least=1))
    num_classes: int = setting(10, at_least=1)
    num_train: int = setting(10_000, at_least=1)
    num_test: int = setting(1_000, at_least=1)
    seed: int = setting(0, at_least=0)


@dataclass
class ScenarioConfig:
    """validation: share of each task's training samples that is held out and evaluated, too."""

    name: str = MISSING
    validation: float = setting(0.0, at_least=0, below=1)


@dataclass
class ClassIncrementalConfig(ScenarioConfig):
    classes_per_task: int | None = setting(None, at_least=1)
    num_tasks: int | None = setting(None, at_least=1)
    class_order: str = setting("natural", one_of=("natural", "shuffled"))


@dataclass
class DomainIncrementalConfig(ScenarioConfig):
    transform: str = setting("permuted", one_of=("permuted", "rotated"))
    num_tasks: int | None = setting(5, at_least=1)
    max_angle: float = setting(180.0, above=0, at_most=360)


@dataclass
class InstanceIncrementalConfig(ScenarioConfig):
    num_tasks: int = setting(5, at_least=1)


@dataclass
class ModelConfig:
    """
    init: random, torchvision (its pretrained weights, where the model has some) or the path of a saved state.
    head: grows (an output per class seen so far) or fixed (all the dataset's classes from the start).
    """

    name: str = MISSING
    init: str = "random"
    head: str = setting("grows", one_of=("grows", "fixed"))


@dataclass
class MlpConfig(ModelConfig):
    hidden: list[int] = field(default_factory=lambda: [100, 100], metadata=limits(at_least=1))


@dataclass
class CnnConfig(ModelConfig):
    width: int = setting(32, at_least=1)
    hidden: int = setting(128, at_least=1)


@dataclass
class StrategyConfig:
    name: str = setting("er", one_of=tuple(STRATEGIES))
    label_smoothing: float = setting(0.0, at_least=0, below=1)


@dataclass
class RehearsalConfig:
    """The rehearsal buffers; see `drb.Rehearsal`. Used by strategies that rehearse.

    capacity:         exemplars (500), bytes ("20GiB") or a share of the training data ("30%")
    capacity_scope:   whether capacity is each rank's or that of all ranks together
    max_age:          steps (1000) or a time ("30d") after which exemplars expire; null never
    refill:           what may take slots freed by expiry or forgetting; recent: whatever comes next
    exemplars:        drawn per step, for each rank or (exemplars_scope=total) for all ranks together; auto, or auto:64:
                      as many (up to 64, or up to the minibatch's rows) as stay hidden behind the training steps
    depth:            rounds in flight; more than 1 hides rounds that now and then take longer than a step
    interval:         steps per round, which draws exemplars for each of them: less work where steps take milliseconds
    allow_duplicates: go on if more than 1 % of all exemplars are stored more than once
    """

    capacity: int | str = 500
    capacity_scope: str = setting("rank", one_of=("rank", "total"))
    exemplars: int | str = 10
    exemplars_scope: str = setting("rank", one_of=("rank", "total"))
    candidates: int | None = setting(None, at_least=1)
    admission: str = setting("reservoir", one_of=("reservoir", "class_balanced", "random_replacement", "fifo"))
    max_age: int | str | None = None
    refill: str = setting("none", one_of=("none", "recent"))
    proportions: str = setting("uniform", one_of=("uniform", "stream", "balanced"))
    exchange: str = setting("auto", one_of=("auto", "loopback", "collective", "shared", "hierarchical", "rma", "nccl"))
    stratum: str | None = "label"
    asynchronous: bool | str = setting("auto", one_of=("auto", True, False))
    min_fill: int = setting(1, at_least=0)
    timeout_s: float = setting(300.0, above=0)
    depth: int = setting(1, at_least=1)
    interval: int = setting(1, at_least=1)
    allow_duplicates: bool = False


@dataclass
class AugmentationConfig:
    """Random changes of training images, on the device, and the normalisation of all images.

    crop_padding: random crops after padding by so many pixels; 0 none
    flip:         random horizontal flips
    normalise:    by the dataset's mean and deviation; false leaves x / 255
    """

    crop_padding: int = setting(0, at_least=0)
    flip: bool = False
    normalise: bool = True


@dataclass
class TrackingConfig:
    """
    enabled: rank 0 logs to MLflow
    plots:   PNG files in the run directory, and in MLflow
    uri:     a store or a server; null takes MLFLOW_TRACKING_URI, else mlflow.db in the working directory
    """

    enabled: bool = True
    plots: bool = True
    uri: str | None = None
    experiment: str = "drb"


@dataclass
class ProfilingConfig:
    """What profile=true records, in optimisation steps of rank 0 since it was started or resumed.

    wait:    steps that pass first
    warm_up: steps whose recording is thrown away, since the profiler's first ones are slow
    record:  steps in the trace; a few hundred make files that Perfetto opens slowly
    """

    wait: int = setting(10, at_least=0)
    warm_up: int = setting(5, at_least=0)
    record: int = setting(20, at_least=1)


@dataclass
class TrainConfig:
    """
    name:      what the run is called in tables and plots; null takes the strategy's name
    run_id:    the run directory's name, unless hydra.run.dir is given; null makes one of strategy and time
    threads:   of PyTorch on the CPU, per rank; null leaves its default (all cores, or OMP_NUM_THREADS)
    timeout_s: of every collective of the training ranks, in seconds
    start_timeout_s: how long ranks wait for one another at the start, in seconds
    profile:   rank 0 writes a trace of some steps (see profiling) into profile/ of the run directory
    console:   main: rank 0 prints; all: every rank does, with its number in front
    """

    name: str | None = None
    run_id: str | None = None
    seed: int = setting(0, at_least=0)
    device: str = setting("auto", one_of=("auto", "cpu", "cuda"))
    threads: int | None = setting(None, at_least=1)
    timeout_s: float = setting(600.0, above=0)
    start_timeout_s: float = setting(25.0, above=0)
    profile: bool = False
    console: str = setting("main", one_of=("main", "all"))
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    profiling: ProfilingConfig = field(default_factory=ProfilingConfig)


CHOICES: dict[str, dict[str, type]] = {
    "dataset": {
        "digits": DigitsConfig,
        "fashion_mnist": CachedDatasetConfig,
        "cifar10": CachedDatasetConfig,
        "cifar100": CachedDatasetConfig,
        "image_folder": ImageFolderConfig,
        "synthetic": SyntheticConfig,
    },
    "scenario": {
        "class_incremental": ClassIncrementalConfig,
        "task_incremental": ClassIncrementalConfig,
        "domain_incremental": DomainIncrementalConfig,
        "instance_incremental": InstanceIncrementalConfig,
    },
    "model": {"mlp": MlpConfig, "cnn": CnnConfig, "resnet18": ModelConfig, "resnet50": ModelConfig},
}
"""The groups whose options depend on what is chosen: group -> choice -> its dataclass."""
