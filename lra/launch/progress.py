"""Progress display: one live line per running cell on a terminal, a plain line every 30 s otherwise."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from lra.errors import printable
from lra.results.runs import format_duration

_SECONDS_BETWEEN_LINES = 30.0


class Display:
    """The lines of all running cells; used as a context manager."""

    def __init__(self, console: Console):
        self.console = console
        self.live: Progress | None = None
        if console.is_terminal:
            self.live = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[metrics]}"),
                console=console, transient=True,
            )  # fmt: skip

    def print_line(self, text: str) -> None:
        """Prints a line of plain text."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.live:
            self.live.stop()


class CellProgress:
    """Shows the progress of one cell: step, loss, validation accuracy, steps per second, time left."""

    def __init__(self, display: Display, label: str, steps: int):
        self.display, self.label, self.steps = display, label, steps
        self.metrics: dict[str, float] = {}
        """The latest value of each metric that the worker has reported."""
        self.last_line = time.monotonic()

    def __enter__(self) -> CellProgress:
        if self.display.live:
            name = self.label.partition(",")[0].replace("[", r"\[")
            self.task = self.display.live.add_task(name, total=self.steps, metrics="starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.display.live:
            self.display.live.remove_task(self.task)

    def update(self, message: dict[str, Any]) -> None:
        """Shows a worker's message: new values of metrics, or a warning, which gets its own line."""
        if "warning" in message:
            self.display.print_line(f"  {message['warning']}")
            return
        self.metrics |= message
        if self.display.live:
            text = f"{self._text()}{self._time_left()}"
            self.display.live.update(self.task, completed=self.metrics["step"], metrics=text)
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.display.print_line(f"  {self.label}: {self._text()}{self._time_left()}")

    def _text(self) -> str:
        m = self.metrics
        parts = [f"step {m['step']:,.0f}"]
        if "loss" in m:
            parts = [f"step {m['step']:,.0f}/{self.steps:,}", f"loss {m['loss']:.3f}"]
        if "validation_accuracy" in m:
            parts.append(f"validation {100 * m['validation_accuracy']:.1f} %")
        return ", ".join([*parts, f"{m.get('steps_per_second', 0):.3g} steps/s"])

    def _time_left(self) -> str:
        """Time left of the cell; empty for a measurement, which ends after a time and not at a step."""
        left = self.metrics.get("seconds_left")
        return "" if left is None else f", {format_duration(left)} left"
