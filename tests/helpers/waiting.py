"""Waiting for a condition, with an end that only a test that hangs reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
SECONDS = 900
"""Far more than anything here takes beside other work."""


def until(condition: Callable[[], Found], describe: Callable[[], object] = lambda: "") -> Found:
    """Waits until `condition` returns something true, and returns it; `describe` says what there is instead."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.02)
    return found
