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

from lra.grid import expand, names, spec
from lra.grid.cell import Cell
from lra.launch import local, scheduler
from lra.launch.scheduler import Slot
from lra.results import records, runs
from lra.results.folder import clean_up, record_path, unfinished
from tests.helpers.cli import ROOT
from tests.helpers.records import record, result

DEVICE = {
    "platform": "gpu", "kind": "a made-up GPU", "count": 64, "used": 1, "host_cpu": "a CPU", "host_cores": 2,
}  # fmt: skip
ENTRY = "listops-made-up"
MODELS = ("transformer", "fnet", "performer", "local")
POINTS = 20
"""Of each cell's learning curve."""


def entry(data: Path) -> Path:
    """A data set's cache entry, as far as planning reads it."""
    folder = data / ENTRY
    folder.mkdir(parents=True)
    meta = {
        "source": "made up", "fingerprint": "0" * 64, "notes": [],
        "counts": {"train": 64, "validation": 20, "test": 20}, "majority": {"test": 0.2},
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def cells_of(count: int, data: Path) -> list[Cell]:
    """`count` cells: seeds of four models."""
    protocol = names.find_protocol("lra")
    seeds = range(count // len(MODELS))
    plans = expand.make_plans(protocol, ["listops"], MODELS, [], seeds, [])
    return [expand.make_cell(plan, data, DEVICE) for plan in expand.group_seeds(plans, "off", DEVICE)]


class StandIn:
    """A cell in `local._run_worker`'s stead: a record as large as a trained cell's is written at once."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def __call__(
        self, cell: Cell, options: spec.RunOptions, context: Any, label: str, leader: Any = None
    ) -> records.Record:
        plan = cell.plan
        whole = record(plan.model.name, plan.task, 0.5, plan.seeds[0], length=plan.length, accelerator=cell.accelerator)
        whole |= {"key": cell.key, "results": [result(0.5, plan.seeds[0], points=POINTS)]}
        whole |= {"recipe": dataclasses.asdict(plan.recipe), "data": cell.data}
        records.write(record_path(options.results, cell), whole)
        self.ended.append(time.process_time())
        return whole

    def slower(self) -> float:
        """CPU time of this process for the last tenth of the cells, divided by that for the first."""
        tenth = len(self.ended) // 10
        first, last = self.ended[tenth] - self.ended[0], self.ended[-1] - self.ended[-1 - tenth]
        return last / first


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        return result


def one_run(folder: Path, count: int, slots: int) -> dict[str, float]:
    """A run of `count` cells in this process and `status` after it; returns seconds by part."""
    stand_in, clock, results = StandIn(), Clock(), folder / "results"
    local._run_worker = stand_in  # type: ignore[assignment]
    cells = clock("planning", cells_of, count, folder / "data" / ENTRY)
    clock("planning", runs.save, results, "run", [], cells)
    left = clock("planning", unfinished, cells, results)
    options = spec.RunOptions(results=results, data=folder / "data")
    computed = time.process_time()
    with open(os.devnull, "w") as nowhere:
        console, places = Console(file=nowhere), [Slot() for _ in range(slots)]
        clock("schedule", scheduler.run_cells, left, options, console, places)
    computed = time.process_time() - computed
    clock("schedule", clean_up, cells, results)
    clock("again", unfinished, cells, results)
    rows, _ = clock("status", runs.status, results)
    # Another run looks at each cell once more, and has its lease meanwhile.
    assert {row["state"] for row in rows} <= {"done", "running"} and len(rows) == count
    slower = stand_in.slower() if len(stand_in.ended) > 20 else math.nan
    return clock.seconds | {"processor": computed, "slower": slower}


def runs_at_once(folder: Path, count: int, slots: int, runs: int) -> list[dict[str, float]]:
    """Several runs on one folder, each in a process of its own; seconds by part, a dictionary a run."""
    entry(folder / "data")
    command = [sys.executable, "-m", "tests.scale.launcher", str(folder), str(count), str(slots)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(runs)]
    outputs = [process.communicate()[0] for process in started]
    assert len(list((folder / "results" / "records").glob("*.json"))) == count
    return [json.loads(text) for text in outputs]


if __name__ == "__main__":
    print(json.dumps(one_run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
