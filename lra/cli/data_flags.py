"""Flags of the verbs on data and predictions, and the frozen options that they become: flag values go no further."""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

from absl import flags

from lra.cli.arguments import ListArguments, PrepareArguments, SubmitArguments
from lra.cli.parsing import path
from lra.cli.shared_flags import define_data, define_grid, grid_of, sources_of
from lra.errors import UsageError
from lra.results.external import Report
from tasks.io.export import Format

_REPORTED = {
    "parameters": "Number of the model's parameters.",
    "train_seconds": "Seconds that training took.",
    "steps_per_second": "Training steps per second.",
    "peak_bytes": "Peak memory of the accelerator in training, bytes.",
}
"""What a submitter may report, as flags."""
_MOST_LETTERS = 200


def define_prepare(values: flags.FlagValues) -> None:
    """Flags of `prepare`."""
    define_grid(values)
    define_data(values)
    flags.DEFINE_string("preview", None, "Folder for a PNG page of samples of each task.", flag_values=values)
    flags.DEFINE_string(
        "export", None, "Folder for files of each task's arrays, for other frameworks: see docs/tasks.md.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum("export_format", "npy", get_args(Format), "Format of these files.", flag_values=values)


def prepare_arguments(values: flags.FlagValues) -> PrepareArguments:
    """The options of `prepare`."""
    if values["export_format"].present and not values.export:
        raise UsageError("--export_format says how to write what --export=FOLDER names: give both")
    if values.export_format == "parquet" and find_spec("pyarrow") is None:
        raise UsageError("--export_format=parquet needs the package pyarrow: pip install pyarrow")
    preview, export = (path(name) if name else None for name in (values.preview, values.export))
    return PrepareArguments(
        grid_of(values, ["0"]), path(values.data), sources_of(values), preview, export, values.export_format
    )


def define_submit(values: flags.FlagValues) -> None:
    """Flags of `submit`."""
    flags.DEFINE_string("task", None, "The task: see `list tasks`.", flag_values=values)
    flags.DEFINE_integer("length", None, "Sequence length in tokens; default: the task's.", 1, flag_values=values)
    flags.DEFINE_string("model", None, "A name for the model, as in the tables.", flag_values=values)
    flags.DEFINE_string(
        "predictions", None, "The test split's predictions in its order, classes or logits: .npy, .csv or .jsonl.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "fingerprint", "", "Of the data that they were made on: 8 or more digits of load(...).fingerprint.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "The training seed.", 0, 2**32 - 1, flag_values=values)
    for name, text in _REPORTED.items():
        define = flags.DEFINE_float if name in ("train_seconds", "steps_per_second") else flags.DEFINE_integer
        define(name, None, text, flag_values=values)
    flags.DEFINE_string("accelerator", "", "The accelerator that it was trained on.", flag_values=values)
    flags.DEFINE_string("note", "", "A remark for readers, as where the code is.", flag_values=values)
    flags.DEFINE_bool("replace", False, "Replace a result of the same model, task and seed.", flag_values=values)
    flags.DEFINE_bool("template", False, "Write the inputs, and a file to fill in, and stop.", flag_values=values)
    flags.DEFINE_string("out", "inputs", "Folder for --template.", flag_values=values)
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=values)
    flags.DEFINE_multi_string("set", [], "Set a field of the task's data: --set data.test=500", flag_values=values)
    define_data(values)


def submit_arguments(values: flags.FlagValues) -> SubmitArguments:
    """The options of `submit`. Raises `UsageError` if something is missing or out of range."""
    needed = ("task",) if values.template else ("task", "model", "predictions", "fingerprint")
    if missing := [f"--{name}" for name in needed if not values[name].value]:
        raise UsageError(
            f"submit needs {', '.join(missing)}; --template --task=NAME writes the inputs, and this command"
        )
    for name in _REPORTED:
        if values[name].value is not None and not 0 < values[name].value < 2**63:
            raise UsageError(f"--{name}={values[name].value:g} is not above 0 and finite")
    for name in ("model", "accelerator", "note"):
        text = values[name].value or ""
        if not text.isprintable() or len(text) > _MOST_LETTERS or text != text.strip():
            raise UsageError(f"--{name} takes up to {_MOST_LETTERS} printable characters on one line")
    report = None
    if not values.template:
        reported = {name: values[name].value for name in _REPORTED}
        report = Report(values.model, values.seed, values.accelerator, note=values.note, **reported)
    return SubmitArguments(
        values.task, values.length, tuple(values["set"].value), path(values.data), sources_of(values),
        path(values.results), path(values.predictions or ""), values.fingerprint, report,
        replace=values.replace, out=path(values.out),
    )  # fmt: skip


def define_list(values: flags.FlagValues) -> None:
    """Flags of `list`."""
    flags.DEFINE_bool(
        "details", False, "With tasks: the prepared data. With models: papers, costs and options.", flag_values=values
    )
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=values)


def list_arguments(values: flags.FlagValues) -> ListArguments:
    """The options of `list`."""
    return ListArguments(path(values.data), values.details)
