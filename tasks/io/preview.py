"""Previews of prepared data as the model sees them: statistics as text, and a page of samples as a picture.

Both depend on the cache entry only. Matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.io.cache import describe, open_entry
from tasks.io.files import writing
from tasks.task import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GREY, _COLOURS = "#222222", "#8a8a8a", ("#3b6ea5", "#c8793b", "#6a9a55")


def details(entry: Path) -> str:
    """Describes one entry in several lines: counts, class balance, lengths, source, fingerprint and notes.

    Raises:
        DataError: the entry is damaged.
    """
    data, meta = _read(entry)
    settings = meta["settings"]
    rows = [
        ("source", data.source),
        ("made with", f"version {settings['version']}, length {settings['length']:,}, seed {settings['seed']}"),
        ("entry", f"{entry.name} ({_format_size(entry)})"),
        ("fingerprint", data.fingerprint),
        ("documents", f"{len(data.lengths):,}; token ids 1 to {data.vocab - 1}, 0 is padding"),
    ]
    for split, part in data.splits.items():
        shares = np.bincount(part.labels, minlength=data.classes) / len(part.labels)
        rows.append((split, f"{len(part.labels):,} examples; {_format_balance(shares, meta['names'])}"))
    rows += [(f"{split} length", _format_lengths(data, split)) for split in data.splits]
    rows += [("note", note) for note in data.notes]
    return "\n".join([f"{settings['task']}: {meta['summary']}", *(f"  {name:<18}{text}" for name, text in rows)])


def _read(entry: Path) -> tuple[Dataset, dict[str, Any]]:
    """An entry's data and description; classes of a task that names none are numbered."""
    data, meta = open_entry(entry), describe(entry)
    return data, meta | {"names": meta["names"] or [str(label) for label in range(data.classes)]}


def _format_size(entry: Path) -> str:
    size = sum(file.stat().st_size for file in entry.iterdir())
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e3:,.0f} kB"


def _format_balance(shares: np.ndarray, names: list[str]) -> str:
    """The share of each class, or one share if all are equal."""
    if np.ptp(shares) < 0.0005:
        return f"{len(shares)} classes of {shares[0]:.1%} each"
    return ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))


def _format_lengths(data: Dataset, split: str) -> str:
    lengths = data.lengths[np.unique(data.splits[split].index)]
    low, quarter, median, three, high = np.percentile(lengths, [0, 25, 50, 75, 100]).astype(int)
    if low == high:
        return f"{low:,} each"
    full = float((lengths == data.values.shape[1]).mean())
    return f"{low:,} to {high:,}, median {median:,}, middle half {quarter:,} to {three:,}; {full:.1%} fill it"


def preview(entries: Iterable[Path], out_dir: Path) -> list[Path]:
    """Draws one PNG per entry into `out_dir`: samples of the training split, lengths or grey levels, classes.

    Raises:
        DataError: an entry is damaged, or the folder cannot be written.
    """
    # Needs no display, and leaves the user's choice of a backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pages = []
    for entry in entries:
        data, meta = _read(entry)
        figure = Figure(figsize=(12, 8.5), facecolor="white")
        FigureCanvasAgg(figure)
        _draw_page(figure, data, meta)
        page = out_dir / f"{entry.name}.png"
        with writing(out_dir):
            out_dir.mkdir(parents=True, exist_ok=True)
            figure.savefig(page, dpi=110)
        pages.append(page)
    return pages


def _draw_page(figure: Figure, data: Dataset, meta: dict[str, Any]) -> None:
    counts = " / ".join(f"{len(split.labels):,}" for split in data.splits.values())
    figure.text(0.03, 0.952, meta["settings"]["task"], fontsize=20, weight="bold", color=_INK)
    figure.text(0.03, 0.925, meta["summary"], fontsize=11, color=_INK, parse_math=False)
    facts = f"{counts} examples\n{data.source}\nfingerprint {data.fingerprint[:16]}"
    figure.text(0.97, 0.975, facts, fontsize=9, color=_GREY, ha="right", va="top", parse_math=False)
    if meta["shape"]:
        _draw_pictures(figure, data, meta)
    else:
        _draw_texts(figure, data, meta)
    bottom_row = figure.add_gridspec(1, 2, left=0.06, right=0.97, bottom=0.075, top=0.215, wspace=0.16)
    left, right = figure.add_subplot(bottom_row[0]), figure.add_subplot(bottom_row[1])
    if meta["shape"]:
        _plot_grey_levels(left, data)
    else:
        _plot_lengths(left, data)
    _plot_classes(right, data, meta)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7.5, colors=_INK)


def _draw_pictures(figure: Figure, data: Dataset, meta: dict[str, Any]) -> None:
    """Draws one block of pictures per class: two squares for two classes, ten columns for ten."""
    height, width = meta["shape"]
    across = {32: 4, 64: 4, 128: 3}.get(height, 2) if data.classes == 2 else 1
    down = across if data.classes == 2 else 5
    blocks = figure.add_gridspec(1, data.classes, left=0.03, right=0.97, bottom=0.26, top=0.885, wspace=0.06)
    for label, name in enumerate(meta["names"]):
        rows = _rows_of_class(data, label, across * down)
        cells = blocks[label].subgridspec(down, across, wspace=0.06, hspace=0.06)
        for place, row in enumerate(rows[:, 0]):
            axes = figure.add_subplot(cells[place // across, place % across])
            picture = data.values[row].reshape(height, width)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
            if place == 0:
                axes.set_title(f"{label}: {name}", fontsize=10, loc="left", color=_INK)


def _draw_texts(figure: Figure, data: Dataset, meta: dict[str, Any]) -> None:
    """Prints the beginnings of six examples (or four pairs), alternating between the classes."""
    pair = data.splits["train"].index.shape[1] == 2
    count, columns, lines = (4, 87, 8) if pair else (6, 178, 5)
    label_order = [label for label in range(data.classes) for _ in range(-(-count // data.classes))][:count]
    if data.classes > count:
        label_order = np.linspace(0, data.classes - 1, count).astype(int).tolist()
    samples = {label: iter(_rows_of_class(data, label, count)) for label in label_order}
    for place, label in enumerate(label_order):
        rows = next(samples[label], None)
        if rows is None:
            continue
        top = 0.885 - place * 0.63 / count
        head = f"{label}: {meta['names'][label]}" if meta["names"][label] != str(label) else f"answer {label}"
        figure.text(0.03, top, head, fontsize=10, color=_COLOURS[label % 3], weight="bold", va="top")
        for column, row in enumerate(rows):
            shown = _excerpt(data, row, meta["alphabet"], columns, lines)
            figure.text(
                0.03 + 0.475 * column,
                top - 0.02,
                shown,
                fontsize=7.5,
                family="monospace",
                color=_INK,
                va="top",
                linespacing=1.25,
                parse_math=False,
            )


def _rows_of_class(data: Dataset, label: int, count: int) -> np.ndarray:
    """Rows of the table [n, P] of the first `count` training examples of a class."""
    train = data.splits["train"]
    return np.asarray(train.index[np.flatnonzero(train.labels == label)[:count]])


def _excerpt(data: Dataset, row: int, alphabet: list[str], columns: int, lines: int) -> str:
    """The beginning of a document as the model sees it; bytes that are not printable ASCII are escaped."""
    length = int(data.lengths[row])
    values = data.values[row, : min(length, columns * lines)]
    if alphabet:
        text = " ".join(alphabet[value] for value in values)
        unit = "tokens"
    else:
        text = "".join(chr(v) if 32 <= v < 127 else f"\\x{v:02x}" for v in values)
        unit = "bytes"
    wrapped = textwrap.wrap(text, columns, break_long_words=True)
    shown = wrapped[: lines - 1] if len(wrapped) >= lines else wrapped
    return "\n".join([*shown, f"… ({length:,} {unit})" if len(shown) < len(wrapped) else f"({length:,} {unit})"])


def _plot_lengths(axes: Axes, data: Dataset) -> None:
    limit = data.values.shape[1]
    for (split, part), colour in zip(data.splits.items(), _COLOURS, strict=True):
        lengths = data.lengths[np.unique(part.index)]
        edges = np.linspace(0, limit, 61)
        share = np.histogram(lengths, edges)[0] / len(lengths)
        axes.stairs(share, edges, color=colour, label=split, linewidth=1.4)
    axes.set_title("length of a document, share of each split", fontsize=9, loc="left", color=_INK)
    axes.set_xlim(0, limit)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def _plot_grey_levels(axes: Axes, data: Dataset) -> None:
    rows = np.linspace(0, len(data.values) - 1, min(len(data.values), 500)).astype(int)
    share = np.bincount(data.values[rows].reshape(-1), minlength=256) / (len(rows) * data.values.shape[1])
    axes.stairs(share, np.arange(257) - 0.5, fill=True, color=_COLOURS[0])
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(-0.5, 255.5)
    axes.set_title(f"grey level, share of the pixels of {len(rows)} pictures", fontsize=9, loc="left", color=_INK)


def _plot_classes(axes: Axes, data: Dataset, meta: dict[str, Any]) -> None:
    places = np.arange(data.classes)
    for number, ((split, part), colour) in enumerate(zip(data.splits.items(), _COLOURS, strict=True)):
        share = np.bincount(part.labels, minlength=data.classes) / len(part.labels)
        axes.bar(places + (number - 1) * 0.27, share, 0.25, color=colour, label=split)
    axes.set_xticks(places, meta["names"])
    axes.margins(x=0.02)
    axes.set_title("share of each class", fontsize=9, loc="left", color=_INK)
    if meta["shape"]:
        axes.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 1.25), ncols=3)
