"""docs/scale.md from what has been simulated, counted and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lra.train.flops import peak
from tests.scale.cost import Speeds, Times, at_rate
from tests.scale.launcher import POINTS
from tests.scale.operations import Work

CPU_RECORDS = Path(__file__).parents[2] / "results" / "cpu"
SHARES = (0.05, 0.10, 0.20, 0.40)
"""Of a device's peak, that training is assumed to reach."""
DEVICES = (1, 8, 64)
YEAR = 365.25 * 86400


@dataclass(frozen=True)
class Simulated:
    """One way of simulating the launcher, and what each of its runs took (`launcher.one_run`)."""

    cells: int
    slots: int
    runs: int
    seconds: list[dict[str, float]]

    def slowest(self, part: str) -> float:
        """Seconds of the slowest run."""
        return max(run[part] for run in self.seconds)


def page(
    simulated: Sequence[Simulated],
    works: Sequence[Work],
    seeds: int,
    device: str,
    measured: tuple[str, Speeds, list[float]],
    here: tuple[str, Speeds, list[float]],
    sizes: Mapping[str, int],
    machine: str,
) -> str:
    """The page, in Markdown."""
    counted = [work for work in works if math.isfinite(work.operations)]
    lines = [
        "# Scale",
        "",
        f"Written by `python -m tests.scale --out=docs/scale.md` on {machine}, which had other work to do.",
        "",
        *_launcher(simulated),
        *_grid(counted, works, seeds),
        *_cost(counted, seeds, device, measured),
        *_here(counted, seeds, here),
        *_sizes(sizes),
    ]
    return "\n".join(lines)


def _launcher(simulated: Sequence[Simulated]) -> list[str]:
    first = simulated[0]
    lines = [
        "## The launcher",
        "",
        "Stand-in cells: planning, the grid's file, leases, the schedule, records with "
        f"{POINTS}-point curves and `status` are the suite's own, on a local disk; only the cells' processes are "
        "left out. Seconds of the slowest run; with two runs, each looks at every cell, and each cell is run "
        "once. `processor` is the CPU time of a run's process; the rest of the time it waits for the disk, which syncs "
        "each record, and for the machine's other work. `growth` is the CPU time "
        "for the last tenth of the cells over that for the first tenth: it would be well above 1 if the cost of a cell "
        "grew with their number.",
        "",
        "| cells | slots | runs | planning | leases, schedule, records | ms per cell | processor, ms per cell | "
        "growth | `status` | start again, all done |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in simulated:
        run, slower = one.slowest("schedule"), [t["slower"] for t in one.seconds if math.isfinite(t["slower"])]
        lines.append(
            f"| {one.cells:,} | {one.slots} | {one.runs} | {one.slowest('planning'):.1f} | {run:.1f} | "
            f"{1e3 * run / one.cells:.1f} | {1e3 * one.slowest('processor') / one.cells:.1f} | "
            f"{max(slower, default=math.nan):.2f} | "
            f"{one.slowest('status'):.1f} | {one.slowest('again'):.1f} |"
        )
    return [
        *lines,
        "",
        f"So {first.cells:,} cells need {first.slowest('processor'):.0f} s of CPU time for all leases and records."
        " Starting a cell's process takes seconds: short cells wait for that, not for the launcher.",
        "",
    ]


def _grid(counted: Sequence[Work], works: Sequence[Work], seeds: int) -> list[str]:
    tasks = list(dict.fromkeys(work.task for work in works))
    models = len({work.model for work in works})
    lines = [
        "## The whole benchmark",
        "",
        f"{models} models × {len(tasks)} tasks × {seeds} seeds of protocol `lra`: {models * len(tasks) * seeds} cells. "
        "Operations of training, validation and test, counted on the programs that a cell compiles "
        "(`lra/train/flops.py`), in 10¹⁵ per cell.",
        "",
        "| task | length | steps | least | median | most | all seeds and models |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for task in tasks:
        of = sorted((w for w in counted if w.task == task), key=lambda w: w.operations)
        if not of:
            continue
        least, most = of[0], of[-1]
        whole = seeds * math.fsum(w.operations for w in of)
        lines.append(
            f"| {task} | {least.length:,} | {least.steps:,} | {_peta(least.operations)} ({least.model}) | "
            f"{_peta(median(w.operations for w in of))} | {_peta(most.operations)} ({most.model}) | {_peta(whole)} |"
        )
    if left := [f"{w.task} × {w.model}" for w in works if w not in counted]:
        lines += ["", f"Not counted, since a loop's trips are not known before it runs: {', '.join(left)}."]
    return [*lines, ""]


def _peta(operations: float) -> str:
    return f"{operations / 1e15:,.0f}" if operations > 1e17 else f"{operations / 1e15:.3g}"


def _cost(counted: Sequence[Work], seeds: int, device: str, measured: tuple[str, Speeds, list[float]]) -> list[str]:
    name, speeds, rates = measured
    if rates:
        known = sum((w.task, w.model, w.length) in speeds for w in counted)
        return [
            f"### On {name}, measured",
            "",
            f"{known} of {len(counted)} kinds of cells have steps per second in the records; the rest are assumed to "
            f"run at the median of the records, {median(rates) / 1e12:.3g} × 10¹² operations per second.",
            "",
            *_table([("measured", at_rate(counted, seeds, median(rates), speeds))]),
        ]
    most = peak(device, "bfloat16")
    if most is None:
        raise ValueError(f"lra/train/flops.py does not know {device}")
    whole = math.fsum(work.operations for work in counted)
    narrow = math.fsum(work.operations for work in counted if work.task == "pathx") / whole
    times = [(f"{share:.0%}", at_rate(counted, seeds, share * most, {})) for share in SHARES]
    return [
        f"### On {device}, estimated",
        "",
        "**Few cells have been measured on a GPU (docs/gpu.md): this is an estimate.** It rests on the operations "
        "above and on a share of the "
        f"device's peak in bfloat16 ({most / 1e12:,.0f} × 10¹² per second, by its maker) that is assumed to be the "
        "same for all cells. Large products reach the upper shares. Narrow models, FFTs and gathers may stay below the "
        f"lowest: {narrow:.0%} of the operations are Path-X's, in models of 32 channels with heads of 8, so the first "
        "line is no upper bound. Data, start and compilation are left out. Once a device has records, `--results` "
        "uses them instead of the assumption.",
        "",
        *_table(times),
    ]


def _table(times: Sequence[tuple[str, Times]]) -> list[str]:
    heads = " | ".join(f"until the end on {n}" for n in DEVICES)
    lines = [
        f"| share of the peak | device hours | {heads} | longest cell |",
        "|---:|---:|" + "---:|" * (len(DEVICES) + 1),
    ]
    for name, of in times:
        ends = " | ".join(in_words(of.until_the_end(n)) for n in DEVICES)
        lines.append(f"| {name} | {of.total / 3600:,.0f} | {ends} | {in_words(of.longest)} |")
    one = times[0][1]
    last = max(DEVICES)
    bound = "the longest cell" if one.until_the_end(last) < 1.01 * one.longest else "the sum of all cells"
    return [
        *lines,
        "",
        "The longest cells go first, each to the next free device. A cell is not split here (`--devices` can). On "
        f"{last} devices the end is set by {bound}; more than {math.ceil(one.total / one.longest)} devices bring "
        "no gain.",
        "",
    ]


def _here(counted: Sequence[Work], seeds: int, here: tuple[str, Speeds, list[float]]) -> list[str]:
    name, _, rates = here
    if not rates:
        return []
    at = (rates[0], median(rates), rates[-1])
    slowest, middle, fastest = (at_rate(counted, seeds, rate, {}).total / YEAR for rate in at)
    return [
        f"### On {name}",
        "",
        f"The {len(rates)} records in `results/cpu`, of the `quick` protocol, show {rates[0] / 1e9:.3g} to "
        f"{rates[-1] / 1e9:.3g} × 10⁹ operations per second, with a median of {median(rates) / 1e9:.3g}. At that rate "
        f"the whole benchmark would take {middle:,.0f} years ({fastest:,.0f} to {slowest:,.0f}): it is for "
        "accelerators.",
        "",
    ]


def _sizes(sizes: Mapping[str, int]) -> list[str]:
    return [
        "## Memory and disk of a cell",
        "",
        "Measured while one FNet of the `quick` protocol trains (2 layers, 64 wide). A checkpoint holds the parameters,"
        " the best ones and Adam's two moments: 16 bytes per parameter, 56 MB for the 3.5 million of Text's "
        "Transformer. The newest two are kept while a cell trains, and deleted when it is done.",
        "",
        "| item | size |",
        "|---|---:|",
        *(f"| {name} | {bytes_in_words(size)} |" for name, size in sizes.items()),
        "",
    ]


def bytes_in_words(size: float) -> str:
    """'12 kB', '340 MB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def in_words(seconds: float) -> str:
    """'40 min', '3.5 h', '12 days'."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"
