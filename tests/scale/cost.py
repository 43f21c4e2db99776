"""The cost of a full grid on some devices: seconds of each cell, and how long the last one takes to end."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lra.results import load, records
from tests.scale.operations import Work

Speeds = dict[tuple[str, str, int], float]
"""Steps a second by task, model and length."""


@dataclass(frozen=True)
class Times:
    """Seconds of every cell of a grid, one after the other."""

    seconds: list[float]

    @property
    def total(self) -> float:
        return math.fsum(self.seconds)

    @property
    def longest(self) -> float:
        return max(self.seconds)

    def until_the_end(self, devices: int) -> float:
        """Seconds until the last cell ends where a free device takes the longest cell that is left; none is split."""
        free = [0.0] * devices
        for seconds in sorted(self.seconds, reverse=True):
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free)


def at_rate(works: Sequence[Work], seeds: int, rate: float, speeds: Mapping[tuple[str, str, int], float]) -> Times:
    """The grid's times: by a cell's measured speed, or else by so many operations a second."""
    alone = []
    for work in works:
        speed = speeds.get((work.task, work.model, work.length))
        alone.append(work.operations / rate if speed is None else work.in_steps / speed)
    return Times([seconds for seconds in alone for _ in range(seeds)])


def measured(folders: Sequence[Path], accelerator: str = "", protocol: str = "lra") -> tuple[str, Speeds, list[float]]:
    """From records: an accelerator, its steps a second in cells of the protocol, and operations a second of any cell.

    The accelerator is that of most records among those whose names contain `accelerator`; it is empty where there are
    none. Cells with settings of their own count only for operations a second.
    """
    timed = [r for kind in (records.RESULTS, records.BENCH) for r in load.load_records(folders, kind)[0]]
    timed = [r for r in timed if load.solo_speed(r) and accelerator.lower() in r["cell"]["accelerator"].lower()]
    most = Counter(r["cell"]["accelerator"] for r in timed).most_common(1)
    if not most:
        return "", {}, []
    ((name, _),) = most
    ours = [r for r in timed if r["cell"]["accelerator"] == name]
    speeds: Speeds = {}
    for r in ours:
        cell = r["cell"]
        if cell["protocol"] == protocol and not r.get("overrides"):
            speeds[cell["task"], cell["model"], cell["length"]] = load.solo_speed(r) or math.nan
    rates = [r["flops_per_step"] * (load.solo_speed(r) or math.nan) for r in ours if r.get("flops_per_step")]
    return name, speeds, sorted(rates)
