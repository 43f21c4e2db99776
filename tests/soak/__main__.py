"""Kills a grid's processes at random moments until enough kills have been injected, and checks that nothing is lost.

    python -m tests.soak --kills=200 --seed=0 --out=docs/soak.md

The seed draws the faults and their moments; what they hit depends on the machine. Exit code 1 where anything was lost,
changed or left over; the folder is kept then, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import random
import resource
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lra.train.device
from tests.helpers.cli import ROOT, TINY
from tests.soak import checks
from tests.soak.report import Outcome, page
from tests.soak.seen import Folder, Run, marked, until

CELL, RUN, BOTH, TERM, INT, CELL_TERM, DISK = (
    "SIGKILL of a cell's process", "SIGKILL of a run", "SIGKILL of a run and its cell", "SIGTERM of a run",
    "Ctrl-C (SIGINT) of a run", "SIGTERM of a cell's process", "disk full for a while",
)  # fmt: skip
KINDS = {CELL: 8, RUN: 3, BOTH: 2, TERM: 2, INT: 2, CELL_TERM: 2, DISK: 1}
"""How often each is drawn."""
MOMENTS = {"clock": 5, "run": 1, "cell": 2, "checkpoint": 2, "record": 2}
"""The event that a fault waits for, and its relative frequency."""
EXPLAINED = {
    CELL: {0, 1}, CELL_TERM: {0, 1}, RUN: {-9}, BOTH: {-9}, TERM: {130, -15}, INT: {130, -2}, DISK: {0, 2},
}  # fmt: skip
"""Exit codes of a run by what it suffered. Signals that come before `run.py` has begun end it as any process."""
_SECONDS_TO_END = 180.0
_SHARED = 0.35
"""How often a second run is started on the folder."""


class Soak:
    """One soak, in a folder of its own."""

    def __init__(self, folder: Path, grid: list[str], kills: int, seed: int, minutes: float):
        self.folder, self.grid, self.kills, self.rng = folder, grid, kills, random.Random(seed)
        self.until = time.monotonic() + 60 * minutes
        self.mark = f"LRA_SOAK={secrets.token_hex(8)}"
        self.outcome, self.runs = Outcome(), list[Run]()
        self.at = folder / "spared"
        self.broken_off: set[tuple[str, str]] = set()
        self.longest: dict[str, float] = {}
        """Most seconds from what a fault waits for to the fault."""

    def run(self) -> Outcome:
        """The undisturbed run, then grids under fire until enough faults have been injected."""
        began = time.monotonic()
        self.start()
        self.watch()
        undisturbed = checks.results_of(self.at / "results")
        assert undisturbed and {one["status"] for one in undisturbed.values()} == {"ok"}, "the undisturbed run failed"
        self.outcome = Outcome(undisturbed_seconds=time.monotonic() - began)
        self.outcome.problems += checks.left_over(self.at)
        began = time.monotonic()
        while not self.enough():
            self.at = self.folder / f"grid{self.outcome.grids}"
            self.one_grid(undisturbed)
            minutes = (time.monotonic() - began) / 60
            print(
                f"{minutes:.0f} min, {sum(self.outcome.faults.values())} faults, {self.outcome.grids} grids", flush=True
            )
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def watch(self) -> None:
        """Looks at the undisturbed run: the time until its first cell's process, its first step, its first record."""
        (run,), seen, began = self.runs, Folder(self.at / "results"), time.monotonic()
        signs: list[Callable[[], bool]] = [
            lambda: bool(run.cells()),
            lambda: any(seen.steps(run.pid).values()),
            lambda: any(not name.startswith(".") for name in seen.records()),
        ]
        times = [began]
        for sign in signs:
            while not sign() and run.alive:
                time.sleep(0.05)
            times.append(time.monotonic())
        start, first, rest = (after - before for before, after in itertools.pairwise(times))
        self.longest = {"clock": first + rest, "run": start, "cell": first, "checkpoint": 0.05, "record": 0.05}
        while self.runs:
            time.sleep(0.2)
            self.reap()

    def one_grid(self, undisturbed: checks.Results) -> None:
        """A grid from nothing to its last record, under fire as long as faults are left."""
        while True:
            code = self.reap()
            if not self.runs:
                if code == 0 and self.finished(len(undisturbed)):
                    break
                self.start()
            if self.enough():
                time.sleep(0.2)
                continue
            if len(self.runs) < 2 and self.rng.random() < _SHARED:
                self.start()
            self.fault(self.rng.choice(self.runs))
        deadline = time.monotonic() + _SECONDS_TO_END
        while (rest := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        problems = [f"process {pid} is left" for pid in rest] + checks.problems(self.at, undisturbed)
        self.outcome.problems += [f"{self.at.name}: {line}" for line in problems]
        self.outcome.grids += 1
        for record in map(checks.records.read, (self.at / "results" / "records").glob("*.json")):
            self.outcome.cells += 1
            self.outcome.resumed += record.get("resumed") or 0
            self.outcome.steps += sum(result["steps"] for result in record["results"])
        if not problems:
            shutil.rmtree(self.at)

    def enough(self) -> bool:
        """Whether no more faults are to be injected."""
        return sum(self.outcome.faults.values()) >= self.kills or time.monotonic() > self.until

    def finished(self, cells: int) -> bool:
        """Whether every cell has its result."""
        try:
            results = checks.results_of(self.at / "results")
        except ValueError:
            return False
        return len(results) >= cells and all(one["status"] == "ok" for one in results.values())

    def start(self) -> None:
        """Starts the grid's command."""
        places = [f"--data={self.at}/data", f"--results={self.at}/results", f"--out={self.at}/out{len(self.runs)}"]
        (self.at / "tmp").mkdir(parents=True, exist_ok=True)
        name, _, value = self.mark.partition("=")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "soak" / "start.py"), *self.grid, *places],
            cwd=ROOT, env=os.environ | {name: value, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.at / "tmp")},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.runs.append(Run(process))
        self.outcome.starts += 1

    def reap(self) -> int | None:
        """Takes the runs that have ended out of the list, and looks at how; returns the last one's exit code."""
        code = None
        for run in [run for run in self.runs if not run.alive]:
            output, _ = run.process.communicate()
            code = run.process.returncode
            explained = set.union({0}, *(EXPLAINED[kind] for kind in run.suffers))
            raised = "Traceback" in output and not (code == -signal.SIGINT and INT in run.suffers)
            if code not in explained or raised:
                suffered = ", ".join(run.suffers) or "nothing"
                self.outcome.problems.append(f"{self.at.name}: exit code {code} after {suffered}: {output[-2000:]}")
            self.runs.remove(run)
        return code

    def fault(self, run: Run) -> None:
        """Waits for a moment and does something to a run, unless it ends before."""
        (kind,) = self.rng.choices(list(KINDS), list(KINDS.values()))
        (moment,) = self.rng.choices(list(MOMENTS), list(MOMENTS.values()))
        if not self.wait_for(moment, run):
            return
        cells = run.cells()
        if not cells and kind in (CELL, CELL_TERM):
            kind = RUN
        seen = Folder(self.at / "results")
        phase, steps = seen.phase(run, self.broken_off), seen.steps(run.pid)
        both = len(self.runs) > 1
        strike(kind, run, cells, self.rng)
        self.outcome.faults[kind] += 1
        self.outcome.phases[phase] += 1
        self.outcome.shared += both
        run.suffers.add(kind)
        if kind not in (CELL, CELL_TERM, DISK):
            run.process.wait(_SECONDS_TO_END)
        self.outcome.lost += sum(max(0, step - seen.saved(cell)) for cell, step in steps.items() if kind != DISK)
        self.broken_off = seen.saving()

    def wait_for(self, moment: str, run: Run) -> bool:
        """Waits for a moment; whether the run is still there then."""
        seen, pids = Folder(self.at / "results"), set(run.cells())
        files = seen.records()
        came: dict[str, Callable[[], bool]] = {
            "cell": lambda: bool(set(run.cells()) - pids),
            "checkpoint": lambda: bool(seen.saving() - self.broken_off),
            "record": lambda: seen.records() != files,
        }
        patience = time.monotonic() + 2 * self.longest["clock"]
        while moment in came and not came[moment]() and run.alive and time.monotonic() < patience:
            time.sleep(0.002)
        until(time.monotonic() + self.rng.uniform(0, self.longest[moment]))
        return run.alive


def strike(kind: str, run: Run, cells: list[int], rng: random.Random) -> None:
    """Does something to a run or its cells' processes."""
    if kind == DISK:
        # No file may grow, as on a disk that is full; for a while, which may fall on a record or a checkpoint.
        limit([run.pid, *run.cells()], 0)
        time.sleep(rng.uniform(0.5, 4))
        limit([run.pid, *run.cells()], resource.RLIM_INFINITY)
        return
    number = {TERM: signal.SIGTERM, INT: signal.SIGINT, CELL_TERM: signal.SIGTERM}.get(kind, signal.SIGKILL)
    hit = {CELL: cells, CELL_TERM: cells, BOTH: [run.pid, *cells]}.get(kind, [run.pid])
    for pid in hit:
        signal_to(pid, number)


def signal_to(pid: int, number: int) -> None:
    """Sends a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def limit(pids: list[int], size: int) -> None:
    """Lets the processes' files grow to `size` bytes."""
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        except ProcessLookupError:
            continue


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends early, with fewer faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default="ff_only,fnet")
    parser.add_argument("--seeds", default="0,1", help="of each model: as many cells")
    parser.add_argument("--steps", type=int, default=4_000, help="of each cell")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    grid = [
        *TINY, f"--models={args.models}", f"--seeds={args.seeds}", f"--set=train.steps={args.steps}",
        f"--set=train.eval_every={max(1, args.steps // 40)}", "--checkpoint_minutes=0",
    ]  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, grid, args.kills, args.seed, args.minutes)
    try:
        outcome = soak.run()
    finally:
        for pid in marked(soak.mark):
            signal_to(pid, signal.SIGKILL)
    shape = f"{args.models.replace(',', ' and ')}, seeds {args.seeds}, {args.steps:,} steps each"
    device = lra.train.device._cpu_name()
    machine = f"{os.cpu_count()} cores of {device}"
    text = page(outcome, shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]), machine, shape)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    print(f"{outcome}\n\n{text}")
    if outcome.problems:
        print(f"kept: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
