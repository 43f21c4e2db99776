"""The soak's figures as a page of the docs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.soak.seen import PHASES


@dataclass
class Told:
    """The faults that were injected, and their consequences."""

    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    phases: Counter[str] = field(default_factory=Counter)
    """By what the run was at."""
    starts: int = 0
    """Of `run.py`, the undisturbed run left out."""
    shared: int = 0
    """Faults while two runs were at the folder."""
    grids: int = 0
    cells: int = 0
    steps: int = 0
    """That the cells of the finished grids needed."""
    resumed: int = 0
    """How often these cells went on from a checkpoint."""
    lost: int = 0
    """Steps that the last heartbeat before a fault told, and no checkpoint had."""
    undisturbed_seconds: float = 0.0
    """Of a run of one grid."""
    seconds: float = 0.0
    """Of the whole soak, without the undisturbed run."""
    problems: list[str] = field(default_factory=list)


def page(told: Told, command: str, machine: str, grid: str) -> str:
    """The page, in Markdown."""
    whole = sum(told.faults.values())
    lines = [
        "# The soak",
        "",
        f"A grid of small cells ({grid}) runs while its processes are killed at random moments; each time the same "
        "command is started again, sometimes twice on one folder. When a grid is finished, another starts with empty "
        "folders, data and compilation cache included, until all faults have been injected. Half of the moments are "
        "drawn by time, half follow an event seen on disk: a cell's process, a checkpoint, a record.",
        "",
        f"    {command}",
        "",
        f"on {machine}, which had other work to do: **{whole} faults, {_verdict(told)}**",
        "",
        "After each grid it is checked that every cell has one complete record; that accuracies, learning curves, "
        "losses, recipe and data equal those of an undisturbed run **to the bit**; and that no process, lease, "
        "checkpoint or temporary file is left. After each run it is checked that its fault explains its exit code "
        "and that it printed no traceback.",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {kind} | {count} |" for kind, count in sorted(told.faults.items(), key=lambda pair: -pair[1])),
        "",
        "| what the run was doing, as seen from outside | times |",
        "|---|---:|",
        *(f"| {phase} | {told.phases[phase]} |" for phase in PHASES),
        "",
        "| total | |",
        "|---|---:|",
        f"| faults while two runs shared the folder | {told.shared} |",
        f"| grids finished | {told.grids} |",
        f"| cells finished | {told.cells} |",
        f"| starts of `run.py` | {told.starts} |",
        f"| times a cell resumed from a checkpoint | {told.resumed} |",
        f"| steps trained in these cells | {told.steps:,} |",
        f"| steps done twice, by the heartbeats (five per second) | {told.lost:,} |",
        f"| wall time of an undisturbed grid | {told.undisturbed_seconds:.0f} s |",
        f"| wall time of the soak | {told.seconds / 60:.0f} min |",
        "",
    ]
    if told.problems:
        lines += ["Problems:", "", *(f"- {line}" for line in told.problems), ""]
    return "\n".join(lines)


def _verdict(told: Told) -> str:
    return "nothing lost." if not told.problems else f"{len(told.problems)} problems, listed below."
