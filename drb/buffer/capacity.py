"""How many exemplars a rank may hold: from a number, an amount of memory or a share of the data."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = {"B": 1}
UNITS |= {f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)} | {f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}
SCOPES = ("rank", "total")


def capacity_of_rank(
    capacity: int | str,
    scope: str,
    *,
    rank: int,
    world_size: int,
    record_bytes: int,
    num_samples: int | None = None,
) -> int:
    """Exemplars that this rank may hold.

    Args:
        capacity: exemplars (500), memory ("20GiB") or a share of the stream's num_samples ("30%").
        scope: whether exemplars and memory are per `rank` or in `total`, split evenly with the remainder to the
            low ranks. A share is always of the whole stream, in total.
        record_bytes: of one exemplar with its metadata.
    Raises:
        ValueError: anything else, or room for no exemplar at all.
    """
    if scope not in SCOPES:
        raise ValueError(f"capacity_scope must be rank or total, got {scope!r}")
    exemplars, is_total = _exemplars(capacity, scope, record_bytes, num_samples)
    if exemplars < 1:
        raise ValueError(f"capacity={capacity} has room for no exemplar (one takes {record_bytes} bytes)")
    if not is_total:
        return exemplars
    return exemplars // world_size + (rank < exemplars % world_size)


def check_capacity(capacity: int | str) -> None:
    """Raise ValueError unless the capacity is well-formed; needs no data."""
    exemplars, _ = _exemplars(capacity, "rank", record_bytes=1, num_samples=1 << 62)
    if exemplars < 1:
        raise ValueError(f"capacity must be at least 1 exemplar, got {capacity!r}")


def bytes_in(text: str) -> int | None:
    """The bytes of an amount of memory such as '20GiB'; None if the text is no such amount."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)", text.strip())
    return int(Fraction(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else None


def _exemplars(capacity: int | str, scope: str, record_bytes: int, num_samples: int | None) -> tuple[int, bool]:
    if isinstance(capacity, int) and not isinstance(capacity, bool):
        return capacity, scope == "total"
    text = str(capacity).strip()
    if re.fullmatch(r"\d+", text):
        return int(text), scope == "total"
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text):
        share = Fraction(match[1]) / 100  # exact: 29 % of 100 are 29, in floating point 28
        if not 0 < share <= 1:
            raise ValueError(f"capacity={capacity!r} must be a share above 0 % and up to 100 % of the data")
        if num_samples is None:
            raise ValueError(f"capacity={capacity!r} is a share of the data: give num_samples=, the stream's length")
        return int(share * num_samples), True
    if (size := bytes_in(text)) is not None:
        return size // record_bytes, scope == "total"
    raise ValueError(
        f"capacity must be exemplars (500), memory ('20GiB') or a share of the data ('30%'), got {capacity!r}"
    )
