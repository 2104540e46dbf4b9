"""Rows between GPUs by NCCL: how they travel; `drb.rehearsal.cuda.rows` says what is launched when."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from drb.exchange import Peers


class RowBackend(Protocol):
    """Every rank calls it equally often, in the same order."""

    def all_to_all(self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int]) -> None:
        """Queue on the current stream: sent [A, K], sent_rows[w] to each; received [R, K], received_rows[w] from each.

        Letters: A rows sent, R received, K words of a row, w a rank.
        """
        ...

    def close(self) -> None:
        """Every rank is closing now."""
        ...


class NcclRows:
    """Rows by torch.distributed, on a group of their own, connected at once: a rank that cannot fails here."""

    def __init__(self, peers: Peers, device: torch.device) -> None:
        self._group = peers.new_group("nccl")
        self._device = device
        dist.all_reduce(torch.zeros(1, device=device), group=self._group)

    def all_to_all(self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int]) -> None:
        dist.all_to_all_single(received, sent, received_rows, sent_rows, group=self._group)

    def close(self) -> None:
        torch.cuda.synchronize(self._device)  # rows that nobody will read may be on their way
        dist.destroy_process_group(self._group)
