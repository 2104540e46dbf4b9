"""Claim: rounds are hidden behind the step, and the step waits exactly when a round takes longer.

Two ranks train a small network with a gradient all-reduce per step; the fetch of exemplars is delayed on purpose by
0, 0.8 and 2 steps, in blocks that alternate. Prediction: a step takes max(step, round), so 1.00, 1.00 and 2.0 of a
step, plus the undelayed round in the last case.

    python benchmarks/hidden_delay.py
"""

from __future__ import annotations

import statistics
import time

import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drb import Rehearsal

DELAYS = (0.0, 0.8, 2.0)  # in steps
STEPS, REPEATS, B, R = 15, 5, 56, 7


def train(rank: int, world_size: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, 1), torch.nn.ReLU(), torch.nn.Conv2d(64, 32, 3, 2), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.LazyLinear(10),
    )  # fmt: skip
    network(torch.zeros(1, 3, 32, 32))
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    images = torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (B,))

    with Rehearsal(capacity=2000, exemplars=R, seed=0, sample_id="arrival", asynchronous=True) as rehearsal:
        pause = _delay_fetches(rehearsal)

        def step() -> None:
            batch = rehearsal.extend({"image": images, "label": labels})
            loss = torch.nn.functional.cross_entropy(parallel(batch["image"].float() / 255), batch["label"])
            loss.backward()
            network.zero_grad()

        def block(delay_s: float) -> float:
            pause[0] = delay_s
            for _ in range(3):
                step()
            times = []
            for _ in range(STEPS):
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            return statistics.median(times)

        block(0.0)
        alone = torch.tensor(block(0.0))
        dist.all_reduce(alone)  # the ranks must delay alike
        step_s = alone.item() / world_size
        measured = {d: [] for d in DELAYS}
        for _ in range(REPEATS):
            for d in DELAYS:
                measured[d].append(block(d * step_s))
        stats = rehearsal.stats()
        undelayed = stats["announce_seconds"] + stats["draw_seconds"]
    if rank == 0:
        base = measured[0.0]
        step_ms, round_ms = 1000 * statistics.median(base), 1000 * undelayed / stats["rounds"]
        figures = {
            "step_ms": step_ms,
            "predicted_step_time": {str(d): max(1.0, d + round_ms / step_ms) for d in DELAYS},
            "relative_step_time": {
                str(d): statistics.median(t / b for t, b in zip(times, base, strict=True))
                for d, times in measured.items()
            },
            "undelayed_round_ms": round_ms,
            "exchange": stats["exchange"],
        }
        record.save("hidden_delay", figures)
    dist.destroy_process_group()


def _delay_fetches(rehearsal: Rehearsal) -> list[float]:
    """Make every fetch sleep for the returned number of seconds first."""
    pause = [0.0]
    rehearsal.extend(
        {"image": torch.zeros(B, 3, 32, 32, dtype=torch.uint8), "label": torch.zeros(B, dtype=torch.int64)}
    )
    exchange = rehearsal._turns.parts.exchange
    fetch = exchange.fetch

    def delayed(*arguments: object) -> None:
        time.sleep(pause[0])
        fetch(*arguments)

    exchange.fetch = delayed
    return pause


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(train, (2, f"{scratch}/rendezvous"), nprocs=2)
