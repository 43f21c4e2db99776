"""The tasks' examples as plain arrays, for training code of any kind: `load("listops", "train").tokens`.

Notation: N examples in a split, L the length; pair tasks, such as `retrieval`, have two documents per example.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.io.cache import describe, open_entry, prepare
from tasks.task import SPLITS, DataError, Dataset, Task

if TYPE_CHECKING:
    from tasks.torch_examples import TorchExamples

_TOKENS_AT_ONCE = 2**23
"""About as many tokens are gathered together when a split is read from one end to the other."""


class Batch(NamedTuple):
    """Some examples of a split, n of them."""

    tokens: np.ndarray
    """Token ids [n, L], or [n, 2, L] for a pair task; 0 beyond a document's length, and nowhere else."""
    lengths: np.ndarray
    """Numbers of tokens, int32 [n] or [n, 2]."""
    labels: np.ndarray
    """Classes, int64 [n]."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One split of a task. The arrays are made when they are first asked for, from the mapped files of the cache.

    Pickled, it is the path of its cache entry: another process opens the same files, and nothing is copied.
    """

    task: str
    split: str
    length: int
    """L: tokens per document, with padding."""
    entry: Path
    """The folder of the cache that holds the data."""
    data: Dataset = field(repr=False)
    """The table of documents and all splits, as they are stored."""

    @classmethod
    def open(cls, entry: Path, split: str, verify: bool = True) -> Examples:
        """Opens one split of a cache entry. Raises `DataError` if the entry is damaged."""
        data, settings = open_entry(entry, verify), describe(entry)["settings"]
        return cls(settings["task"], split, settings["length"], entry.resolve(), data)

    @cached_property
    def tokens(self) -> np.ndarray:
        """All token ids [N, L], or [N, 2, L] for a pair task, of type `dtype`; 0 is padding, and nothing else is.

        They stay in memory: 5.2 GB for the training split of Path-X. `take` and `torch` do without.
        """
        tokens = np.empty((*self._rows.shape, self.length), self.dtype)
        for part in self.parts():
            tokens[part] = self.take(part).tokens
        return tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """Numbers of tokens without padding, int32 [N], or [N, 2] for a pair task."""
        return np.asarray(self.data.lengths[self._rows])

    @cached_property
    def labels(self) -> np.ndarray:
        """Classes 0 … classes − 1, int64 [N]."""
        return np.asarray(self.data.splits[self.split].labels).astype(np.int64)

    @cached_property
    def _rows(self) -> np.ndarray:
        """Rows of the table [N] or [N, 2]."""
        index = np.asarray(self.data.splits[self.split].index)
        return index[:, 0] if index.shape[1] == 1 else index

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of `tokens`: uint8, or int16 where ids go up to 256, as those of bytes and pixels do."""
        return np.dtype(np.uint8 if self.vocab <= 256 else np.int16)

    @property
    def vocab(self) -> int:
        """Token ids are 0 … vocab − 1: the size of an embedding."""
        return self.data.vocab

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.data.classes

    @property
    def fingerprint(self) -> str:
        """sha-256 over the contents of all splits and the settings that made them (hexadecimal)."""
        return self.data.fingerprint

    @property
    def source(self) -> str:
        """Where the data came from: 'generated (seed 0)', 'lra_release'."""
        return self.data.source

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on this copy of the data, as that it is a part of the published data."""
        return self.data.notes

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: Sequence[int] | np.ndarray | slice) -> Batch:
        """The examples with these numbers, counted from 0; only their documents are read."""
        rows = self._rows[numbers]
        tokens = self.data.tokens(rows).astype(self.dtype)
        return Batch(tokens, np.asarray(self.data.lengths[rows]), self.labels[numbers])

    def parts(self) -> Iterator[slice]:
        """The whole split in order, in parts that take some ten megabytes each."""
        size = max(1, _TOKENS_AT_ONCE // (self.length * self._rows[:1].size))
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def torch(self) -> TorchExamples:
        """The split as a `torch.utils.data.Dataset`, which reads each example when it is asked for.

        Raises:
            ModuleNotFoundError: PyTorch is not installed.
        """
        try:
            from tasks.torch_examples import TorchExamples
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(
                "PyTorch is not installed, which .torch() needs: pip install torch", name="torch"
            ) from None
        return TorchExamples(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.entry, self.split, self.fingerprint)


def _reopen(entry: Path, split: str, fingerprint: str) -> Examples:
    """Opens what another process has verified. Raises `DataError` if the entry holds other data by now."""
    examples = Examples.open(entry, split, verify=False)
    if examples.fingerprint != fingerprint:
        raise DataError(f"{entry} holds other data than when it was opened: load it again")
    return examples


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def load(
    task: str,
    split: str = "train",
    length: int | None = None,
    *,
    data: str | Path = "data",
    source: str = "auto",
    source_dir: str | Path | None = None,
    allow_unverified: bool = False,
    workers: int = 1,
    report: Callable[[str], None] = _print_to_stderr,
    **settings: Any,
) -> Examples:
    """One split of a task: prepared if it is missing from the cache, and verified.

    The arguments are those of `run.py prepare`: whoever prepares a task on the command line loads the same data here,
    and the other way round.

    Args:
        task: a name of `run.py list tasks`, as 'listops'.
        split: 'train', 'validation' or 'test'.
        length: tokens per document; None: the task's.
        data: folder of the data cache.
        source: 'auto', 'generate', 'tfds', 'download', or the path of a folder or archive.
        source_dir: a folder with your copies of the data, which 'auto' and 'tfds' search.
        allow_unverified: accept data that differs from the published data.
        workers: processes that prepare the data. More than one need a script whose own work is below
            `if __name__ == "__main__":`, as they import it.
        report: receives progress messages; by default they go to standard error.
        **settings: fields of the task's rules, as `train=500`. Other settings are another data set.

    Raises:
        DataError: an unknown task, split or setting; no source has the data; or the cache cannot be written.
    """
    from tasks import TASKS  # which imports this module

    if task not in TASKS:
        raise DataError(_suggest("task", task, TASKS))
    if split not in SPLITS:
        raise DataError(_suggest("split", split, SPLITS))
    found = TASKS[task]
    length = _convert("length", found.length if length is None else length, int)
    if length < 1:
        raise DataError(f"length must be at least 1, not {length}")
    entry = prepare(
        found, length, 0, str(source), rules=_change_rules(found, settings), cache=Path(data).expanduser(),
        workers=workers, report=lambda line: report(f"{task}: {line}"),
        source_dir=Path(source_dir).expanduser() if source_dir else None, allow_unverified=allow_unverified,
    )  # fmt: skip
    return Examples.open(entry, split)


def _change_rules(task: Task, settings: dict[str, Any]) -> Any:
    """The task's rules with some fields replaced. Raises `DataError`."""
    hints = typing.get_type_hints(type(task.rules))
    for name in settings:
        if name not in hints:
            raise DataError(_suggest(f"setting of {task.name}", name, [*hints, *(load.__kwdefaults__ or ()), "length"]))
    values = {name: _convert(name, value, hints[name]) for name, value in settings.items()}
    return dataclasses.replace(task.rules, **values)


def _convert(name: str, value: Any, kind: type) -> Any:
    """The value as exactly this type, which is part of what identifies the data. Raises `DataError`."""
    try:
        converted = kind(value)
        if converted == value:
            return converted
    except (TypeError, ValueError, OverflowError):
        pass
    expected = {int: "a whole number", float: "a number"}.get(kind, f"a value of type {kind.__name__}")
    raise DataError(f"{name} takes {expected}, not {value!r}")


def _suggest(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"unknown {kind} '{name}': {hint}"
