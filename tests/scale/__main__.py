"""Writes docs/scale.md: the launcher with 10,000 stand-in cells, the cost of the whole benchmark, a cell's memory.

    python -m tests.scale --out=docs/scale.md
    python -m tests.scale --results=results/h200 --accelerator=H200 --out=docs/scale.md

The cost is an estimate from counted operations unless `--results` hold records of a device: then its steps a second
are taken for every task, model and length that has been measured, and its median rate for the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import lra.train.device
from configs import PROTOCOLS
from models import MIXERS
from tests.scale import cost, launcher, page, sizes
from tests.scale.operations import Work, work_of

SIMULATED = ((1, 1), (8, 1), (64, 1), (8, 2))
"""Slots of a run, and runs on the folder."""


def simulate(cells: int) -> list[page.Simulated]:
    """The launcher with so many stand-in cells, in each way."""
    done = []
    for slots, runs in SIMULATED:
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        done.append(page.Simulated(cells, slots, runs, launcher.runs_at_once(folder, cells, slots, runs)))
        shutil.rmtree(folder)
        print(done[-1], flush=True)
    return done


def all_work(tasks: list[str], models: list[str]) -> list[Work]:
    """Every cell's work, by task and model."""
    done = []
    for task in tasks:
        for model in models:
            done.append(work_of(task, model))
            print(done[-1], flush=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--tasks", default=",".join(PROTOCOLS["lra"].tasks))
    parser.add_argument("--models", default=",".join(MIXERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="NVIDIA H200", help="whose peak is assumed where nothing is measured")
    parser.add_argument("--results", type=Path, action="append", default=[], help="records of a device")
    parser.add_argument("--accelerator", default="", help="a part of its name, where records are of several")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    works = all_work(args.tasks.split(","), args.models.split(","))
    text = page.page(
        simulated=simulate(args.cells),
        works=works, seeds=args.seeds, device=args.device,
        measured=cost.measured(args.results, args.accelerator),
        here=cost.measured([page.CPU_RECORDS]),
        sizes=sizes.measure(),
        machine=f"{os.cpu_count()} cores of {lra.train.device._cpu_name()}",
    )  # fmt: skip
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
