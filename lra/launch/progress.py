"""One live line a running cell on a terminal; plain lines now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from lra.errors import printable

_SECONDS_BETWEEN_LINES = 30.0


class Display:
    """The lines of all cells that run at once; used in a `with` block."""

    def __init__(self, console: Console):
        self.console = console
        self.live: Progress | None = None
        if console.is_terminal:
            self.live = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[told]}"),
                TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip

    def line(self, text: str) -> None:
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
    """Shows how far one cell is: step, loss, validation accuracy, steps a second, time left."""

    def __init__(self, display: Display, label: str, steps: int):
        self.display, self.label, self.steps = display, label, steps
        self.told: dict[str, float] = {}
        self.last_line = time.monotonic()

    def __enter__(self) -> CellProgress:
        if self.display.live:
            name = self.label.partition(",")[0].replace("[", r"\[")
            self.task = self.display.live.add_task(name, total=self.steps, told="starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.display.live:
            self.display.live.remove_task(self.task)

    def update(self, told: dict[str, Any]) -> None:
        """Takes what the cell's process told; a warning is a line of its own."""
        if "warning" in told:
            self.display.line(f"  {told['warning']}")
            return
        self.told |= told
        if self.display.live:
            self.display.live.update(self.task, completed=self.told["step"], told=self._text())
        elif time.monotonic() - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.display.line(f"  {self.label}: {self._text()}{self._left()}")

    def _left(self) -> str:
        """Time left of a training; a measurement ends by its clock, not at a step."""
        if "loss" not in self.told:
            return ""
        return f", {(self.steps - self.told['step']) / self.told['steps_per_second']:.0f} s left"

    def _text(self) -> str:
        t = self.told
        words = [f"step {t['step']:,.0f}"]
        if "loss" in t:
            words = [f"step {t['step']:,.0f}/{self.steps:,}", f"loss {t['loss']:.3f}"]
        if "validation_accuracy" in t:
            words.append(f"validation {100 * t['validation_accuracy']:.1f} %")
        return ", ".join([*words, f"{t.get('steps_per_second', 0):.3g} steps/s"])
