"""Which records go into the tables, by which score and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.recipe import suggest
from lra.errors import UsageError
from lra.results.records import Record

METRICS = {
    "test_best": "Test accuracy (%) at the best validation step",
    "test_last": "Test accuracy (%) at the last step",
    "validation_best": "Validation accuracy (%) at its best step",
    "validation_last": "Validation accuracy (%) at the last step",
}
"""The accuracies a table can show, in words."""
SORTS = ("average", "model", "parameters")
"""Orders of rows besides tasks and columns."""


@dataclass(frozen=True)
class Selection:
    """Which cells go into the tables, by which score and in which order. Empty tuples select everything."""

    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Names with or without options: 'performer' selects 'performer:features=64' too."""
    protocols: tuple[str, ...] = ()
    accelerator: str = ""
    """Any part of the accelerator's name, in any case."""
    metric: str = "test_best"
    """A key of `METRICS`."""
    sort: str = "average"
    """Order of rows within their group: one of `SORTS`, a task, or a column's name."""

    def includes(self, record: Record) -> bool:
        """Whether the record's cell is selected."""
        cell = record["cell"]
        return (
            (not self.tasks or cell["task"] in self.tasks)
            and (not self.models or cell["model"] in self.models or cell.get("mixer") in self.models)
            and (not self.protocols or cell["protocol"] in self.protocols)
            and self.accelerator.lower() in cell["accelerator"].lower()
        )


ALL = Selection()


def check(choice: Selection, records: Sequence[Record]) -> None:
    """Raises `UsageError` on a choice that fits no record, naming the nearest that would."""
    cells = [record["cell"] for record in records]
    checks = {
        "task": (choice.tasks, {c["task"] for c in cells}),
        "model": (choice.models, {c["model"] for c in cells} | {c.get("mixer", c["model"]) for c in cells}),
        "protocol": (choice.protocols, {c["protocol"] for c in cells}),
    }
    for kind, (wanted, known) in checks.items():
        for name in wanted:
            if name not in known:
                raise UsageError(f"no record has it: {suggest(kind, name, sorted(known))}")
    accelerators = sorted({c["accelerator"] for c in cells})
    if not any(choice.accelerator.lower() in name.lower() for name in accelerators or [""]):
        raise UsageError(f"no record's accelerator contains '{choice.accelerator}': {'; '.join(accelerators)}")
    columns = {f"{c['task']}@{c['length']}" for c in cells} | {c["task"] for c in cells}
    if choice.sort not in (*SORTS, *columns):
        raise UsageError(f"--sort: {suggest('column', choice.sort, [*SORTS, *sorted(columns)])}")
