"""One record readably, and two models side by side. Texts for a terminal; imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.recipe import suggest
from lra.errors import UsageError, printable
from lra.report import leaderboard, markdown, selection, tables
from lra.report.rows import Row, Score
from lra.report.stats import difference
from lra.results import load, records

_BARS = "▁▂▃▄▅▆▇█"


def find(folders: Sequence[Path], name: str) -> records.Record:
    """The record of a file, or the only one whose file name or key contains `name`.

    Raises:
        UsageError: no record or several do, or the file is damaged.
    """
    if Path(name).is_file():
        return _read(Path(name))
    files = [file for folder in folders for kind in (records.RESULTS, records.BENCH)
             for file in sorted((folder / kind).glob("[!.]*.json"))]  # fmt: skip
    found = [file for file in files if name in file.name] or [file for file in files if name in _key(file)]
    if not found:
        names = [file.stem for file in files]
        raise UsageError(suggest("cell", name, names) if names else f"no records in {_listed(folders)}")
    if len(found) > 1:
        shown = ", ".join(file.stem for file in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(f"'{name}' fits {len(found)} cells; say which: {shown}{more}")
    return _read(found[0])


def _read(file: Path) -> records.Record:
    try:
        return records.read_checked(file)
    except ValueError as problem:
        raise UsageError(str(problem)) from None


def _key(file: Path) -> str:
    try:
        return str(records.read(file)["key"])
    except ValueError:
        return ""


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def show(record: records.Record) -> str:
    """Everything a record holds: results and learning curves first, then what made them."""
    cell = record["cell"]
    lines = [
        f"{cell['task']} × {cell['model']}, length {cell['length']:,}, protocol {cell['protocol']}: {record['status']}",
        *([f"  {record['error']}"] if record.get("error") else []),
        "",
    ]
    for result in load.seed_results(record):
        lines.append(f"seed {result['seed']}: {_result(result)}")
        for name in ("validation_accuracy", "train_loss"):
            curve = [value for _, value in load.curve_points(result, name)]
            if len(curve) > 1:
                lines.append(f"  {name.replace('_', ' '):20} {_spark(curve)}  {curve[0]:.4g} → {curve[-1]:.4g}")
    sections = {name: record.get(name) for name in ("train_speed", "inference_speed", "memory", "device", "versions")}
    sections |= {"data": record["data"]} | {f"recipe.{name}": part for name, part in record["recipe"].items()}
    known = {"cell", "recipe", "results", "status", "error", "log", *sections}
    lines += ["", *_pairs({k: v for k, v in record.items() if k not in known} | {"accelerator": cell["accelerator"]})]
    for name, values in sections.items():
        if values:
            lines += ["", name, *_pairs(values if isinstance(values, dict) else dict(values), "  ")]
    if record.get("log"):
        lines += ["", "log", *(f"  {line}" for line in record["log"])]
    return "\n".join(map(printable, lines))


def _result(result: dict[str, Any]) -> str:
    if result["status"] != "ok" or result.get("test_best") is None:
        return " ".join(filter(None, [result["status"], result.get("error")]))
    told = f"test {100 * result['test_best']:.2f} % at step {result.get('best_step') or 0:,}"
    parts = [(name, result.get(name)) for name in ("validation_best", "test_last", "validation_last")]
    return ", ".join([told, *(f"{name.replace('_', ' ')} {100 * v:.2f} %" for name, v in parts if v is not None)])


def _pairs(values: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(str(name)) for name in values), default=0)
    return [f"{indent}{name!s:{width}}  {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items())
    return "; ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _spark(values: Sequence[float]) -> str:
    """A curve in at most 40 block letters, from its least value to its greatest."""
    step = max(1, -(-len(values) // 40))
    kept = values[::step]
    low, high = min(kept), max(kept)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0] for v in kept)


def compare(
    found: Sequence[records.Record], first: str, second: str, choice: selection.Selection = selection.ALL
) -> str:
    """Two models side by side: each task's means, their difference with its interval and p, and speed and memory.

    Only rows of one protocol with the same overrides are set side by side; speed only on the same accelerator.

    Raises:
        UsageError: a model has no record, or the two have no task in common.
    """
    names = sorted({record["cell"]["model"] for record in found if choice.takes(record)})
    for name in (first, second):
        if name not in names:
            raise UsageError(suggest("model", name, names) if names else "there are no records")
    rows = leaderboard.build([r for r in found if r["cell"]["model"] in (first, second)], choice).rows
    lines = []
    for a in (row for row in rows if row.model == first):
        for b in (row for row in rows if row.model == second):
            if (a.protocol, a.overrides) == (b.protocol, b.overrides):
                lines += [_pair(a, b, column) for column in a.scores if column in b.scores]
    if not lines:
        raise UsageError(f"{first} and {second} have no task, length, data set and protocol in common")
    header = ["task", "protocol", "accelerator", first, second, "difference", "95 % interval", "p", "verdict",
              "steps/s ratio", "memory ratio"]  # fmt: skip
    told = (
        f"Difference: {first} − {second} in points of %; p: Welch's test, two-sided, for each task alone. One seed: "
        "the test set's binomial error, a lower bound of the true one.\n"
    )
    return f"{markdown.grid(header, lines)}\n{told}"


def _pair(a: Row, b: Row, column: str) -> list[str]:
    ours, theirs = a.scores[column], b.scores[column]
    protocol = " ".join(filter(None, [a.protocol, a.overrides]))
    accelerators = " / ".join(dict.fromkeys([a.accelerator, b.accelerator]))
    line = [column, protocol, accelerators, tables.words(ours), tables.words(theirs)]
    if ours.estimate is None or theirs.estimate is None:
        line += ["–"] * 4
    else:
        d = difference(ours.estimate, theirs.estimate)
        ends = "–" if d.interval is None else f"{d.interval[0]:+.2f} to {d.interval[1]:+.2f}"
        ahead = f"{(a if d.value > 0 else b).model} ahead" if d.holds else "no difference shown"
        verdict = ahead if a.kind == b.kind else f"{ahead} ({a.kind} / {b.kind})"
        line += [f"{d.value:+.2f}", ends, "–" if d.p is None else _p(d.p), verdict]
    if a.accelerator != b.accelerator:
        return [*line, "–", "–"]
    return [*line, _ratio(ours.steps_per_second, theirs.steps_per_second), _memory(ours, theirs)]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f}" if a and b else "–"


def _memory(a: Score, b: Score) -> str:
    """Of the same method: the accelerator's peak where both have one, else what the compiled programs take."""
    for name in ("device_peak_bytes", "compiled_bytes"):
        ours, theirs = a.memory(name), b.memory(name)
        if ours and theirs:
            return f"{ours / theirs:.2f} ({name.removesuffix('_bytes').replace('_', ' ')})"
    return "–"
