"""Figures for papers, each as PNG, SVG and PDF."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from lra.report import fairness
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Row, Score
from lra.results import load
from tasks.io.files import write_whole

FORMATS = ("png", "svg", "pdf")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, distinguishable with every kind of colour vision (Wong 2011, Nature Methods 8:441), without
its black, which is the Transformer's, and its yellow, which is too pale for lines."""
_MARKERS = ("s", "^", "D", "v", "P", "d", "<", "X", ">", "p", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_FAILURE_MARKERS = {"oom": "x", "timeout": "+", "failed": "1"}
"""Markers at the end of a model's line, by the status of the first cell that failed."""
_GROUP_BY = ["task", "precision", "protocol", "overrides", "accelerator", "devices", "memory limit bytes", "searched"]
_MAX_AREA = 900.0
"""Area of the largest disc, points²."""
_RC_PARAMS = {
    "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.titlesize": 9.0, "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a model is drawn; up to 44 models differ in marker or dashes, so they are distinguishable in grey."""

    color: str
    marker: str
    dashes: Any

    def line(self) -> dict[str, Any]:
        """Keyword arguments for `Axes.plot`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dashes, "linewidth": 1.5,
                "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.5}  # fmt: skip


Styles = dict[str, Style]
"""By model."""


def assign_styles(models: Iterable[str]) -> Styles:
    """A style for each model: black for the Transformer, the rest in the order of their names."""
    styles = {}
    for number, model in enumerate(sorted(set(models) - {"transformer"})):
        color, marker, dashes = (cycle[number % len(cycle)] for cycle in (_COLOURS, _MARKERS, _DASHES))
        styles[model] = Style(color, marker, dashes)
    return styles | {"transformer": Style("#000000", "o", "-")}


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Writes the figure in every format, each file atomically; equal figures give equal files."""
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "lra"}):
        for kind in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, bbox_inches="tight", metadata=undated[kind])
            write_whole(folder / f"{name}.{kind}", buffer.getvalue())


def to_file_name(words: Iterable[Any]) -> str:
    """Joins words to a file name, with only letters, digits and _ . = in each."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.=]+", "_", str(word)) for word in words if str(word))


def draw_all_efficiency(frame: pd.DataFrame, folder: Path) -> list[str]:
    """Draws one figure per task, batch, precision, protocol, overrides and accelerator of `efficiency.to_frame`.

    Returns:
        The figures' file names, without suffixes.
    """
    styles = assign_styles(frame["model"])
    fixed = frame["batch"].where(~frame["searched"], 0)
    names = []
    for _, group in frame.groupby([*_GROUP_BY, fixed.rename("fixed")], dropna=False, sort=True):
        figure, name = draw_efficiency(group, styles)
        save_figure(figure, folder, name)
        names.append(name)
    return names


def draw_efficiency(group: pd.DataFrame, styles: Styles) -> tuple[Figure, str]:
    """Draws rows that differ only in model and length; returns the figure and its file name."""
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
        _efficiency_panel(axes, group.assign(y=group[column].astype(float) / unit), label, styles)
    _efficiency_legend(figure, group, styles, by=panels[1][0])
    return figure, to_file_name([*words[:2], *words[3:6], limit, first["precision"], first["accelerator"]])


def _efficiency_panel(axes: Axes, group: pd.DataFrame, label: str, styles: Styles) -> None:
    lengths = sorted(group["length"].astype(int).unique())
    for model, rows in group.sort_values("length").groupby("model", sort=False):
        style = styles[str(model)]
        done = rows[rows["y"] > 0]
        axes.plot(done["length"].astype(float), done["y"], **style.line())
        for _, failed in rows[rows["status"].isin(list(_FAILURE_MARKERS))].iterrows():
            before = done[done["length"] < failed["length"]]
            if len(before):
                last, step = before.iloc[-1], failed["length"] / before.iloc[-1]["length"]
                # Short of the length that failed: there the marker would look like a value.
                x, y = [float(last["length"]), float(last["length"] * step**0.4)], [last["y"]] * 2
                axes.plot(x, y, color=style.color, linestyle=":", linewidth=1)
                marker = _FAILURE_MARKERS[failed["status"]]
                axes.plot(x[1:], y[1:], marker, color=style.color, markersize=8, markeredgewidth=1.8)
                break  # longer inputs fail too: one marker is enough
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


def _efficiency_legend(figure: Figure, group: pd.DataFrame, styles: Styles, by: str) -> None:
    """Beside the panels: the models, the fastest at the greatest length first, and the failure markers."""
    ranked = group.assign(speed=group[by].astype(float)).sort_values(["length", "speed"], na_position="first")
    models = list(dict.fromkeys(reversed(ranked["model"].tolist())))
    handles = []
    for model in models:
        failed = group[(group["model"] == model) & group["status"].isin(list(_FAILURE_MARKERS))].sort_values("length")
        failure = f" ({failed.iloc[0]['status']} at {failed.iloc[0]['length']:,})" if len(failed) else ""
        handles.append(Line2D([], [], label=f"{model}{failure}", **styles[str(model)].line()))
    present = [status for status in _FAILURE_MARKERS if (group["status"] == status).any()]
    labels = {"oom": "out of memory", "timeout": "out of time", "failed": "failed"}
    for status in present:
        look: dict[str, Any] = {"color": "#555555", "linestyle": ":", "markersize": 8, "markeredgewidth": 1.8}
        handles.append(Line2D([], [], label=labels[status], marker=_FAILURE_MARKERS[status], **look))
    legend = figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_leaderboard(leaderboard: Leaderboard, folder: Path) -> list[str]:
    """Draws accuracy over speed and learning curves to `folder`, one figure each per protocol and accelerator.

    Returns:
        The figures' file names, without suffixes.

    Raises:
        OSError: `folder` cannot be written.
    """
    styles = assign_styles(row.model for row in leaderboard.rows)
    rows_of: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in leaderboard.rows:
        rows_of[row.protocol, row.accelerator].append(row)
    names = []
    with mpl.rc_context(_RC_PARAMS):  # type: ignore[arg-type]
        for (protocol, accelerator), rows in sorted(rows_of.items()):
            heading = f"Protocol {protocol}, {accelerator}"
            for kind, draw in (("accuracy_speed", draw_accuracy_speed), ("curves", draw_curves)):
                figure = draw(rows, list(leaderboard.columns), styles, heading)
                if figure is not None:
                    names.append(to_file_name([kind, protocol, accelerator]))
                    save_figure(figure, folder, names[-1])
    return names


def draw_accuracy_speed(rows: Sequence[Row], columns: Sequence[str], styles: Styles, heading: str) -> Figure | None:
    """Draws accuracy over speed as figure 3 of the Long Range Arena paper: one panel per task, disc areas show memory.

    All discs of a figure use one memory method: the accelerator's peak where every cell has it, else the compiled
    program's; where neither covers every cell, all discs have the same size.

    Args:
        rows: of one protocol and accelerator.
        columns: names of the panels, in order.
        styles: of at least the rows' models.
        heading: first line of the title.

    Returns:
        The figure, or None where no two rows have accuracy and speed in the same column.
    """
    shown = {name: [(r, r.scores[name]) for r in rows if _has_point(r.scores.get(name))] for name in columns}
    shown = {name: points for name, points in shown.items() if len(points) > 1}
    if not shown:
        return None
    scores = [score for points in shown.values() for _, score in points]
    method, label = _memory_method(scores)
    max_memory = max((score.memory(method) or 0 for score in scores), default=0) if method else 0
    disc_key = f"Disc area: {label}, the largest {max_memory / 1e9:.3g} GB. " if max_memory else ""
    figure, axes = _panels(len(shown), f"{heading}\n{disc_key}Dotted and empty: free for all.")
    for ax, (name, points) in zip(axes, shown.items(), strict=True):
        for row, score in points:
            area = _MAX_AREA * (score.memory(method) or 0) / max_memory if max_memory else 120.0
            _draw_disc(ax, row, score, styles[row.model], area)
        ax.set_title(name, parse_math=False)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(0.2)
        ax.set_xlabel("training steps per second")
        ax.set_ylabel("accuracy (%)")
    _legend(figure, {row.model for points in shown.values() for row, _ in points}, styles, lines=False)
    return figure


def _draw_disc(ax: Axes, row: Row, score: Score, style: Style, area: float) -> None:
    assert score.estimate is not None and score.steps_per_second is not None
    x, y = score.steps_per_second, score.estimate.mean
    free = row.kind == fairness.FREE
    ax.scatter(x, y, s=area, facecolor="none" if free else style.color, alpha=None if free else 0.3, linewidth=0)
    ax.scatter(x, y, s=area, facecolor="none", edgecolor=style.color, linestyle=":" if free else "-", linewidth=1)
    ax.scatter(x, y, s=16, color=style.color, marker=style.marker, zorder=3)


def draw_curves(rows: Sequence[Row], columns: Sequence[str], styles: Styles, heading: str) -> Figure | None:
    """Draws validation accuracy over steps, one panel per task: the mean over seeds, and their range as a band.

    Args:
        rows: of one protocol and accelerator.
        columns: names of the panels, in order.
        styles: of at least the rows' models.
        heading: first line of the title.

    Returns:
        The figure, or None where no row has a curve.
    """
    shown: dict[str, list[tuple[Row, np.ndarray, np.ndarray]]] = {}
    for name in columns:
        for row in rows:
            validation = _validation_curves(row.scores[name]) if name in row.scores else None
            if validation is not None:
                shown.setdefault(name, []).append((row, *validation))
    if not shown:
        return None
    figure, axes = _panels(len(shown), f"{heading}\nMean over seeds; band: their range.")
    for ax, (name, lines) in zip(axes, shown.items(), strict=True):
        for row, steps, values in lines:
            style = styles[row.model]
            marker_every = max(1, len(steps) // 5)
            ax.plot(steps, values.mean(0), **style.line() | {"linewidth": 1.2, "markersize": 4}, markevery=marker_every)
            if len(values) > 1:
                ax.fill_between(steps, values.min(0), values.max(0), color=style.color, alpha=0.15, linewidth=0)
        ax.set_title(name, parse_math=False)
        ax.set_xlabel("step")
        ax.set_ylabel("validation accuracy (%)")
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.locator_params(axis="x", nbins=5)
    _legend(figure, {row.model for lines in shown.values() for row, *_ in lines}, styles, lines=True)
    return figure


def _has_point(score: Score | None) -> bool:
    return score is not None and score.estimate is not None and bool(score.steps_per_second)


def _memory_method(scores: Sequence[Score]) -> tuple[str, str]:
    for name, label in (("device_peak_bytes", "accelerator's peak memory"), ("compiled_bytes", "compiled program")):
        if all(score.memory(name) for score in scores):
            return name, label
    return "", ""


def _validation_curves(score: Score) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps [N] and validation accuracies in % [seeds, N] at the steps common to all seeds; None for fewer than two."""
    by_seed = []
    for record in score.records:
        for result in load.seed_results(record):
            accuracies = {step: 100 * value for step, value in load.curve_points(result, "validation_accuracy")}
            if accuracies and result["status"] == "ok":
                by_seed.append(accuracies)
    steps = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    if len(steps) < 2:
        return None
    return np.array(steps), np.array([[accuracies[step] for step in steps] for accuracies in by_seed])


def _panels(count: int, heading: str) -> tuple[Figure, list[Any]]:
    across = min(count, 3)
    down = -(-count // across)
    figure = Figure(figsize=(2.6 * across + 0.4, 2.3 * down + 0.9), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for ax in axes[count:]:
        ax.remove()
    figure.suptitle(heading, fontsize=9, parse_math=False)
    return figure, axes[:count]


def _legend(figure: Figure, models: Iterable[str], styles: Styles, lines: bool) -> None:
    names = sorted(models)
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.dashes if lines else "none", markersize=5)
        for s in (styles[name] for name in names)
    ]
    columns = min(len(names), 4)
    legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=7, handlelength=3)
    for text in legend.get_texts():
        text.set_parse_math(False)
