"""A task's examples for PyTorch's `DataLoader`. Imported by `Examples.torch` only: nothing else here needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from tasks.examples import Examples

Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Token ids [L], or [2, L] for a pair task; length, or lengths [2]; class. All are int64."""


class TorchExamples(Dataset[Item]):
    """One split as a map-style dataset.

    With the default collation a batch of B is token ids [B, L] or [B, 2, L], lengths [B] or [B, 2] and classes [B].
    Examples are gathered from the mapped files of the cache, a batch at a time. Workers, forked or spawned, map the
    same files.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> Item:
        """One example. Raises `IndexError` past the end."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Several examples, gathered together: what `DataLoader` calls for a batch."""
        batch = self.examples.take(np.asarray(numbers, np.int64))
        tokens, lengths, labels = (torch.from_numpy(array.astype(np.int64)) for array in batch)
        return list(zip(tokens, lengths, labels, strict=True))
