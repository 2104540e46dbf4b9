"""The section `rehearsal` of the configuration, and the settings of `drb.Rehearsal` that it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from drb.buffer.admission import ADMISSIONS
from drb.buffer.codecs import CODECS, Codec
from drb.options import same_as, setting
from drb.registry import Registry
from drb.rehearsal.auto_setting import AutoSetting
from drb.rehearsal.exchange_registry import AUTO, TRANSPORTS
from drb.rehearsal.settings import RehearsalSettings
from drb.sampling.proportions import PROPORTIONS
from drb.training import TrainingSettings, split_evenly


@dataclass
class RehearsalConfig:
    """The rehearsal buffers; see `drb.Rehearsal`. Used by strategies that rehearse.

    capacity:         exemplars (500), bytes ("20GiB") or a share of the training data ("30%")
    capacity_scope:   whether capacity is each rank's or that of all ranks together
    max_age:          steps (1000) or a time ("30d") after which exemplars expire; null never
    refill:           what may take slots freed by expiry or forgetting; recent: whatever comes next
    exemplars:        drawn per minibatch, for each rank or (exemplars_scope=total) for all ranks together; null: as
                      many as the minibatch has rows; auto, or auto:64: as many (at most 64, or its rows) as stay
                      hidden behind the training steps; auto:accuracy:0.01:64: as few (at most 64) as keep the share
                      of rehearsed samples that are right within 0.01 of what it was when a task began
    admission, proportions, exchange: one of drb's own or the dotted path of a class; admission_options and so on are
                      its options, for example rehearsal.admission_options.alpha=0.5
    codec:            how the network's input is stored in fewer bytes: one of drb's own or the dotted path of a class;
                      null stores it as it is. codec_options are its options, for example rehearsal.codec_options.bits=4
    storage:          host, device (the GPU's memory), auto: device if the buffers take no more than device_share of
                      what is free there, or mmap: a file in storage_folder
    storage_folder:   a folder on each node's own disk, of this run alone, for storage=mmap
    prefilled:        a folder that drb prefill has filled: its samples are drawn, too, and not stored
    depth:            rounds in flight; more than 1 hides rounds that now and then take longer than a step
    interval:         steps per round, which draws exemplars for each of them: less work where steps take milliseconds
    allow_duplicates: go on if more than 1 % of all exemplars are stored more than once
    """

    capacity: int | str = 500
    capacity_scope: str = same_as(RehearsalSettings, "capacity_scope")
    exemplars: int | str | None = None
    exemplars_scope: str = setting("rank", one_of=("rank", "total"))
    candidates: int | None = same_as(RehearsalSettings, "candidates")
    admission: str = same_as(RehearsalSettings, "admission")
    admission_options: dict[str, Any] = field(default_factory=dict)
    max_age: int | str | None = same_as(RehearsalSettings, "max_age")
    refill: str = same_as(RehearsalSettings, "refill")
    proportions: str = same_as(RehearsalSettings, "proportions")
    proportions_options: dict[str, Any] = field(default_factory=dict)
    exchange: str = same_as(RehearsalSettings, "exchange")
    exchange_options: dict[str, Any] = field(default_factory=dict)
    storage: str = same_as(RehearsalSettings, "storage")
    storage_folder: str | None = same_as(RehearsalSettings, "storage_folder")
    device_share: float = same_as(RehearsalSettings, "device_share")
    codec: str | None = None
    codec_options: dict[str, Any] = field(default_factory=dict)
    stratum: str | None = same_as(RehearsalSettings, "stratum")
    asynchronous: bool | str = same_as(RehearsalSettings, "asynchronous")
    min_fill: int = same_as(RehearsalSettings, "min_fill")
    timeout_s: float = same_as(RehearsalSettings, "timeout_s")
    prefilled: str | None = same_as(RehearsalSettings, "prefilled")
    depth: int = same_as(RehearsalSettings, "depth")
    interval: int = same_as(RehearsalSettings, "interval")
    allow_duplicates: bool = False


KINDS: Mapping[str, Registry[Any]] = {
    "admission": ADMISSIONS,
    "proportions": PROPORTIONS,
    "exchange": TRANSPORTS,
    "codec": CODECS,
}
"""The settings that choose a variant, with options in `<setting>_options`."""


def rehearsal_settings(
    section: RehearsalConfig, training: TrainingSettings, seed: int, world_size: int, num_samples: int
) -> RehearsalSettings:
    """The settings of the program's rehearsal.

    Raises:
        ValueError: one line that begins with the name of the setting, as far as it is about one.
    """
    names = [each.name for each in fields(RehearsalSettings)]
    values = {name: getattr(section, name) for name in names if hasattr(section, name)}
    values |= {name: _chosen(name, section) for name in KINDS if name in names}
    image_codec(section)
    try:
        values["exemplars"] = exemplars_per_rank(section, training, world_size)
        # a loader's last minibatch may have one row more
        values |= {"seed": seed, "batch_size": training.rows_per_rank(world_size) + 1, "num_samples": num_samples}
        return RehearsalSettings(**values)
    except ValueError as error:
        raise ValueError(re.sub(rf"^({'|'.join(names)})\b", r"rehearsal.\1", str(error))) from None


def image_codec(section: RehearsalConfig) -> Codec | None:
    """Return what images are stored by; None stores them as they are.

    Raises:
        ValueError: no such codec or options, or options without a codec; one line that begins with the setting.
    """
    if section.codec is None and not section.codec_options:
        return None
    if section.codec is None:
        choices = ", ".join(CODECS)
        raise ValueError(f"rehearsal.codec_options are options of a codec: choose rehearsal.codec ({choices})")
    try:
        return CODECS.build(section.codec, section.codec_options)
    except ValueError as error:
        raise ValueError(f"rehearsal.codec: {error}") from None


def _chosen(setting: str, section: RehearsalConfig) -> Any:
    """The variant that a setting chooses: by name unless it has options of its own."""
    given, options = getattr(section, setting), getattr(section, f"{setting}_options")
    try:
        if options:
            return KINDS[setting].build(given, options)
        if given != AUTO:
            KINDS[setting].find(given)
    except ValueError as error:
        raise ValueError(f"rehearsal.{setting}: {error}") from None
    return given


def exemplars_per_rank(section: RehearsalConfig, training: TrainingSettings, world_size: int) -> int | str:
    """Exemplars that each rank draws per minibatch, or a form of "auto" with a limit: at most a minibatch's rows.

    Raises:
        ValueError: a total that does not divide by the ranks.
    """
    exemplars, is_total = section.exemplars, section.exemplars_scope == "total"
    if exemplars is None:
        return training.rows_per_rank(world_size)
    if isinstance(exemplars, int):
        return split_evenly("rehearsal.exemplars", exemplars, world_size) if is_total else exemplars
    auto = AutoSetting.parse(exemplars)
    limit = auto.limit or training.rows_per_rank(world_size)
    if auto.limit and is_total:
        limit = split_evenly("rehearsal.exemplars", limit, world_size)
    return auto.with_limit(limit)
