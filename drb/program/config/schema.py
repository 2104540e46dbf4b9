"""Everything that a run can be told, as typed dataclasses with limits: what Hydra's configs are checked against.

One dataclass per choice of a group, with exactly the options of what it configures (a test compares them). The
settings of the trainer are declared where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drb.checkpoint import CheckpointSettings
from drb.options import setting
from drb.program.config.rehearsal import RehearsalConfig
from drb.program.config.variants import DatasetConfig, ModelConfig, TrackingConfig, VariantConfig
from drb.program.strata import StrataSettings
from drb.training import TrainingSettings


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
    name:      what the run is called in messages, tables, plots and the tracker; null takes the strategy's name
    run_id:    the run directory's name, unless hydra.run.dir is given; null makes one of the run's name and the time
    threads:   of PyTorch on the CPU, per rank; null leaves its default (all cores, or OMP_NUM_THREADS)
    timeout_s: of every collective of the training ranks, in seconds
    start_timeout_s: how long ranks wait for one another at the start, in seconds
    profile:   rank 0 writes a trace of some steps (see profiling) into profile/ of the run directory
    ledger:    log which exemplars were drawn in ledger/ of the run directory, for drb audit (docs/audit.md);
                not with rehearsal.prefilled, whose draws are not logged
    kept:      compare what is stored in the end with all data: none, numbers (in summary.json) or pictures, too
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
    ledger: bool = True
    kept: str = setting("none", one_of=("none", "numbers", "pictures"))
    console: str = setting("main", one_of=("main", "all"))
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    scenario: VariantConfig = field(default_factory=VariantConfig)
    strata: StrataSettings = field(default_factory=StrataSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    strategy: VariantConfig = field(default_factory=VariantConfig)
    terms: dict[str, VariantConfig] = field(default_factory=dict)
    objective: VariantConfig = field(default_factory=VariantConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    optimizer: VariantConfig = field(default_factory=VariantConfig)
    schedule: VariantConfig = field(default_factory=VariantConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    profiling: ProfilingConfig = field(default_factory=ProfilingConfig)

    @property
    def run_name(self) -> str:
        """What the run is called."""
        return self.name or self.strategy.name
