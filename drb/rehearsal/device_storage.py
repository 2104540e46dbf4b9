"""Whether a rehearsal's records can lie on a GPU, encoded there or as its buffer."""

from __future__ import annotations

from drb.buffer.record import HEADER_WORDS, RecordSpec
from drb.machine import format_bytes
from drb.rehearsal.cuda import Device
from drb.rehearsal.settings import RehearsalSettings

_AUTO = "auto"
HEADER_BYTES = 8 * HEADER_WORDS  # of a record that lies on a GPU, which the host has


def device_for_rows(
    settings: RehearsalSettings, spec: RecordSpec, device: Device | None, world_size: int
) -> Device | None:
    """The device in whose memory the buffer lies; None: on the host.

    Raises:
        ValueError: storage=device, and it cannot; alike on all ranks, but for a device that some rank lacks.
    """
    if settings.storage != "device":
        return None
    if world_size > 1:
        raise ValueError(
            f"storage=device serves one rank so far, there are {world_size}: set storage=host, whose rows the GPUs "
            "of a node read from shared memory"
        )
    if device is None:
        raise ValueError("storage=device needs exemplars on a GPU: give minibatches on a GPU or device=")
    by_host = [*spec.encoded, *spec.counted]
    if by_host:
        raise ValueError(
            f"storage=device stores plain fields, and {by_host[0]!r} has a codec, is optional or grows: set "
            "storage=host"
        )
    return device


def offer_of_device(
    settings: RehearsalSettings, spec: RecordSpec, device: Device | None, world_size: int, num_rows: int
) -> str:
    """What describe() says of `storage=auto`, which is the host, where it could be the device."""
    if settings.storage != _AUTO or device is None or world_size > 1 or spec.encoded or spec.counted:
        return ""
    return f"; storage host (auto: device would take {format_bytes(num_rows * spec.row_bytes)} of {device.device})"


def require_device_codecs(spec: RecordSpec) -> None:
    """Raise ValueError if exemplars are wanted on a device and some field can be decoded on the CPU only."""
    for name in spec.encoded:
        codec = spec.fields[name].codec
        if codec is not None and codec.on_host:
            raise ValueError(
                f"field {name!r} is stored by {codec}, which decodes on the CPU only: leave device= out and move what "
                "is returned, or use another codec such as bits"
            )
