"""Rows from one simulated GPU to another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from rehearsal.cuda.simulated import SimulatedGpu


class GlooRows:
    """A second Gloo group in the place of NCCL's. log: what was launched, on which thread."""

    def __init__(self, gpu: SimulatedGpu, group: dist.ProcessGroup) -> None:
        self.gpu, self.group = gpu, group
        self.log: list[tuple[str, list[int], list[int]]] = []

    def all_to_all(self, received: Tensor, sent: Tensor, received_rows: list[int], sent_rows: list[int]) -> None:
        assert self.gpu.owns(received)
        assert self.gpu.owns(sent)
        self.log.append((threading.current_thread().name, received_rows, sent_rows))
        self.gpu.run(
            self.gpu.current(),
            "all_to_all",
            [sent],
            [received],
            lambda: dist.all_to_all_single(received, sent, received_rows, sent_rows, group=self.group),
        )

    def close(self) -> None:
        self.gpu.current().run_to(len(self.gpu.current().work))
        dist.destroy_process_group(self.group)
