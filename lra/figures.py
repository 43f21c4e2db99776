"""The board's figures for papers: accuracy against speed with memory as area, and learning curves. PNG, SVG and PDF.

Models look as in `lra.plots`: they differ by colour, marker and dashes, so that a figure holds in grey too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lra import fairness, plots, tidy
from lra.board import Board
from lra.rows import Row, Score

_AREA = 900.0
"""Of the largest disc, points²."""
_STYLE = {
    "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.titlesize": 9.0, "legend.frameon": False,
}  # fmt: skip

Look = dict[str, plots.Style]
"""By model."""


def draw(board: Board, folder: Path) -> list[str]:
    """Writes every figure the board has data for to `folder`, one a protocol and accelerator.

    Returns: the names of the figures, without their endings.

    Raises:
        OSError: `folder` cannot be written.
    """
    look = plots.styles(row.model for row in board.rows)
    rows_of: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in board.rows:
        rows_of[row.protocol, row.accelerator].append(row)
    names = []
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        for (protocol, accelerator), rows in sorted(rows_of.items()):
            heading = f"Protocol {protocol}, {accelerator}"
            for kind, drawn in (("accuracy_speed", accuracy_speed), ("curves", curves)):
                figure = drawn(rows, list(board.columns), look, heading)
                if figure is not None:
                    names.append(plots.file_name([kind, protocol, accelerator]))
                    plots.save(figure, folder, names[-1])
    return names


def accuracy_speed(rows: Sequence[Row], columns: Sequence[str], look: Look, heading: str) -> Figure | None:
    """The Long Range Arena paper's figure 3: a panel a task, up and right is better, a disc's area is memory.

    All discs of a figure use one memory method: the accelerator's peak where every cell has it, else the compiled
    program's; where neither covers every cell, discs are alike. None where no two rows share a task with speed.
    """
    shown = {name: [(r, r.scores[name]) for r in rows if _placed(r.scores.get(name))] for name in columns}
    shown = {name: points for name, points in shown.items() if len(points) > 1}
    if not shown:
        return None
    scores = [score for points in shown.values() for _, score in points]
    method, words = _method(scores)
    most = max((score.memory(method) or 0 for score in scores), default=0) if method else 0
    told = f"Disc area: {words}, the largest {most / 1e9:.3g} GB. " if most else ""
    figure, axes = _panels(len(shown), f"{heading}\n{told}Dotted and empty: free for all.")
    for ax, (name, points) in zip(axes, shown.items(), strict=True):
        for row, score in points:
            assert score.estimate is not None
            style = look[row.model]
            x, y = score.steps_per_second, score.estimate.mean
            size = _AREA * (score.memory(method) or 0) / most if most else 120.0
            free = row.kind == fairness.FREE
            ax.scatter(
                x, y, s=size, facecolor="none" if free else style.color, alpha=None if free else 0.3, linewidth=0
            )
            ax.scatter(
                x, y, s=size, facecolor="none", edgecolor=style.color, linestyle=":" if free else "-", linewidth=1
            )
            ax.scatter(x, y, s=16, color=style.color, marker=style.marker, zorder=3)
        ax.set_title(name, parse_math=False)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(0.2)
        ax.set_xlabel("training steps per second")
        ax.set_ylabel("accuracy (%)")
    _legend(figure, {row.model for points in shown.values() for row, _ in points}, look, lines=False)
    return figure


def curves(rows: Sequence[Row], columns: Sequence[str], look: Look, heading: str) -> Figure | None:
    """Validation accuracy over steps, a panel a task: the mean over seeds, and their range as a band."""
    shown: dict[str, list[tuple[Row, np.ndarray, np.ndarray]]] = {}
    for name in columns:
        for row in rows:
            found = _curve(row.scores[name]) if name in row.scores else None
            if found is not None:
                shown.setdefault(name, []).append((row, *found))
    if not shown:
        return None
    figure, axes = _panels(len(shown), f"{heading}\nMean over seeds; band: their range.")
    for ax, (name, lines) in zip(axes, shown.items(), strict=True):
        for row, steps, values in lines:
            style = look[row.model]
            some = max(1, len(steps) // 5)
            ax.plot(steps, values.mean(0), **style.line() | {"linewidth": 1.2, "markersize": 4}, markevery=some)
            if len(values) > 1:
                ax.fill_between(steps, values.min(0), values.max(0), color=style.color, alpha=0.15, linewidth=0)
        ax.set_title(name, parse_math=False)
        ax.set_xlabel("step")
        ax.set_ylabel("validation accuracy (%)")
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.locator_params(axis="x", nbins=5)
    _legend(figure, {row.model for lines in shown.values() for row, *_ in lines}, look, lines=True)
    return figure


def _placed(score: Score | None) -> bool:
    return score is not None and score.estimate is not None and bool(score.steps_per_second)


def _method(scores: Sequence[Score]) -> tuple[str, str]:
    for name, words in (("device_peak_bytes", "accelerator's peak memory"), ("compiled_bytes", "compiled program")):
        if all(score.memory(name) for score in scores):
            return name, words
    return "", ""


def _curve(score: Score) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps [N] and validation accuracy in % [seeds, N], over the steps that every seed has; None without any."""
    by_seed = []
    for record in score.found:
        for result in tidy.seeds(record):
            known = {step: 100 * value for step, value in tidy.line(result, "validation_accuracy")}
            if known and result["status"] == "ok":
                by_seed.append(known)
    steps = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    if len(steps) < 2:
        return None
    return np.array(steps), np.array([[known[step] for step in steps] for known in by_seed])


def _panels(count: int, heading: str) -> tuple[Figure, list[Any]]:
    across = min(count, 3)
    down = -(-count // across)
    figure = Figure(figsize=(2.6 * across + 0.4, 2.3 * down + 0.9), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    figure.suptitle(heading, fontsize=9, parse_math=False)
    return figure, axes[:count]


def _legend(figure: Figure, models: Iterable[str], look: Look, lines: bool) -> None:
    names = sorted(models)
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.dashes if lines else "none", markersize=5)
        for s in (look[name] for name in names)
    ]
    columns = min(len(names), 4)
    legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=7, handlelength=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
