"""Figures for papers, each as PNG, SVG and PDF."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from lra.report import fairness, figures
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Row, Score
from lra.results import load
from tasks.io.files import write_whole

FORMATS = ("png", "svg", "pdf")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, told apart with every kind of colour vision (Wong 2011, Nature Methods 8:441); its black
is the Transformer's, its yellow too pale for lines."""
_MARKERS = ("s", "^", "D", "v", "P", "d", "<", "X", ">", "p", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_FAILURES = {"oom": "x", "timeout": "+", "failed": "1"}
"""Statuses without figures, and the marker at a line's end that says so."""
_GROUP = ["task", "precision", "protocol", "overrides", "accelerator", "devices", "memory limit bytes", "searched"]


@dataclass(frozen=True)
class Style:
    """How a model is drawn; no two of 44 models have marker and dashes in common, so grey tells them apart."""

    color: str
    marker: str
    dashes: Any

    def line(self) -> dict[str, Any]:
        """Keyword arguments of a plotted line."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dashes, "linewidth": 1.5,
                "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.5}  # fmt: skip


def styles(models: Iterable[str]) -> dict[str, Style]:
    """A style for each model: the Transformer's is black, the others' follow from the order of their names."""
    found = {}
    for number, model in enumerate(sorted(set(models) - {"transformer"})):
        looks = (kind[number % len(kind)] for kind in (_COLOURS, _MARKERS, _DASHES))
        found[model] = Style(*looks)
    return found | {"transformer": Style("#000000", "o", "-")}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes the figure in every format, each whole or not at all; equal figures give equal files."""
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "lra"}):
        for kind in FORMATS:
            drawn = io.BytesIO()
            figure.savefig(drawn, format=kind, dpi=160, bbox_inches="tight", metadata=undated[kind])
            write_whole(folder / f"{name}.{kind}", drawn.getvalue())


def file_name(words: Iterable[Any]) -> str:
    """Words as a file's name."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.=]+", "_", str(word)) for word in words if str(word))


def efficiency_figures(board: pd.DataFrame, folder: Path) -> list[str]:
    """One figure a task, batch, precision, protocol, overrides and accelerator of `lra.report.efficiency.table`.

    Returns: the names of the figures, without their endings.
    """
    drawn = styles(board["model"])
    fixed = board["batch"].where(~board["searched"], 0)
    names = []
    for _, group in board.groupby([*_GROUP, fixed.rename("fixed")], dropna=False, sort=True):
        figure, name = draw_efficiency(group, drawn)
        save(figure, folder, name)
        names.append(name)
    return names


def draw_efficiency(group: pd.DataFrame, drawn: dict[str, Style]) -> tuple[Figure, str]:
    """The figure of rows that share everything but model and length, and its file's name."""
    first = group.iloc[0]
    measured = group["device peak bytes"].notna().any()
    memory = (
        ("device peak bytes", "device memory, peak (GB)")
        if measured
        else ("compiled bytes", "memory planned by the compiler (GB)")
    )
    if first["searched"]:
        batch = "largest batch"
        panels = [("max batch", "largest batch that fits"), ("training examples/s", "training examples/s"),
                  ("inference examples/s", "inference examples/s"), memory]  # fmt: skip
    else:
        batch = f"batch {first['batch']}"
        panels = [("training steps/s", "training steps/s"), ("inference steps/s", "inference steps/s"), memory,
                  ("training speed-up vs transformer", "training speed ÷ Transformer's")]  # fmt: skip
    limit = "" if pd.isna(first["memory limit bytes"]) else f"{first['memory limit bytes'] / 2**30:g} GiB"
    devices = "" if first["devices"] == 1 else f"{first['devices']} devices"
    words = [first["task"], batch, first["precision"], first["protocol"], first["overrides"], devices, limit]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    figure.suptitle(", ".join(filter(None, words)) + f"\n{first['accelerator']}", fontsize=11, parse_math=False)
    grid = figure.subplots(2, 2).flat
    for axes, (column, label) in zip(grid, panels, strict=True):
        unit = 1e9 if column.endswith("bytes") else 1.0
        _efficiency_panel(axes, group.assign(y=group[column].astype(float) / unit), label, drawn)
    _efficiency_legend(figure, group, drawn, by=panels[1][0])
    return figure, file_name([*words[:2], *words[3:6], limit, first["precision"], first["accelerator"]])


def _efficiency_panel(axes: Axes, group: pd.DataFrame, label: str, drawn: dict[str, Style]) -> None:
    lengths = sorted(group["length"].astype(int).unique())
    for model, rows in group.sort_values("length").groupby("model", sort=False):
        style = drawn[str(model)]
        done = rows[rows["y"] > 0]
        axes.plot(done["length"].astype(float), done["y"], **style.line())
        for _, lost in rows[rows["status"].isin(list(_FAILURES))].iterrows():
            before = done[done["length"] < lost["length"]]
            if len(before):
                last, step = before.iloc[-1], lost["length"] / before.iloc[-1]["length"]
                # Not at the length that failed: there it would look like a value.
                x, y = [float(last["length"]), float(last["length"] * step**0.4)], [last["y"]] * 2
                axes.plot(x, y, color=style.color, linestyle=":", linewidth=1)
                axes.plot(x[1:], y[1:], _FAILURES[lost["status"]], color=style.color, markersize=8, markeredgewidth=1.8)
                break  # what is longer fails too, and one mark says it
    axes.set_title(label, fontsize=10, loc="left")
    axes.set_xlabel("length (tokens)", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if (group["y"] > 0).any():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _efficiency_legend(figure: Figure, group: pd.DataFrame, drawn: dict[str, Style], by: str) -> None:
    """Beside the panels: the models from the fastest at the greatest length down, and what the marks mean."""
    ranked = group.assign(speed=group[by].astype(float)).sort_values(["length", "speed"], na_position="first")
    models = list(dict.fromkeys(reversed(ranked["model"].tolist())))
    handles = []
    for model in models:
        lost = group[(group["model"] == model) & group["status"].isin(list(_FAILURES))].sort_values("length")
        told = f" ({lost.iloc[0]['status']} at {lost.iloc[0]['length']:,})" if len(lost) else ""
        handles.append(Line2D([], [], label=f"{model}{told}", **drawn[str(model)].line()))
    present = [status for status in _FAILURES if (group["status"] == status).any()]
    words = {"oom": "out of memory", "timeout": "out of time", "failed": "failed"}
    handles += [Line2D([], [], label=words[s], color="#555555", marker=_FAILURES[s], linestyle=":", markersize=8,
                       markeredgewidth=1.8) for s in present]  # fmt: skip
    legend = figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


_AREA = 900.0
"""Of the largest disc, points²."""
_STYLE = {
    "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.titlesize": 9.0, "legend.frameon": False,
}  # fmt: skip
Look = dict[str, figures.Style]
"""By model."""


def draw(board: Leaderboard, folder: Path) -> list[str]:
    """Writes every figure the board has data for to `folder`, one a protocol and accelerator.

    Returns: the names of the figures, without their endings.

    Raises:
        OSError: `folder` cannot be written.
    """
    look = figures.styles(row.model for row in board.rows)
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
                    names.append(figures.file_name([kind, protocol, accelerator]))
                    figures.save(figure, folder, names[-1])
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
        for result in load.seed_results(record):
            known = {step: 100 * value for step, value in load.curve_points(result, "validation_accuracy")}
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
