"""Leases of other machines, and a clock in the test's hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lra.results.lease import Lease, Leases, newest_lease


class Clock:
    """A monotonic clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def elsewhere(folder: Path, name: str, **changes: Any) -> Lease:
    """A lease of another machine, whose processes cannot be looked at."""
    lease, seen = Leases(folder).take(name), newest_lease(folder, name)
    assert lease and seen
    told = seen.contents | {"machine": "another", **changes}
    lease.path.write_bytes(json.dumps(told).encode().ljust(1000))
    return lease
