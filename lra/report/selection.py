"""Which records go into the tables, by which score and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.recipe import suggest
from lra.errors import UsageError
from lra.report import selection
from lra.results import records


@dataclass(frozen=True)
class Selection:
    """Which cells go into the tables, by which score and in which order. Empty tuples take everything."""

    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Names with or without options: 'performer' takes 'performer:features=64' too."""
    protocols: tuple[str, ...] = ()
    accelerator: str = ""
    """Any part of the accelerator's name, in any case."""
    metric: str = "test_best"
    """A key of `METRICS`."""
    sort: str = "average"
    """What rows are ordered by within their group: average, model, parameters, a task, or a column's name."""

    def takes(self, record: records.Record) -> bool:
        cell = record["cell"]
        return (
            (not self.tasks or cell["task"] in self.tasks)
            and (not self.models or cell["model"] in self.models or cell.get("mixer") in self.models)
            and (not self.protocols or cell["protocol"] in self.protocols)
            and self.accelerator.lower() in cell["accelerator"].lower()
        )


ALL = Selection()
METRICS = {
    "test_best": "Test accuracy (%) at the best validation step",
    "test_last": "Test accuracy (%) at the last step",
    "validation_best": "Validation accuracy (%) at its best step",
    "validation_last": "Validation accuracy (%) at the last step",
}
"""What an accuracy may be, in words."""


def check(choice: selection.Selection, found: Sequence[records.Record]) -> None:
    """Raises `UsageError` on a choice that fits no record, naming the nearest that would."""
    cell = [record["cell"] for record in found]
    known = {
        "task": (choice.tasks, {c["task"] for c in cell}),
        "model": (choice.models, {c["model"] for c in cell} | {c.get("mixer", c["model"]) for c in cell}),
        "protocol": (choice.protocols, {c["protocol"] for c in cell}),
    }
    for what, (wanted, there) in known.items():
        for name in wanted:
            if name not in there:
                raise UsageError(f"no record has it: {suggest(what, name, sorted(there))}")
    accelerators = sorted({c["accelerator"] for c in cell})
    if not any(choice.accelerator.lower() in name.lower() for name in accelerators or [""]):
        raise UsageError(f"no record's accelerator contains '{choice.accelerator}': {'; '.join(accelerators)}")
    columns = {f"{c['task']}@{c['length']}" for c in cell} | {c["task"] for c in cell}
    if choice.sort not in (*SORTS, *columns):
        raise UsageError(f"--sort: {suggest('column', choice.sort, [*SORTS, *sorted(columns)])}")


SORTS = ("average", "model", "parameters")
"""What rows can be ordered by beside tasks and columns."""
