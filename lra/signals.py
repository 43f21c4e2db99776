"""The signals on which a run and its cells save and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

WARNINGS = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU})
"""A closed terminal's signal, and those that schedulers send to a job's processes some time before a limit.

They may come twice, and ask for nothing but to save; further ones are ignored.
"""
STOP = frozenset({signal.SIGINT, signal.SIGTERM}) | WARNINGS


def on_stop(handle: Callable[[int, FrameType | None], Any]) -> None:
    """Calls `handle` on each of these signals, but for those that are ignored, as by nohup or in the background."""
    for number in STOP:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
