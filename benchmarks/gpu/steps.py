"""A step with rehearsal against plain DDP on b + r, in every way of giving minibatches; what `extend` is made of."""

from __future__ import annotations

import cProfile
import json
import math
import pstats
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.jobs import Data, Job, Kind, Way, baseline_of, group, kinds_of, synchronize, ways_of

_PROFILED = 40
_TIMED_SHARE = 0.8  # of a job's time; the rest is for looking inside `extend`


def measure(
    jobs: Mapping[str, Job],
    device: torch.device,
    within_s: float = math.inf,
    keep: Callable[[dict[str, Any]], object] = lambda found: None,
) -> dict[str, Any]:
    """Figures by job, each of which takes its part of the time that is left, and at least two turns.

    keep: is given all figures so far after each job.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, group(device, store=f"{folder}/store"):
        end = time.monotonic() + within_s
        for number, (name, job) in enumerate(jobs.items()):
            start = time.monotonic()
            if start > end:
                print(f"== {', '.join(list(jobs)[number:])}: no time is left", flush=True)
                break
            found[name] = measure_job(job, device, (end - start) / (len(jobs) - number))
            if device.type == "cuda":
                torch.cuda.empty_cache()
            print_job(name, found[name], time.monotonic() - start)
            keep(found)
    return found


def measure_job(job: Job, device: torch.device, within_s: float) -> dict[str, Any]:
    chosen, end = ways_of(job, device), time.monotonic() + _TIMED_SHARE * within_s
    data = Data(job, device)
    with kinds_of(job, data, chosen) as kinds:
        for kind in kinds.values():
            for _ in range(3):
                kind.step()
        times = interleaved(kinds, job.steps, job.turns, device, end)
        return {
            "turns": len(times["plain"]),
            "plain_ms": 1e3 * statistics.median(wall for wall, _ in times["plain"] + times["plain again"]),
            "kinds": compared(times, chosen),
            "wrong": {name: count_wrong(kinds[name], data) for name in chosen},
            "extend": {name: inside(kinds[name], device) for name in chosen},
        }


def interleaved(
    kinds: Mapping[str, Kind], steps: int, turns: int, device: torch.device, end: float = math.inf
) -> dict[str, list[tuple[float, float]]]:
    """Seconds per step of each kind's blocks: until the device is done, and until the host is. In changing order.

    end: no turn begins that would end later (`time.monotonic`), but for the first two.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    order, rng = list(kinds.items()), random.Random(0)
    turn_s = 0.0
    for turn in range(turns):
        begin = time.monotonic()
        if turn >= 2 and begin + turn_s > end:
            break
        rng.shuffle(order)
        for name, kind in order:
            kind.step()
            synchronize(device)
            start = time.perf_counter()
            for _ in range(steps):
                kind.step()
            host = time.perf_counter() - start
            synchronize(device)
            times[name].append(((time.perf_counter() - start) / steps, host / steps))
        turn_s = time.monotonic() - begin
    return times


def compared(times: Mapping[str, Sequence[tuple[float, float]]], chosen: Mapping[str, Way]) -> dict[str, Any]:
    """Each kind against its plain one: the ratio of medians with a 90 % bootstrap interval over turns, extra ms."""
    found: dict[str, Any] = {}
    for name, blocks in times.items():
        walls, against = [wall for wall, _ in blocks], baseline_of(name, chosen)
        found[name] = {"ms": 1e3 * statistics.median(walls), "host_ms": 1e3 * statistics.median(h for _, h in blocks)}
        if against is None:
            continue
        plain = [wall for wall, _ in times[against]]
        low, high = interval(walls, plain)
        found[name] |= {
            "against": against,
            "ratio": statistics.median(walls) / statistics.median(plain),
            "low": low,
            "high": high,
            "extra_ms": 1e3 * (statistics.median(walls) - statistics.median(plain)),
        }
    return found


def interval(walls: Sequence[float], plain: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """5 % and 95 % quantiles of the ratio of medians, over bootstrap samples of paired turns."""
    rng, ratios = random.Random(0), []
    for _ in range(resamples):
        turns = rng.choices(range(len(walls)), k=len(walls))
        ratios.append(statistics.median(walls[t] for t in turns) / statistics.median(plain[t] for t in turns))
    ratios.sort()
    return ratios[int(0.05 * resamples)], ratios[int(0.95 * resamples)]


def count_wrong(kind: Kind, data: Data, steps: int = 5) -> dict[str, int]:
    """Rows of a few extended minibatches, and how many are not what their ids say."""
    rows = wrong = 0
    for _ in range(steps):
        batch = {name: value.clone() for name, value in kind.batch().items()}
        rows += len(batch["label"])
        wrong += data.num_wrong(batch)
    return {"rows": rows, "wrong": wrong}


def inside(kind: Kind, device: torch.device) -> dict[str, Any]:
    """Where `extend` spends its time on the training thread, CUDA calls that it makes, seconds of the rounds."""
    rehearsal = kind.extender
    assert rehearsal is not None
    kind.step()
    before, start = rehearsal.stats(), time.perf_counter()
    for _ in range(_PROFILED):
        kind.step()
    synchronize(device)
    elapsed, after = time.perf_counter() - start, rehearsal.stats()
    rounds = max(after["rounds"] - before["rounds"], 1)
    seconds = [name for name in after if name.endswith("_seconds") and name != "setup_seconds"]
    per_round = {name: 1e6 * (after[name] - before[name]) / rounds for name in seconds}
    return {
        "step_us": 1e6 * elapsed / _PROFILED,
        "us_per_round": {name.removesuffix("_seconds"): round(value, 1) for name, value in per_round.items()},
        "cuda_calls": cuda_calls(kind, device) if device.type == "cuda" else {},
        "functions": slowest(kind, device),
    }


def slowest(kind: Kind, device: torch.device, most: int = 14) -> list[str]:
    """Functions of drb by their time per step on the training thread, as cProfile sees it (which slows them)."""
    profile = cProfile.Profile()
    for _ in range(_PROFILED):
        profile.enable()
        kind.batch()
        profile.disable()
        synchronize(device)
    rows = []
    for (file, _, name), (_, calls, own, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        where = file.partition("/drb/")[2] if "/drb/" in file else "" if file != "~" else "built-in"
        if where:
            rows.append((total, f"{where}:{name} n={calls / _PROFILED:.1f} total={1e6 * total / _PROFILED:.0f} "
                                f"own={1e6 * own / _PROFILED:.0f}"))  # fmt: skip
    return [text for _, text in sorted(rows, reverse=True)[:most]]


def cuda_calls(kind: Kind, device: torch.device, steps: int = 10) -> dict[str, Any]:
    """CUDA calls per step that the training thread makes inside `extend`, and the microseconds that they take."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            batch = kind.minibatch()
            with record_function("EXTEND"):
                kind.extender.extend(batch)  # type: ignore[union-attr]
            synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    spans = [e for e in events if e.get("name") == "EXTEND" and e.get("cat") == "user_annotation"]
    calls: Counter[str] = Counter()
    microseconds = 0.0
    for event in events:
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and any(_is_in(event, span) for span in spans):
            calls[event["name"]] += 1
            microseconds += event["dur"]
    per_step = {name: round(count / steps, 1) for name, count in calls.most_common()}
    return {"calls": round(sum(calls.values()) / steps, 1), "us": round(microseconds / steps, 1), **per_step}


def _is_in(event: Mapping[str, Any], span: Mapping[str, Any]) -> bool:
    return bool(event["tid"] == span["tid"] and span["ts"] <= event["ts"] <= span["ts"] + span["dur"])


def print_job(name: str, found: Mapping[str, Any], seconds: float) -> None:
    print(f"== {name}: plain {found['plain_ms']:.2f} ms, {found['turns']} turns, {seconds:.0f} s", flush=True)
    for kind, figures in found["kinds"].items():
        if "ratio" in figures:
            print(
                f"   {kind:28s} {figures['ms']:8.3f} ms  x{figures['ratio']:.4f} "
                f"[{figures['low']:.4f}, {figures['high']:.4f}]  {figures['extra_ms']:+.3f} ms "
                f"host {figures['host_ms']:.3f}  wrong {found['wrong'].get(kind, {}).get('wrong', '-')}",
                flush=True,
            )
    for kind, parts in found["extend"].items():
        print(f"   {kind}: {parts['us_per_round']} cuda {parts['cuda_calls']}", flush=True)
