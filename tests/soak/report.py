"""The soak's figures as a page of the docs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.soak.seen import PHASES


@dataclass
class Outcome:
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
    """Steps that the last heartbeat before a fault named, and no checkpoint had."""
    undisturbed_seconds: float = 0.0
    """Of a run of one grid."""
    seconds: float = 0.0
    """Of the whole soak, without the undisturbed run."""
    problems: list[str] = field(default_factory=list)


def page(outcome: Outcome, command: str, machine: str, grid: str) -> str:
    """The page, in Markdown."""
    whole = sum(outcome.faults.values())
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
        f"on {machine}, which had other work to do: **{whole} faults, {_verdict(outcome)}**",
        "",
        "After each grid it is checked that every cell has one complete record; that accuracies, learning curves, "
        "losses, recipe and data equal those of an undisturbed run **to the bit**; and that no process, lease, "
        "checkpoint or temporary file is left. After each run it is checked that its fault explains its exit code "
        "and that it printed no traceback.",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {kind} | {count} |" for kind, count in sorted(outcome.faults.items(), key=lambda pair: -pair[1])),
        "",
        "| what the run was doing, as seen from outside | times |",
        "|---|---:|",
        *(f"| {phase} | {outcome.phases[phase]} |" for phase in PHASES),
        "",
        "| total | |",
        "|---|---:|",
        f"| faults while two runs shared the folder | {outcome.shared} |",
        f"| grids finished | {outcome.grids} |",
        f"| cells finished | {outcome.cells} |",
        f"| starts of `run.py` | {outcome.starts} |",
        f"| times a cell resumed from a checkpoint | {outcome.resumed} |",
        f"| steps trained in these cells | {outcome.steps:,} |",
        f"| steps done twice, by the heartbeats (five per second) | {outcome.lost:,} |",
        f"| wall time of an undisturbed grid | {outcome.undisturbed_seconds:.0f} s |",
        f"| wall time of the soak | {outcome.seconds / 60:.0f} min |",
        "",
    ]
    if outcome.problems:
        lines += ["Problems:", "", *(f"- {line}" for line in outcome.problems), ""]
    return "\n".join(lines)


def _verdict(outcome: Outcome) -> str:
    return "nothing lost." if not outcome.problems else f"{len(outcome.problems)} problems, listed below."
