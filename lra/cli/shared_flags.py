"""Flags that several verbs have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from absl import flags

from lra.cli.arguments import GridArguments
from lra.cli.parsing import integers, path
from lra.grid.spec import DataOptions


def define_grid(values: flags.FlagValues) -> None:
    """Flags that name cells."""
    flags.DEFINE_list("tasks", [], "Tasks, or all; empty: the protocol's.", flag_values=values)
    flags.DEFINE_list("models", [], "Models, or all; empty: the protocol's.", flag_values=values)
    flags.DEFINE_list("lengths", [], "Sequence lengths in tokens; empty: each task's.", flag_values=values)
    flags.DEFINE_string("protocol", "quick", "Recipes and defaults: see `list protocols`.", flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "Set a field of the recipe: --set optimizer.learning_rate=0.01", flag_values=values
    )


def grid_of(values: flags.FlagValues, seeds: Iterable[str], settings: Sequence[str] = ()) -> GridArguments:
    """The cells that are asked for; `settings` come after those of --set."""
    return GridArguments(
        values.protocol, tasks=tuple(values.tasks), models=tuple(values.models),
        lengths=integers("lengths", values.lengths), seeds=integers("seeds", seeds),
        settings=(*values["set"].value, *settings),
    )  # fmt: skip


def define_data(values: flags.FlagValues) -> None:
    """Flags that say where data come from."""
    flags.DEFINE_string(
        "source",
        "auto",
        "Source of the data: auto, generate, tfds, download, or a folder or archive.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "source_dir",
        None,
        "Folder with your copies of the data, for tfds, and for auto, which takes them first.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_unverified", False, "Accept copies whose checksum differs from the published one.", flag_values=values
    )
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=values)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that prepare the data.", 1, flag_values=values)


def sources_of(values: flags.FlagValues) -> DataOptions:
    """Where data come from."""
    return DataOptions(
        source=values.source,
        source_dir=path(values.source_dir).resolve() if values.source_dir else None,
        allow_unverified=values.allow_unverified,
        workers=values.workers,
    )


def define_output(values: flags.FlagValues) -> None:
    """Flags of the folders that are written."""
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=values)
    flags.DEFINE_string("out", "leaderboard", "Folder for tables and figures.", flag_values=values)
