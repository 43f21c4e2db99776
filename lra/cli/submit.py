"""The verb for results from elsewhere: submit."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path
from typing import Any

from lra.cli.arguments import SubmitArguments
from lra.errors import UsageError, write_error
from lra.results import external, predictions, records
from tasks import Examples, load
from tasks.io.cache import describe
from tasks.io.export import export_inputs

_LOADS = inspect.signature(load).parameters
"""What `load` takes besides settings of the task's data."""
MIN_DIGITS = 8
"""Of a fingerprint."""


def submit(args: SubmitArguments) -> int:
    """Scores predictions for a task's test split that a model elsewhere has made, and records the result."""
    examples = _load(args)
    if args.report is None:
        return _write_template(args, examples)
    _check_fingerprint(args.fingerprint, examples)
    classes, given_as = predictions.read(args.predictions, len(examples), examples.classes)
    record = external.make_record(args.report, describe(examples.entry), examples.labels, classes, given_as)
    path = external.record_path(args.results, record)
    _write(path, record, args.replace)
    score = 100 * record["results"][0]["test_best"]
    print(
        f"{examples.task}@{examples.length} × {args.report.model}, seed {args.report.seed}: "
        f"{score:.2f} % of {len(examples):,} test examples\n{path}; python run.py leaderboard --results={args.results} "
        "shows it among the external results"
    )
    return 0


def _load(args: SubmitArguments) -> Examples:
    settings = dict(map(_parse_setting, args.settings))
    return load(
        args.task, "test", args.length, data=args.data, source=args.sources.source, source_dir=args.sources.source_dir,
        allow_unverified=args.sources.allow_unverified, workers=args.sources.workers, **settings,
    )  # fmt: skip


def _parse_setting(setting: str) -> tuple[str, Any]:
    """'data.test=20' as ('test', 20)."""
    path, equals, text = setting.partition("=")
    section, _, name = path.partition(".")
    if section != "data" or not name or not equals or name in _LOADS:
        raise UsageError(f"submit takes settings of the task's data only, as --set data.test=500, not '{setting}'")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _check_fingerprint(given: str, examples: Examples) -> None:
    """Raises `UsageError` unless the predictions were made on the data that are here."""
    where = "load(...).fingerprint and the card of an export have it"
    given = given.lower()
    if len(given) < MIN_DIGITS or set(given) - set("0123456789abcdef"):
        raise UsageError(
            f"--fingerprint takes the first {MIN_DIGITS} or more hexadecimal digits of the data's: {where}"
        )
    if not examples.fingerprint.startswith(given):
        raise UsageError(
            f"the predictions were made on data with the fingerprint {given[:12]}, and {examples.task} at length "
            f"{examples.length:,} here ({examples.source}) has {examples.fingerprint[:12]}: predict these, or give the "
            "others with --source, --length or --set"
        )


def _write(path: Path, record: records.Record, replace: bool) -> None:
    """Writes the record. Raises `UsageError` instead of replacing another result, unless the user asked for that."""
    if path.exists() and not replace:
        try:
            found = records.read(path)
        except ValueError as problem:
            raise UsageError(f"{problem}: --replace writes it anew") from None
        if external.same_claim(found, record):
            return
        raise UsageError(
            f"{path} has another result of this model and seed: give another --seed or --model, or --replace"
        )
    try:
        records.write(path, record)
    except OSError as error:
        raise write_error(path.parent, error) from None


def _write_template(args: SubmitArguments, examples: Examples) -> int:
    """Writes the test split's inputs, a file of predictions to fill in, and a card; prints the command for them."""
    command = ["python", "run.py", "submit", f"--task={examples.task}", f"--length={examples.length}"]
    command += [f"--set={setting}" for setting in args.settings]
    command += [
        "--model=NAME",
        "--predictions=predictions.csv",
        f"--fingerprint={examples.fingerprint[:12]}",
        "--seed=0",
    ]
    folder = export_inputs(examples, args.out, shlex.join(command))
    print(f"{folder}: {len(examples):,} examples to predict. Then:\n  {shlex.join(command)}")
    return 0
