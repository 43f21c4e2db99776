"""Flags of the verbs on results folders, and the frozen options that they become: flag values go no further."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from lra.cli.arguments import CalibrateArguments, PackArguments, ReportArguments, RetryArguments
from lra.cli.parsing import folders, path
from lra.errors import UsageError
from lra.report.selection import METRICS, Selection


def define_status(values: flags.FlagValues) -> None:
    """Flags of `status`."""
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=values)


def status_arguments(values: flags.FlagValues) -> Path:
    """The results folder."""
    return path(values.results)


_RETRY_HELP = {
    "failed": "Retry cells that failed.",
    "timeout": "Retry cells that took too long.",
    "oom": "Retry cells that ran out of memory.",
    "diverged": "Retry cells whose loss became NaN or infinite.",
    "interrupted": "Retry cells that saved and stopped before the end.",
}


def define_retry(values: flags.FlagValues) -> None:
    """Flags of `retry`."""
    define_status(values)
    for name, text in _RETRY_HELP.items():
        flags.DEFINE_bool(name, False, text, flag_values=values)


def retry_arguments(values: flags.FlagValues) -> RetryArguments:
    """The options of `retry`."""
    statuses = tuple(name for name in _RETRY_HELP if values[name].value)
    if not statuses:
        raise UsageError(f"retry takes one or more of {', '.join(f'--{name}' for name in _RETRY_HELP)}")
    return RetryArguments(path(values.results), statuses)


def _define_models(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "models", [], "Only these models; a name without options matches all its options.", flag_values=values
    )


def define_show(values: flags.FlagValues) -> None:
    """Flags of `show`."""
    flags.DEFINE_list(
        "results", ["results"], "Folders of records, and archives made by pack; several are merged.",
        flag_values=values,
    )  # fmt: skip


def _define_tasks(values: flags.FlagValues) -> None:
    flags.DEFINE_list("tasks", [], "Only these tasks.", flag_values=values)
    flags.DEFINE_list("protocol", [], "Only these protocols.", flag_values=values)


def define_compare(values: flags.FlagValues) -> None:
    """Flags of `compare`."""
    define_show(values)
    _define_tasks(values)
    flags.DEFINE_string("accelerator", "", "Only accelerators whose name contains this.", flag_values=values)
    flags.DEFINE_enum("metric", "test_best", list(METRICS), "The accuracy to show.", flag_values=values)


def define_leaderboard(values: flags.FlagValues) -> None:
    """Flags of `leaderboard`."""
    define_compare(values)
    _define_models(values)
    flags.DEFINE_string(
        "sort", "average", "Sort by average, model, parameters, a task or task@length.", flag_values=values
    )
    flags.DEFINE_string("out", "leaderboard", "Folder for the tables, the page and the figures.", flag_values=values)
    flags.DEFINE_bool("plots", True, "Also draw the figures (PNG, SVG and PDF).", flag_values=values)


def show_arguments(values: flags.FlagValues) -> ReportArguments:
    """The options of `show`."""
    return ReportArguments(folders(values.results))


def compare_arguments(values: flags.FlagValues) -> ReportArguments:
    """The options of `compare`."""
    selection = Selection(
        tasks=tuple(values.tasks), protocols=tuple(values.protocol), accelerator=values.accelerator,
        metric=values.metric,
    )  # fmt: skip
    return ReportArguments(folders(values.results), selection)


def leaderboard_arguments(values: flags.FlagValues) -> ReportArguments:
    """The options of `leaderboard`."""
    selection = Selection(
        tasks=tuple(values.tasks), models=tuple(values.models), protocols=tuple(values.protocol),
        accelerator=values.accelerator, metric=values.metric, sort=values.sort,
    )  # fmt: skip
    return ReportArguments(folders(values.results), selection, path(values.out), values.plots)


def define_calibrate(values: flags.FlagValues) -> None:
    """Flags of `calibrate`."""
    define_show(values)
    flags.DEFINE_string("protocol", "mini", "The protocol whose scores are compared.", flag_values=values)
    flags.DEFINE_string("out", "calibration", "Folder for the table and the figure.", flag_values=values)


def calibrate_arguments(values: flags.FlagValues) -> CalibrateArguments:
    """The options of `calibrate`."""
    return CalibrateArguments(folders(values.results), values.protocol, path(values.out))


def define_pack(values: flags.FlagValues) -> None:
    """Flags of `pack`."""
    define_show(values)
    _define_tasks(values)
    _define_models(values)
    flags.DEFINE_string("out", "results.zip", "The archive to write.", flag_values=values)


def pack_arguments(values: flags.FlagValues) -> PackArguments:
    """The options of `pack`."""
    selection = Selection(tasks=tuple(values.tasks), models=tuple(values.models), protocols=tuple(values.protocol))
    return PackArguments(folders(values.results), selection, path(values.out))
