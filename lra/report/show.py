"""One record in full, and two models side by side, as text for a terminal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.recipe import suggest
from lra.errors import UsageError, printable
from lra.report import leaderboard, markdown, selection, tables, tuned
from lra.report.rows import Row, Score
from lra.report.stats import difference
from lra.results import load, records
from lra.results.records import Record

_BARS = "▁▂▃▄▅▆▇█"


def find_record(folders: Sequence[Path], name: str) -> Record:
    """Finds the record in a file, or the only record whose file name or key contains `name`.

    Args:
        folders: results folders and archives of records.
        name: a file, or any part of a record's file name or key.

    Raises:
        UsageError: no record matches or several do, or the file or archive is damaged.
    """
    if Path(name).is_file():
        if name.endswith(".zip"):
            raise UsageError(f"{name} is an archive: name one of its cells, and give it with --results={name}")
        return _checked(name, functools.partial(records.read, name))
    kinds = (records.RESULTS, records.BENCH)
    files = dict(entry for folder in folders for kind in kinds for entry in load.find(folder, kind))
    matches = [path for path in files if name in Path(path).name]
    matches = matches or [path for path, read in files.items() if name in _key(read)]
    if not matches:
        names = [Path(path).stem for path in files]
        raise UsageError(suggest("cell", name, names) if names else f"no records in {', '.join(map(str, folders))}")
    if len(matches) > 1:
        shown = ", ".join(Path(path).stem for path in matches[:3])
        remaining = f" and {len(matches) - 3} more" if len(matches) > 3 else ""
        raise UsageError(f"'{name}' fits {len(matches)} cells; say which: {shown}{remaining}")
    return _checked(matches[0], files[matches[0]])


def _checked(path: str, read: Callable[[], Record]) -> Record:
    try:
        return records.checked(read(), path)
    except ValueError as problem:
        raise UsageError(str(problem)) from None


def _key(read: Callable[[], Record]) -> str:
    try:
        return str(read()["key"])
    except ValueError:
        return ""


def record_text(record: Record) -> str:
    """Everything in a record: results and learning curves first, then how they were obtained."""
    cell = record["cell"]
    lines = [
        f"{cell['task']} × {cell['model']}, length {cell['length']:,}, protocol {cell['protocol']}: {record['status']}",
        *([f"  {record['error']}"] if record.get("error") else []),
        "",
    ]
    for result in load.seed_results(record):
        lines.append(f"seed {result['seed']}: {_result_text(result)}")
        for name in ("validation_accuracy", "train_loss"):
            curve = [value for _, value in load.curve_points(result, name)]
            if len(curve) > 1:
                lines.append(f"  {name.replace('_', ' '):20} {_sparkline(curve)}  {curve[0]:.4g} → {curve[-1]:.4g}")
    sections = {name: record.get(name) for name in ("train_speed", "inference_speed", "memory", "device", "versions")}
    sections |= {"data": record["data"]} | {f"recipe.{name}": part for name, part in record["recipe"].items()}
    sections["trials"] = dict(enumerate(tuned.lines(record)))
    sections |= {f"reach, seed {found.get('seed')}": _reach(found) for found in load.reach(record)}
    shown = {"cell", "recipe", "results", "status", "error", "log", "reach", "tuning", *sections}
    lines += ["", *_pairs({k: v for k, v in record.items() if k not in shown} | {"accelerator": cell["accelerator"]})]
    for name, values in sections.items():
        if values:
            lines += ["", name, *_pairs(values if isinstance(values, dict) else dict(values), "  ")]
    if record.get("log"):
        lines += ["", "log", *(f"  {line}" for line in record["log"])]
    return "\n".join(map(printable, lines))


def _reach(found: dict[str, Any]) -> dict[str, Any]:
    """How far a model looks (docs/reach.md): accuracies in percent by size, ranges, and the Jacobian's distances."""
    text: dict[str, Any] = {}
    for sizes, names in (("k", ["windows"]), ("coarse_k", ["shifted", "within", "blocks", "first", "last", "random"])):
        for name in names:
            pairs = zip(_listed(found.get(sizes)), _listed(found.get(name)), strict=False)
            text[name] = ", ".join(f"{k}: {100 * v:.1f}" if isinstance(v, float) else f"{k}: –" for k, v in pairs)
    text |= {name: found.get(name) for name in ("range_50", "range_90")}
    for name, shown in {"jacobian": "at_0 r50 r90 mean ahead", "jacobian_initial": "at_0 r50"}.items():
        text |= {f"{name} {part}": found[name].get(part) for part in shown.split()}
    if joined := found["pairs"]:
        for distance, value in zip(_listed(joined.get("d")), _listed(joined.get("interaction")), strict=False):
            text[f"pairs {distance} apart"] = f"{value:.3g}" if isinstance(value, float) else "–"
        text["one token alone"] = joined.get("alone")
    return text


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _result_text(result: dict[str, Any]) -> str:
    if result["status"] != "ok" or result.get("test_best") is None:
        return " ".join(str(part) for part in (result["status"], result.get("error")) if part)
    test = f"test {100 * result['test_best']:.2f} % at step {result.get('best_step') or 0:,}"
    parts = [(name, result.get(name)) for name in ("validation_best", "test_last", "validation_last")]
    return ", ".join([test, *(f"{name.replace('_', ' ')} {100 * v:.2f} %" for name, v in parts if v is not None)])


def _pairs(values: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(str(name)) for name in values), default=0)
    return [f"{indent}{name!s:{width}}  {_value_text(value)}" for name, value in values.items()]


def _value_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value_text(part)}" for name, part in value.items())
    return "; ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _sparkline(values: Sequence[float]) -> str:
    """A curve as at most 40 block characters, scaled from its minimum to its maximum."""
    step = max(1, -(-len(values) // 40))
    kept = values[::step]
    low, high = min(kept), max(kept)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0] for v in kept)


def comparison_text(
    records: Sequence[Record], first: str, second: str, choice: selection.Selection = selection.ALL
) -> str:
    """Two models side by side: each task's means, their difference with its interval and p, speed and memory.

    Rows are compared only under the same protocol and overrides, speed and memory only on the same accelerator.

    Args:
        records: each cell once, as `lra.results.load.load_records` gives them.
        first: name of a model, with its options.
        second: name of the model it is compared with.
        choice: the records and metric to compare.

    Raises:
        UsageError: a model has no record, or the two have no task in common.
    """
    names = sorted({record["cell"]["model"] for record in records if choice.includes(record)})
    for name in (first, second):
        if name not in names:
            raise UsageError(suggest("model", name, names) if names else "there are no records")
    rows = leaderboard.build([r for r in records if r["cell"]["model"] in (first, second)], choice).rows
    lines = []
    for a in (row for row in rows if row.model == first):
        for b in (row for row in rows if row.model == second):
            if (a.protocol, a.overrides, a.trials) == (b.protocol, b.overrides, b.trials):
                lines += [_comparison_line(a, b, column) for column in a.scores if column in b.scores]
    if not lines:
        raise UsageError(f"{first} and {second} have no task, length, data set and protocol in common")
    header = ["task", "protocol", "accelerator", first, second, "difference", "95 % interval", "p", "verdict",
              "steps/s ratio", "memory ratio"]  # fmt: skip
    note = (
        f"Difference: {first} − {second} in points of %; p: Welch's test, two-sided, for each task alone. One seed: "
        "the test set's binomial error, a lower bound of the true one.\n"
    )
    return f"{markdown.make_table(header, lines)}\n{note}"


def _comparison_line(a: Row, b: Row, column: str) -> list[str]:
    score_a, score_b = a.scores[column], b.scores[column]
    protocol = " ".join(filter(None, [a.protocol, a.overrides]))
    accelerators = " / ".join(dict.fromkeys([a.accelerator, b.accelerator]))
    line = [column, protocol, accelerators, tables.score_text(score_a), tables.score_text(score_b)]
    if score_a.estimate is None or score_b.estimate is None:
        line += ["–"] * 4
    else:
        d = difference(score_a.estimate, score_b.estimate)
        ends = "–" if d.interval is None else f"{d.interval[0]:+.2f} to {d.interval[1]:+.2f}"
        ahead = f"{(a if d.value > 0 else b).model} ahead" if d.significant else "no difference shown"
        verdict = ahead if a.kind == b.kind else f"{ahead} ({a.kind} / {b.kind})"
        line += [f"{d.value:+.2f}", ends, "–" if d.p is None else _p_text(d.p), verdict]
    if a.accelerator != b.accelerator:
        return [*line, "–", "–"]
    return [*line, _ratio_text(score_a.steps_per_second, score_b.steps_per_second), _memory_ratio(score_a, score_b)]


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ratio_text(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f}" if a and b else "–"


def _memory_ratio(a: Score, b: Score) -> str:
    """Ratio by one method: the accelerator's peak where both have it, else the compiled programs' memory."""
    for name in ("device_peak_bytes", "compiled_bytes"):
        memory_a, memory_b = a.memory(name), b.memory(name)
        if memory_a and memory_b:
            return f"{memory_a / memory_b:.2f} ({name.removesuffix('_bytes').replace('_', ' ')})"
    return "–"
