"""Changed inputs: tokens in another order, or only some of them.

The same changes serve a trained model that is measured (`lra.train.reach`) and one that is trained on changed inputs
(`configs.recipe.Ablation`). Each document's are its own, and stay the same in every epoch.

Shapes: values uint8 [..., L] of documents, and their lengths [...]; values beyond a document's end carry no meaning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from configs.recipe import Ablation
from lra.train.data import mix_bits
from tasks.task import Dataset

SEED = 0x4EAC4


def ablated(dataset: Dataset, ablation: Ablation) -> Dataset:
    """The data with the order of their tokens changed as asked: in memory, where they were not before."""
    values, lengths = dataset.values, np.asarray(dataset.lengths)
    for change, size in ((shuffled_within, ablation.within), (shuffled_blocks, ablation.blocks)):
        if size:
            changed = np.empty(values.shape, values.dtype)
            rows = max(1, _AT_ONCE // values.shape[1])
            for first in range(0, len(values), rows):
                part = slice(first, first + rows)
                changed[part] = change(np.asarray(values[part]), lengths[part], size, first)[0]
            values = changed
    return dataclasses.replace(dataset, values=values)


_AT_ONCE = 2**22
"""Tokens that are sorted at once."""

Change = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(values, lengths, size) → changed values and lengths."""


def shuffled_within(
    values: np.ndarray, lengths: np.ndarray, size: int, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of each block of `size` in a random order; a document's last block may be shorter.

    `first` is the number of the first document, on which its order depends.
    """
    place = np.arange(values.shape[-1])
    keys = (place // size).astype(np.uint64) << np.uint64(32) | draw_bits(values.shape, 1, first).astype(np.uint64)
    return _reordered(values, lengths, keys), lengths


def shuffled_blocks(
    values: np.ndarray, lengths: np.ndarray, size: int, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of `size` tokens in a random order, each as it is; `first` as above."""
    place = np.arange(values.shape[-1])
    blocks = draw_bits((*values.shape[:-1], -(-values.shape[-1] // size)), 2, first)[..., place // size]
    # Two blocks with the same 32 bits would be mixed up; the number of the block, in the lower bits, keeps them apart.
    keys = blocks.astype(np.uint64) << np.uint64(32) | place.astype(np.uint64)
    return _reordered(values, lengths, keys), lengths


def _reordered(values: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Each document's real tokens in the order of their keys."""
    real = np.arange(values.shape[-1]) < lengths[..., None]
    order = np.argsort(np.where(real, keys, np.iinfo(np.uint64).max), axis=-1, kind="stable")
    return np.take_along_axis(values, order, axis=-1)


def first_tokens(values: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `size` tokens."""
    return values, np.minimum(lengths, size)


def last_tokens(values: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `size` tokens, moved to the front."""
    return _moved(values, lengths, size, np.maximum(lengths - size, 0))


def random_tokens(values: np.ndarray, lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A random stretch of `size` tokens, moved to the front."""
    return _moved(values, lengths, size, draw_bits(lengths.shape, 3) % np.maximum(lengths - size + 1, 1))


def _moved(values: np.ndarray, lengths: np.ndarray, size: int, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.arange(values.shape[-1]) + starts[..., None].astype(np.int64)
    return np.take_along_axis(values, place % values.shape[-1], axis=-1), np.minimum(lengths, size)


CHANGES: dict[str, Change] = {
    "within": shuffled_within,
    "blocks": shuffled_blocks,
    "first": first_tokens,
    "last": last_tokens,
    "random": random_tokens,
}
"""The measures that change the input, by their names in a record."""


def draw_bits(shape: tuple[int, ...], stream: int, first: int = 0) -> np.ndarray:
    """Random uint32, of which each stream has others. A row's depend on its number, counted from `first`, alone."""
    key = mix_bits(np.array([SEED + stream], np.uint32))
    count = int(np.prod(shape))
    start = first * (count // shape[0])
    numbers = np.arange(start, start + count, dtype=np.uint64).astype(np.uint32)
    return mix_bits(numbers ^ key).reshape(shape)
