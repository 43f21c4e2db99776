"""Limits on how long a process may take, and may be silent. Imports no JAX."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """Ends a process that is still there after so many minutes, or silent for so many; None sets no limit."""

    def __init__(self, end: Callable[[], None], minutes: float | None, silent_minutes: float | None):
        self.end, self.minutes, self.silent_minutes = end, minutes, silent_minutes
        self.struck = ""
        """Why the process was ended."""
        self.started = self.heard = time.monotonic()
        self.over = threading.Event()
        if minutes is not None or silent_minutes is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def sign(self) -> None:
        """The process gave a sign of life."""
        self.heard = time.monotonic()

    def stop(self) -> None:
        """The process has ended, or is going to be ended otherwise."""
        self.over.set()

    def _soonest(self) -> tuple[float, str]:
        ends = []
        if self.minutes is not None:
            ends.append((self.started + 60 * self.minutes, f"stopped after {self.minutes:g} minutes"))
        if self.silent_minutes is not None:
            silent = f"stopped after {self.silent_minutes:g} minutes without progress"
            ends.append((self.heard + 60 * self.silent_minutes, silent))
        return min(ends)

    def _watch(self) -> None:
        while (left := self._soonest()[0] - time.monotonic()) > 0:
            if self.over.wait(left):
                return
        self.struck = self._soonest()[1]
        self.end()
