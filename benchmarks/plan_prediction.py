"""Claim: `drb plan`, fitted on two ranks, says within 20 % what a round costs on four and eight.

    python benchmarks/plan_prediction.py [--quick]

Eight ranks of this machine; groups of 2, 4 and 8 of them run rounds in turn, interleaved, while the others wait. The
model is fitted on the group of 2 alone: its rounds, those of a rank by itself, those of two ranks with a core each and
with one core, messages between these two processes, of which one also plays 2 or 4 peers. Compared are CPU seconds,
messages and bytes of a rank's round; and the round's time, for which the model says: the CPU seconds of
all ranks over the cores. `costs` are what was fitted, in medians: `drb plan --simulate` goes by such (`TYPICAL` in
drb/plan/command.py).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drb.buffer.record import Field, RecordSpec
from drb.exchange import Peers
from drb.plan.model import Machine, Place, cpu_seconds, round_seconds, traffic
from drb.plan.probe import measure_alone, measure_machine, measure_rounds
from drb.rehearsal.settings import RehearsalSettings

WORLDS, RANKS, B, R = (2, 4, 8), 8, 56, 7
FITTED, BAR = 2, 0.2
RECORDS = {"image": RecordSpec({"image": Field(torch.uint8, (3, 224, 224)), "label": Field(torch.int64)})}
RECORDS["small"] = RecordSpec({"image": Field(torch.float32, (784,)), "label": Field(torch.int64)})
EXCHANGES = ("shared", "collective")


def run(rank: int, where: str, repeats: int, seconds: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=RANKS)
    groups = {world: dist.new_group(list(range(world)), backend="gloo") for world in WORLDS}  # on every rank
    peers = {world: Peers(group, 60.0) for world, group in groups.items() if rank < world}
    sent = _count_messages()
    figures: dict[str, Any] = {"costs": {}}
    for exchange in EXCHANGES:
        for name, spec in RECORDS.items():
            settings = RehearsalSettings(200, R, admission="fifo", exchange=exchange)
            measured: dict[int, list[tuple[float, float]]] = {world: [] for world in WORLDS}
            counted: dict[int, tuple[float, float]] = {}
            machines = []
            for _ in range(repeats):
                for world in WORLDS:
                    dist.barrier()
                    if rank >= world:
                        continue
                    parts, rounds = measure_rounds(settings, spec, B, peers[world], seconds, sizes=(R,))
                    measured[world].append(rounds[0][1:])
                    if world == FITTED:
                        place = Place(2, 2)
                        alone = measure_alone(settings, spec, B, R, seconds / 2)
                        machines.append(
                            measure_machine(parts, rounds[0], alone, place, peers[2], ["here"] * 2, 2 * seconds)
                        )
                    sent.clear()
                    for round_ in range(10):
                        parts.run_round(1 << 40 | round_)
                    counted[world] = (sum(m for m, _ in sent) / 10, sum(b for _, b in sent) / 10)
                    parts.engine.close()
                    parts.exchange.close()
            if rank == 0:
                figures["costs"][f"{exchange}, {name}"] = _costs(machines)
                figures[f"{exchange}, {name}"] = _compare(exchange, spec, measured, counted, machines)
    if rank == 0:
        record.save("plan_prediction", figures)
    dist.barrier()


def _costs(machines: list[Machine]) -> dict[str, Any]:
    """Medians of what each repetition was fitted to."""
    found: dict[str, Any] = {"shared_core_s": _median(machine.shared_core_s for machine in machines)}
    for part in ("clock", "cpu"):
        fitted = [asdict(getattr(machine, part)) for machine in machines]
        found[part] = {name: _median(f[name] for f in fitted) for name in fitted[0]}
    return found


def _median(values: Iterable[float]) -> float:
    return float(f"{statistics.median(values):.3g}")


def _compare(exchange: str, spec: RecordSpec, measured: Any, counted: Any, machines: list[Any]) -> dict[str, Any]:
    """Per number of ranks: predicted, measured and their ratio. The median of what each repetition's fit predicts."""
    found = {}
    for world in WORLDS:
        place = Place(world, world)
        expected = traffic(exchange, place, R, spec.row_bytes)
        pairs = {
            "cpu_us": (
                1e6 * statistics.median(cpu_seconds(expected, machine, world) for machine in machines),
                1e6 * statistics.median(cpu for _, cpu in measured[world]),
            ),
            "round_us": (
                1e6 * statistics.median(round_seconds(expected, machine, world) for machine in machines),
                1e6 * statistics.median(clock for clock, _ in measured[world]),
            ),
            "messages": (expected.messages, counted[world][0]),
            "sent_bytes": (expected.sent_bytes, counted[world][1]),
        }
        found[f"{world} ranks"] = {key: _verdict(p, m, world) for key, (p, m) in pairs.items()}
    return found


def _verdict(predicted: float, measured: float, world: int) -> dict[str, Any]:
    ratio = predicted / measured if measured else float(predicted == measured)
    figures = {"predicted": round(predicted, 1), "measured": round(measured, 1), "ratio": round(ratio, 3)}
    return figures if world == FITTED else {**figures, "holds": abs(ratio - 1) <= BAR}


def _count_messages() -> list[tuple[int, int]]:
    """What leaves this rank from now on: messages and bytes of each all_to_all."""
    sent: list[tuple[int, int]] = []
    real = dist.all_to_all_single

    def counted(output: Any, input: Any, output_splits: Any = None, input_splits: Any = None, **kwargs: Any) -> Any:
        ranks, own = dist.get_world_size(kwargs["group"]), dist.get_rank(kwargs["group"])
        splits = input_splits or [len(input) // ranks] * ranks
        row_bytes = input.numel() * input.element_size() / max(len(input), 1)
        sent.append((ranks - 1, int((sum(splits) - splits[own]) * row_bytes)))
        return real(output, input, output_splits, input_splits, **kwargs)

    dist.all_to_all_single = counted
    return sent


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(run, (f"{scratch}/rendezvous", 2 if quick else 5, 0.3 if quick else 0.7), nprocs=RANKS)
