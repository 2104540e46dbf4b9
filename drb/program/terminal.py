"""The live view of rank 0 on a terminal: a bar of progress, the figures, and how full the buffer is for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import rich.live
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from drb.program.figures import duration, figures
from drb.training.reporting.live import Live

_BAR, _NAME, _GAP = 12, 16, 3  # characters of a bar of the buffer, of a class's name at most, and between columns
_MOST_ROWS = 8  # of bars


class TerminalConsole:
    """Lines, and below them how training stands. Implements `drb.training.reporting.monitor.Console`.

    console: where to; the terminal if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: rich.live.Live | None = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def begin(self) -> None:
        self.end()
        self._live = rich.live.Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, look: Callable[[], Live]) -> None:
        if self._live is not None:
            self._live.update(view(look(), *self._console.size), refresh=True)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def view(live: Live, width: int, height: int) -> RenderableType:
    """How training stands, in at most `width` characters and `height` lines.

    Where there are more classes than bars fit, those with the most and with the fewest exemplars are shown.
    """
    lines: list[RenderableType] = [_progress(live, width), _line(" · ".join([f"step {live.step}", *figures(live)]))]
    if live.stored is not None:
        lines.append(_line(_buffer(live)))
        lines += _bars(live.fill, width, min(_MOST_ROWS, height - len(lines) - 2))
    return Group(*lines)


def _progress(live: Live, width: int) -> RenderableType:
    left = "" if live.seconds_left is None else f" · {duration(live.seconds_left)} left"
    behind = f"{live.completed}/{live.total} minibatches{left}"
    epoch = f" · epoch {live.epoch}/{live.epochs}"
    bar = max(8, min(30, width - len(epoch) - len(behind) - 24))
    task = _shortened(live.task, max(8, width - bar - len(epoch) - len(behind) - 4))
    row = Table.grid(padding=(0, 1))
    row.add_row(
        Text(task + epoch, no_wrap=True),
        ProgressBar(total=live.total, completed=live.completed, width=bar),
        Text(behind, no_wrap=True),
    )
    return row


def _buffer(live: Live) -> str:
    text = f"buffer: {live.stored:,} of {live.capacity:,} exemplars" if live.capacity else f"buffer: {live.stored:,}"
    overlapped = "" if live.overlapped is None else f" · {live.overlapped:.0%} of the rehearsal overlapped"
    return f"{text}{overlapped}{' · on rank 0:' if live.fill else ''}"


def _bars(fill: Mapping[str, int], width: int, rows: int) -> list[RenderableType]:
    """One bar for each class, in columns; the largest and the smallest of those that do not fit."""
    if not fill or rows < 1:
        return []
    name = min(_NAME, max(map(len, fill)))
    number = len(f"{max(fill.values()):,}")
    columns = max(1, (width + _GAP) // (2 + name + 1 + _BAR + 1 + number + _GAP))
    shown, left_out = chosen(fill, columns * rows)
    rows = -(-len(shown) // columns)
    table = Table.grid(padding=(0, _GAP, 0, 0))
    cells = [_bar(each, count, max(fill.values()), name, number) for each, count in shown.items()]
    for row in range(rows):
        table.add_row(*cells[row::rows])
    note = f"  the fullest and the emptiest of {len(fill)}; {left_out} are not shown"
    return [table, *([_line(note)] if left_out else [])]


def chosen(fill: Mapping[str, int], most: int) -> tuple[dict[str, int], int]:
    """At most so many of the classes, and how many are left out: the largest and the smallest, ordered by size.

    Those that all fit keep their order.
    """
    if len(fill) <= most:
        return dict(fill), 0
    ordered = sorted(fill.items(), key=lambda item: -item[1])
    largest = -(-most // 2)
    return dict(ordered[:largest] + ordered[len(ordered) - (most - largest) :]), len(fill) - most


def _bar(name: str, count: int, most: int, width: int, digits: int) -> RenderableType:
    eighths = round(8 * _BAR * count / max(most, 1))
    full, rest = divmod(eighths, 8)
    bar = ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(_BAR)
    text = Text(f"  {_shortened(name, width):<{width}} ", no_wrap=True)
    return text.append(bar, "cyan").append(f" {count:>{digits},}")


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
