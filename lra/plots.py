"""Figures, each as PNG, SVG and PDF: one line a model, readable without colours too. Imports no JAX."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tasks.files import write_whole

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


def efficiency(board: pd.DataFrame, folder: Path) -> list[str]:
    """One figure a task, batch, precision, protocol, overrides and accelerator of `lra.efficiency.table`.

    Returns: the names of the figures, without their endings.
    """
    drawn = styles(board["model"])
    fixed = board["batch"].where(~board["searched"], 0)
    names = []
    for _, group in board.groupby([*_GROUP, fixed.rename("fixed")], dropna=False, sort=True):
        figure, name = draw(group, drawn)
        save(figure, folder, name)
        names.append(name)
    return names


def draw(group: pd.DataFrame, drawn: dict[str, Style]) -> tuple[Figure, str]:
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
        _panel(axes, group.assign(y=group[column].astype(float) / unit), label, drawn)
    _legend(figure, group, drawn, by=panels[1][0])
    return figure, file_name([*words[:2], *words[3:6], limit, first["precision"], first["accelerator"]])


def _panel(axes: Axes, group: pd.DataFrame, label: str, drawn: dict[str, Style]) -> None:
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


def _legend(figure: Figure, group: pd.DataFrame, drawn: dict[str, Style], by: str) -> None:
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
