"""A limit on how long a process may take. Imports no JAX."""

from __future__ import annotations

import subprocess
import threading


class Clock:
    """Kills a process that is still there after so many minutes; None sets no limit."""

    def __init__(self, child: subprocess.Popen[bytes], minutes: float | None):
        self.child, self.struck = child, False
        self.timer = None if minutes is None else threading.Timer(60 * minutes, self._strike)
        if self.timer:
            self.timer.start()

    def stop(self) -> None:
        """The process has ended, or is going to be ended otherwise."""
        if self.timer:
            self.timer.cancel()

    def _strike(self) -> None:
        self.struck = True
        self.child.kill()
