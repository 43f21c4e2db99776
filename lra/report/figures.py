"""The suite's figures, each defined once for the page and for the files: which records become which `charts.Figure`."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from lra.report import efficiency, fairness, headline, looks
from lra.report.charts import Axis, Chart, Figure, Series, bytes_text, counted, short, split_by_family, to_file_name
from lra.report.headline import MEMORY_METHODS
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Row, Score
from lra.report.stats import Estimate
from lra.report.styles import FAILURES, FAMILY_NAMES, Style, Styles, assign_styles, family_of
from lra.results import load
from lra.results.records import Record

SPEED = Axis("training steps per second", log=True)
MAX_LINE_POINTS = 40
"""Points of a line in a figure of many models, which has no room for more."""
_GROUP_BY = ["task", "precision", "protocol", "overrides", "accelerator", "devices", "memory limit bytes", "searched"]
_WORDS = {"oom": "out of memory", "timeout": "out of time", "failed": "failed"}


def styles_of(board: Leaderboard, benchmarks: Sequence[Record]) -> Styles:
    """The styles of all models that any figure shows."""
    return assign_styles([row.model for row in board.rows] + [record["cell"]["model"] for record in benchmarks])


def of_leaderboard(board: Leaderboard, benchmarks: Sequence[Record]) -> list[Figure]:
    """Every figure of results; those of `bench` alone are `over_length`."""
    styles = styles_of(board, benchmarks)
    table = headline.choose(board, benchmarks)
    first = overview(table, styles) if table else None
    trained = over_length(trained_over_length(board), styles, "training")
    windows = looks.figures(board, styles)
    return [*([first] if first else []), *accuracy_speed(board, styles), *windows, *curves(board, styles), *trained]


def overview(table: headline.Headline, styles: Styles) -> Figure | None:
    """Accuracy against speed with memory as area, one disc a model, as figure 3 of the Long Range Arena paper.

    Where no speed is known it is accuracy against memory.

    Returns:
        The figure, or None where fewer than two models have an accuracy and a speed or memory.
    """
    for measure in ("speed", "memory"):
        entries = headline.compared(table, measure)
        if len(entries) > 1:
            return _overview(table, styles, measure, entries)
    return None


def _overview(table: headline.Headline, styles: Styles, measure: str, entries: Sequence[headline.Entry]) -> Figure:
    accelerator = table.accelerator
    most = max(entry.memory or 0.0 for entry in entries) if all(entry.memory for entry in entries) else 0.0
    series = []
    for entry in entries:
        assert entry.value is not None
        x = entry.speed if measure == "speed" else (entry.memory or 0.0) / 1e9
        told = [accuracy_text(entry.value)]
        told += [f"{short(entry.speed)} steps/s, measured in {table.speed.source}"] if entry.speed else []
        told += [f"{bytes_text(entry.memory)}, {MEMORY_METHODS[table.method]}"] if most else []
        told += [f"{accelerator}, protocol {table.contest}"]
        series.append(_disc(entry.row, styles, x or 0.0, entry.value.mean, (entry.memory or 0.0, most), told))
    notes = [_area_note(table.method, most), *_speed_note(table)]
    shown = {entry.row.model for entry in entries}
    if missing := [entry.row.model for entry in table.entries if entry.row.model not in shown]:
        without = (
            f"Without an average or a {measure} on this accelerator" if table.average else f"Without a {measure} here"
        )
        notes.append(f"{without}, and so not in the picture: {_listed(missing)}.")
    x_axis = SPEED if measure == "speed" else Axis("memory (GB)", log=True)
    y_axis = Axis("average accuracy (%)" if table.average else f"{table.value_name}, accuracy (%)")
    chart = Chart("Average" if table.average else table.value_name, x_axis, y_axis, tuple(series))
    heading = f"Accuracy against {measure}: protocol {table.contest}, {accelerator}"
    return Figure(to_file_name(["overview", table.contest, accelerator]), heading, (chart,), tuple(notes))


def _speed_note(table: headline.Headline) -> Iterator[str]:
    over = _listed(table.speed.columns)
    if not table.speed.source:
        yield headline.NO_SPEED
    elif len(table.speed.columns) > 1:
        yield f"Speed is the geometric mean over {over}."
    elif table.average:
        yield f"Speed is that of {over}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _area_note(method: str, most: float) -> str:
    if not most:
        return "Discs are alike, as no way of measuring memory covers all of them. Dotted and empty: free for all."
    return f"A disc's area is {MEMORY_METHODS[method]}, the largest {bytes_text(most)}. Dotted and empty: free for all."


def accuracy_text(estimate: Estimate) -> str:
    """'56.59 ± 0.61 % (1 seed)'."""
    margin = "" if estimate.margin is None else f" ± {estimate.margin:.2f}"
    return f"{estimate.mean:.2f}{margin} % ({counted(estimate.count, 'seed')})"


def _disc(row: Row, styles: Styles, x: float, y: float, memory: tuple[float, float], told: Iterable[str]) -> Series:
    """A model's disc; `memory` is its own and the largest, which is 0 where all discs are alike."""
    own, most = memory
    area = own / most if most else 0.15
    words = tuple(filter(None, [*told, row.overrides, row.variant]))
    return Series(row.model, styles[row.model], (x,), (y,), row.model, words, area=area, hollow=bool(row.reasons))


def accuracy_speed(board: Leaderboard, styles: Styles) -> list[Figure]:
    """Accuracy against speed, a figure for each protocol, budget and accelerator with a chart for each task.

    All discs of a figure use one way of measuring memory: the accelerator's peak where every cell has it, else the
    compiled program's; where neither covers every cell, all discs have the same size. A chart has at least two discs.
    """
    made = []
    for (protocol, accelerator), rows in _by_device(board):
        points = {n: [(r, r.scores[n]) for r in rows if _has_point(r.scores.get(n))] for n in board.columns}
        points = {name: found for name, found in points.items() if len(found) > 1}
        scores = [score for found in points.values() for _, score in found]
        if not scores:
            continue
        method = next((name for name in MEMORY_METHODS if all(score.memory(name) for score in scores)), "")
        most = max(score.memory(method) or 0 for score in scores) if method else 0
        charts = []
        for name, found in points.items():
            series = (_score_disc(row, score, styles, method, most) for row, score in found)
            charts.append(Chart(name, SPEED, Axis(f"{name}, accuracy (%)"), tuple(series)))
        file_name = to_file_name(["accuracy_speed", protocol, accelerator])
        heading = f"Accuracy against speed: protocol {protocol}, {accelerator}"
        made.append(Figure(file_name, heading, tuple(charts), (_area_note(method, most),)))
    return made


def _score_disc(row: Row, score: Score, styles: Styles, method: str, most: float) -> Series:
    assert score.estimate is not None and score.steps_per_second is not None
    memory = score.memory(method) or 0 if method else 0
    told = [accuracy_text(score.estimate), f"{short(score.steps_per_second)} steps/s"]
    told += [f"{bytes_text(memory)}, {MEMORY_METHODS[method]}"] if most else []
    told += [f"{row.accelerator}, protocol {row.contest}"]
    return _disc(row, styles, score.steps_per_second, score.estimate.mean, (memory, most), told)


def _has_point(score: Score | None) -> bool:
    return score is not None and score.estimate is not None and bool(score.steps_per_second)


def _by_device(board: Leaderboard) -> list[tuple[tuple[str, str], list[Row]]]:
    """Rows by protocol with budget and accelerator: only those share a figure of speed. External ones are in none."""
    rows_of: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in board.rows:
        if row.kind != fairness.EXTERNAL:
            rows_of[row.contest, row.accelerator].append(row)
    return sorted(rows_of.items())


def curves(board: Leaderboard, styles: Styles) -> list[Figure]:
    """Validation accuracy over steps, a figure for each protocol, budget and accelerator, a chart for each task."""
    made = []
    for (protocol, accelerator), rows in _by_device(board):
        charts = []
        for name in board.columns:
            series = [_mean_curve(row, row.scores[name], styles) for row in rows if name in row.scores]
            charts += _curve_charts(name, [line for line in series if line is not None])
        if charts:
            file_name = to_file_name(["curves", protocol, accelerator])
            notes = ("Mean over seeds; band: their range.",)
            made.append(Figure(file_name, f"Learning curves: protocol {protocol}, {accelerator}", tuple(charts), notes))
    return made


def _curve_charts(name: str, series: Sequence[Series]) -> list[Chart]:
    values = [value for line in series for value in (*line.y, *(end for pair in line.band for end in pair))]
    steps = [step for line in series for step in line.x]
    if not values:
        return []
    x, y = Axis("step", span=(min(steps), max(steps))), Axis("validation accuracy (%)", span=(min(values), max(values)))
    return split_by_family(name, x, y, series)


def _mean_curve(row: Row, score: Score, styles: Styles) -> Series | None:
    """The mean over seeds at the steps common to all of them; None for fewer than two."""
    by_seed = []
    for record in score.records:
        for result in load.seed_results(record):
            accuracies = {step: 100 * value for step, value in load.curve_points(result, "validation_accuracy")}
            if accuracies and result["status"] == "ok":
                by_seed.append(accuracies)
    steps = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    if len(steps) < 2:
        return None
    steps = thin(steps, MAX_LINE_POINTS)
    values = [[accuracies[step] for accuracies in by_seed] for step in steps]
    band = tuple((min(part), max(part)) for part in values) if len(by_seed) > 1 else ()
    means = tuple(sum(part) / len(part) for part in values)
    place = max(range(len(steps)), key=lambda i: means[i])
    told = tuple(filter(None, [
        f"best {means[place]:.2f} % at step {steps[place]:,.0f}, mean of {counted(len(by_seed), 'seed')}",
        row.overrides, row.variant,
    ]))  # fmt: skip
    x = tuple(map(float, steps))
    return Series(row.model, styles[row.model], x, means, row.model, told, band, markers=4)


def thin(values: Sequence[Any], most: int) -> list[Any]:
    """At most `most` evenly spaced values, including the first and last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def seed_curves(score: Score, max_points: int) -> list[Chart]:
    """Accuracy and loss over steps of every seed of a row and column: solid in validation, dashed in training.

    Each curve has at most `max_points` points.
    """
    charts = []
    for name, unit, factor in (("accuracy", "accuracy (%)", 100.0), ("loss", "loss", 1.0)):
        series = []
        results = [result for record in score.records for result in load.seed_results(record)]
        for place, result in enumerate(results):
            kept = {"curve": thin(result.get("curve") or [], max_points)}
            for kind, dash in (("validation", 0), ("train", 1)):
                if points := load.curve_points(kept, f"{kind}_{name}"):
                    x, y = zip(*((float(step), factor * value) for step, value in points), strict=True)
                    style = Style(place % len(FAMILY_NAMES), dash=dash)
                    series.append(Series(f"seed {result['seed']}, {'training' if dash else kind}", style, x, y))
        if series:
            charts.append(Chart(name, Axis("step"), Axis(unit), tuple(series)))
    return charts


def over_length(frame: pd.DataFrame, styles: Styles, kind: str = "") -> list[Figure]:
    """Speed and memory against length: one figure per task, batch, precision, protocol, overrides and accelerator.

    Args:
        frame: as of `efficiency.to_frame`.
        styles: of at least the frame's models.
        kind: begins the names and headings; empty for measurements by `bench`.
    """
    by_setting: dict[str, list[_Measured]] = defaultdict(list)
    for row in frame.to_dict("records"):  # plain values, since a frame for each figure takes ten times as long
        if pd.isna(row["length"]):  # junk of a damaged record
            continue
        fixed = "" if row["searched"] else row["batch"]
        by_setting[str([str(row[name]) for name in _GROUP_BY] + [fixed])].append({str(k): v for k, v in row.items()})
    made = [_lengths_figure(sorted(by_setting[key], key=_length_of), styles, kind) for key in sorted(by_setting)]
    return [figure for figure in made if figure.charts]


_Measured = dict[str, Any]
"""A row of `efficiency.to_frame`."""


def _length_of(row: _Measured) -> int:
    return int(row["length"])


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)


def _lengths_figure(rows: Sequence[_Measured], styles: Styles, kind: str) -> Figure:
    """Rows that differ only in model and length, by length."""
    first = rows[0]
    measured = any(_number(row["device peak bytes"]) > 0 for row in rows)
    memory = ("device peak bytes", "device memory, peak (GB)") if measured else (
        "compiled bytes", "memory planned by the compiler (GB)")  # fmt: skip
    if first["searched"]:
        batch = "largest batch"
        panels = [("max batch", "largest batch that fits"), ("training examples/s", "training examples/s"),
                  ("inference examples/s", "inference examples/s"), memory]  # fmt: skip
    else:
        batch = f"batch {first['batch']}"
        panels = [("training steps/s", "training steps/s"), ("inference steps/s", "inference steps/s"), memory,
                  ("training speed-up vs transformer", "training speed ÷ Transformer's")]  # fmt: skip
    limit: str = "" if pd.isna(first["memory limit bytes"]) else f"{first['memory limit bytes'] / 2**30:g} GiB"
    devices = "" if first["devices"] == 1 else f"{first['devices']:g} devices"
    words = [kind, first["task"], batch, first["precision"], first["protocol"], first["overrides"], devices, limit]
    charts = tuple(filter(None, (_lengths_chart(rows, column, label, styles) for column, label in panels)))
    heading = ", ".join(filter(None, map(str, [*words, first["accelerator"]])))
    name = to_file_name([*words[:3], *words[4:7], limit, first["precision"], first["accelerator"]])
    shown = {series.name for chart in charts for series in chart.series}
    return Figure(name, heading, charts, tuple(_failure_notes(rows, shown)))


def _failure_notes(rows: Sequence[_Measured], shown: set[str]) -> Iterator[str]:
    """What the marks mean, and the models that have nothing but failures."""
    failed = [row for row in rows if row["status"] in FAILURES]
    present = [status for status in FAILURES if any(row["status"] == status for row in failed)]
    marks = {"oom": "×", "timeout": "+", "failed": "Y"}
    if present:
        yield "At a line's end: " + ", ".join(f"{marks[status]} {_WORDS[status]}" for status in present) + "."
    nothing = {row["model"]: row for row in reversed(failed) if row["model"] not in shown}
    if nothing:
        told = (f"{model} ({nothing[model]['status']} at {nothing[model]['length']:,})" for model in sorted(nothing))
        yield f"Without a value at any length: {_listed(list(told))}."


def _lengths_chart(rows: Sequence[_Measured], column: str, label: str, styles: Styles) -> Chart | None:
    by_model: dict[str, list[_Measured]] = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    lines = (_length_line(model, by_model[model], column, label, styles) for model in sorted(by_model))
    if not (series := tuple(filter(None, lines))):
        return None
    lengths = tuple(sorted({float(row["length"]) for row in rows}))
    return Chart(label, Axis("length (tokens)", log=True, ticks=lengths), Axis(label, log=True), series)


def _length_line(model: str, rows: Sequence[_Measured], column: str, label: str, styles: Styles) -> Series | None:
    """A model's medians by length, and the first length that failed."""
    unit = 1e9 if column.endswith("bytes") else 1.0
    by_length: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = _number(row[column])
        if 0 < value < math.inf:
            by_length[row["length"]].append(value / unit)
    if not by_length:
        return None
    values = {length: statistics.median(found) for length, found in by_length.items()}
    told, text, failure = [f"{length:,}: {short(value)}" for length, value in values.items()], model, None
    for row in rows:
        length, status = row["length"], row["status"]
        if status in FAILURES:
            told.append(f"{length:,}: {_WORDS[status]}")
            if length > max(values) and failure is None:  # longer inputs fail too: one mark is enough
                failure = (float(length), status)
                text += f" ({status} at {length:,})"
    x, y = tuple(map(float, values)), tuple(values.values())
    return Series(model, styles[model], x, y, text, (label, *told), markers=len(x), failure=failure)


def trained_over_length(board: Leaderboard) -> pd.DataFrame:
    """Training runs of a task at several lengths, as `efficiency.to_frame`; without seeds that trained together."""
    by_task: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for row in board.rows:
        for score in () if row.kind == fairness.EXTERNAL else row.scores.values():
            for record in score.records:
                if len(record["cell"]["seeds"]) == 1 and record.get("sharing", 1) == 1:
                    by_task[record["cell"]["task"], row.contest, row.accelerator, row.overrides].append(record)
    chosen = [records for records in by_task.values() if len({record["cell"]["length"] for record in records}) > 1]
    return efficiency.to_frame([record for records in chosen for record in records])


def legend(figure: Figure) -> list[tuple[int, str]]:
    """The families of a figure's models: place and name."""
    found = {family_of(series.name) for chart in figure.charts for series in chart.series if series.label}
    return [(place, FAMILY_NAMES[place]) for place in sorted(found)]
