"""The launcher with stand-in cells: all is real but a cell's process, which writes its record at once.

Planning, grids, leases, the schedule, records and `status` are the suite's own, on a real folder. Left out is what
starting a process costs: Python, JAX, the data, and git's two calls for the commit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from lra import grid, grids, launch, records, schedule
from lra.slots import Slot
from lra.sweep import sweep
from tests.made import record, result
from tests.test_cli import ROOT

DEVICE = {
    "platform": "gpu", "kind": "a made-up GPU", "count": 64, "used": 1, "host_cpu": "a CPU", "host_cores": 2,
}  # fmt: skip
ENTRY = "listops-made-up"
MODELS = ("transformer", "fnet", "performer", "local")
POINTS = 20
"""Of each cell's learning curve."""


def entry(data: Path) -> Path:
    """A data set's cache entry, as far as planning reads it."""
    made = data / ENTRY
    made.mkdir(parents=True)
    meta = {
        "source": "made up", "fingerprint": "0" * 64, "notes": [],
        "counts": {"train": 64, "validation": 20, "test": 20}, "majority": {"test": 0.2},
    }  # fmt: skip
    (made / "meta.json").write_text(json.dumps(meta))
    return made


def cells_of(count: int, data: Path) -> list[grid.Cell]:
    """`count` cells: seeds of four models."""
    protocol = grid.protocol_named("lra")
    seeds = range(count // len(MODELS))
    plans = grid.plans(protocol, ["listops"], MODELS, [], seeds, [])
    return [grid.cell(plan, data, DEVICE) for plan in grid.together(plans, "off", DEVICE)]


class StandIn:
    """A cell in `launch._run`'s stead: a record as large as a trained cell's is written at once."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def __call__(self, cell: grid.Cell, how: launch.How, place: Any, label: str) -> records.Record:
        plan = cell.plan
        made = record(plan.model.name, plan.task, 0.5, plan.seeds[0], length=plan.length, accelerator=cell.accelerator)
        made |= {"key": cell.key, "results": [result(0.5, plan.seeds[0], points=POINTS)]}
        made |= {"recipe": dataclasses.asdict(plan.recipe), "data": cell.data}
        records.write(launch.path_of(how.results, cell), made)
        self.ended.append(time.process_time())
        return made

    def slower(self) -> float:
        """What this process computed for the last tenth of the cells, over that for the first."""
        tenth = len(self.ended) // 10
        first, last = self.ended[tenth] - self.ended[0], self.ended[-1] - self.ended[-1 - tenth]
        return last / first


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        made = function(*args)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        return made


def one_run(folder: Path, count: int, slots: int) -> dict[str, float]:
    """A run of `count` cells in this process and `status` after it; returns seconds by part."""
    stand_in, clock, results = StandIn(), Clock(), folder / "results"
    launch._run = stand_in  # type: ignore[assignment]
    cells = clock("planning", cells_of, count, folder / "data" / ENTRY)
    clock("planning", grids.save, results, "run", [], cells)
    left = clock("planning", launch.left, cells, results)
    how = launch.How(results=results, data=folder / "data")
    computed = time.process_time()
    with open(os.devnull, "w") as nowhere:
        console, places = Console(file=nowhere), [Slot() for _ in range(slots)]
        clock("schedule", schedule.run_cells, left, how, console, places)
    computed = time.process_time() - computed
    clock("schedule", sweep, cells, results)
    clock("again", launch.left, cells, results)
    rows, _ = clock("status", grids.status, results)
    # Another run looks at each cell once more, and has its lease meanwhile.
    assert {row["state"] for row in rows} <= {"done", "running"} and len(rows) == count
    slower = stand_in.slower() if len(stand_in.ended) > 20 else math.nan
    return clock.seconds | {"processor": computed, "slower": slower}


def runs_at_once(folder: Path, count: int, slots: int, runs: int) -> list[dict[str, float]]:
    """Several runs on one folder, each in a process of its own; seconds by part, a dictionary a run."""
    entry(folder / "data")
    command = [sys.executable, "-m", "tests.scale.launcher", str(folder), str(count), str(slots)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(runs)]
    told = [process.communicate()[0] for process in started]
    assert len(list((folder / "results" / "records").glob("*.json"))) == count
    return [json.loads(text) for text in told]


if __name__ == "__main__":
    print(json.dumps(one_run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
