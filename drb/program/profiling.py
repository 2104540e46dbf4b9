"""`profile=true`: a trace of some steps, which https://ui.perfetto.dev opens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, schedule
from typing_extensions import Self

from drb.program.config.schema import ProfilingConfig
from drb.program.ranges import named_ranges


class Profiler:
    """Records steps of this process, on all its threads. A context manager; `step` after every step.

    The trace is written as soon as it is complete, or at the end if the run ends while it is recorded.

    Args:
        settings: steps to let pass, to warm up and to record.
        file: of the trace, `….json.gz`; its folder is made.
        say: is told where the trace is, or why there is none.
    """

    def __init__(self, settings: ProfilingConfig, file: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._file = file
        self._say = say
        self._steps = 0
        self._is_written = False
        self._open = ExitStack()
        self._profile: profile | None = None

    def step(self) -> None:
        """A step is over."""
        if self._profile is None:
            return
        self._steps += 1
        self._profile.step()
        if self._is_written:
            self._stop()

    def __enter__(self) -> Self:
        settings, activities = self._settings, [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=settings.wait, warmup=settings.warm_up, active=settings.record, repeat=1),
            on_trace_ready=self._write,
            experimental_config=self._on_all_threads(),
        )
        self._open.enter_context(named_ranges())
        self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._stop()
        if not self._is_written and error is None:
            first = self._settings.wait + self._settings.warm_up
            self._say(
                f"profile: nothing was recorded: the run had {self._steps} steps, recording starts after {first}; "
                "lower profiling.wait and profiling.warm_up"
            )

    def _stop(self) -> None:
        running, self._profile = self._profile, None
        assert running is not None
        self._open.close()
        running.stop()

    def _on_all_threads(self) -> _ExperimentalConfig | None:
        """A profile has the calling thread alone by default, and rounds run on another."""
        try:
            return _ExperimentalConfig(profile_all_threads=True)
        except TypeError:
            self._say("profile: this version of torch records the training thread only, not the rehearsal's rounds")
            return None

    def _write(self, recorded: profile) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self._file))
        self._is_written = True
        self._say(f"profile: {self._file} (open it in https://ui.perfetto.dev)")
