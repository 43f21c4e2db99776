"""Batches, from data kept on the device or streamed from the host, and the order of training examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from configs.recipe import Train
from lra.train import distributed
from tasks.task import Dataset, Split


class SplitArrays(NamedTuple):
    """One split on the device; all splits share `values` and `lengths`, the table of documents."""

    values: jax.Array
    lengths: jax.Array
    rows: jax.Array
    labels: jax.Array


class Batch(NamedTuple):
    """Examples: raw values uint8 [..., B, P, L], true lengths [..., B, P] and labels [..., B]."""

    values: jax.Array
    lengths: jax.Array
    labels: jax.Array


def gather(data: SplitArrays, rows: jax.Array) -> Batch:
    """Gathers the examples `rows` [B] of a split."""
    documents = data.rows[rows]
    return Batch(data.values[documents], data.lengths[documents], data.labels[rows])


def tokens_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Computes token ids int32 [B, P, L], 0 beyond a document's end, and the mask of real tokens [B, P, L]."""
    positions = jnp.arange(batch.values.shape[-1]).reshape(*[1] * batch.lengths.ndim, -1)
    mask = positions < batch.lengths[..., None]
    return jnp.where(mask, batch.values.astype(jnp.int32) + 1, 0), mask


def sample_evaluated(dataset: Dataset, budget: Train) -> Dataset:
    """The data with as many examples of validation and test as the recipe's `train` evaluates.

    A smaller split is a random sample of the whole one that depends on its labels alone, so that all models and seeds
    are compared on the same examples. It is stratified: each class keeps its share, to within one example. So the
    accuracy of always answering the most frequent class stays that of the whole split, and the binomial error that
    the leaderboard states is an upper bound of the sample's.
    """
    sizes = budget.evaluated({name: len(split.labels) for name, split in dataset.splits.items()})
    smaller = {name: sample_split(dataset.splits[name], size) for name, size in sizes.items()}
    return dataclasses.replace(dataset, splits={**dataset.splits, **smaller})


def sample_split(split: Split, size: int) -> Split:
    """Every (N / size)-th of the split's N examples in order of class, and at random within each; in the split's order.

    The random order is the module's own, which stays the same with every version of NumPy.
    """
    labels = np.asarray(split.labels)
    if size == len(labels):
        return split
    places = np.arange(len(labels), dtype=np.uint32)
    order = np.lexsort((permute_index(places, len(labels), mix_bits(np.array([_SAMPLE], np.uint32)), np), labels))
    rows = np.sort(order[(2 * np.arange(size) + 1) * len(labels) // (2 * size)])
    return Split(np.asarray(split.index)[rows], labels[rows])


_SAMPLE = 0xE7A1
"""Selects the random order of the evaluated samples; another number would be another benchmark."""


class DeviceData:
    """All splits, replicated on each device; they share one table of documents."""

    def __init__(self, dataset: Dataset, sharding: jax.sharding.Sharding):
        values, lengths = distributed.put_replicated(
            (np.asarray(dataset.values), np.asarray(dataset.lengths)), sharding
        )

        def put(split: Split) -> SplitArrays:
            rows, labels = np.asarray(split.index), np.asarray(split.labels, np.int32)
            return SplitArrays(values, lengths, *distributed.put_replicated((rows, labels), sharding))

        self.data = {name: put(split) for name, split in dataset.splits.items()}

    def chunk(self, step: int, steps: int) -> SplitArrays:
        """Returns the source of the compiled chunk: the whole training split."""
        return self.data["train"]

    def prefetch(self, step: int, steps: int) -> None:
        """Nothing to do."""

    def examples(self, split: str, start: int, batch: int) -> SplitArrays:
        """Returns the source of the compiled evaluation: the whole split."""
        return self.data[split]


class StreamedData:
    """Batches that the host gathers while the device computes, for data that do not fit on the device.

    Args:
        dataset: the prepared data.
        batch: examples per training batch.
        seeds: training seeds; each has its own order of examples, so a step's batch is [seeds, B, …].
        mesh: the devices that share a batch, or None for a single device.
    """

    def __init__(self, dataset: Dataset, batch: int, seeds: Sequence[int], mesh: jax.sharding.Mesh | None):
        self.dataset, self.batch, self.seeds, self.mesh = dataset, batch, tuple(seeds), mesh
        self.worker = ThreadPoolExecutor(1, "batches")
        self.pending: dict[tuple[int, int], Future[Batch]] = {}

    def chunk(self, step: int, steps: int) -> Batch:
        """Returns the batches of steps `step` … `step + steps − 1`, [steps, seeds, B, …]."""
        self.prefetch(step, steps)
        return self.pending.pop((step, steps)).result()

    def prefetch(self, step: int, steps: int) -> None:
        """Starts gathering a chunk's batches in the background."""
        if (step, steps) not in self.pending:
            self.pending.clear()
            self.pending[step, steps] = self.worker.submit(self._gather_chunk, step, steps)

    def _gather_chunk(self, step: int, steps: int) -> Batch:
        numbers, count = np.arange(step, step + steps), len(self.dataset.splits["train"].labels)
        rows = [batch_indices(numbers, self.batch, count, seed, np) for seed in self.seeds]
        return self._put("train", np.stack(rows, axis=1))

    def examples(self, split: str, start: int, batch: int) -> Batch:
        """Returns examples `start` … `start + batch − 1` of a split; past its end, its first example repeats."""
        rows = np.arange(start, start + batch)
        return self._put(split, np.where(rows < len(self.dataset.splits[split].labels), rows, 0))

    def _gather(self, name: str, rows: np.ndarray) -> Batch:
        split = self.dataset.splits[name]
        documents = split.index[rows]
        labels = np.asarray(split.labels)[rows].astype(np.int32)
        return Batch(self.dataset.values[documents], self.dataset.lengths[documents], labels)

    def _put(self, split: str, rows: np.ndarray) -> Batch:
        """Puts the examples `rows` [..., B] on the devices; each process gathers only those of its own devices."""
        if self.mesh is None:
            return Batch(*map(jnp.asarray, self._gather(split, rows)))
        sharding = NamedSharding(self.mesh, PartitionSpec(*[None] * (rows.ndim - 1), "batch"))
        return Batch(*distributed.put_local_parts(self._gather(split, distributed.local_part(rows)), sharding))


def fits(dataset: Dataset, device: jax.Device) -> bool:
    """Whether the data fit on a device: they take at most a quarter of the memory that JAX has there."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit is None or 4 * (dataset.values.nbytes + dataset.lengths.nbytes) <= limit


ROUNDS = 40
"""At least 2 log₂ n for n up to a million; any number of rounds yields a permutation."""


def batch_indices(steps: Any, batch: int, count: int, seed: Any, xp: ModuleType) -> Any:
    """Computes which rows of the training split form the batches of `steps`, uint32 [*steps.shape, batch].

    Batches continue across the end of an epoch, so each epoch has every example exactly once.

    Args:
        steps: integers counted from 0; may be traced. step × batch must stay below 2³².
        batch: examples per batch.
        count: examples in the split.
        seed: below 2³²; may be traced.
        xp: `numpy` or `jax.numpy`.
    """
    steps = xp.asarray(steps).astype(xp.uint32)
    within = xp.arange(batch, dtype=xp.uint32).reshape(*[1] * steps.ndim, batch)
    place = steps[..., None] * xp.uint32(batch) + within
    n = xp.uint32(count)
    return permute_index(place % n, count, mix_bits(mix_bits(place // n) ^ xp.asarray(seed).astype(xp.uint32)), xp)


def permute_index(x: Any, count: int, key: Any, xp: ModuleType) -> Any:
    """Maps `x` through the permutation of 0 … count − 1 that `key` selects (swap-or-not, Hoang et al. 2012).

    Args:
        x: indices, uint32.
        count: number of elements permuted.
        key: uint32, of a shape that broadcasts to that of `x`.
        xp: `numpy` or `jax.numpy`.
    """
    n = xp.uint32(count)

    def swap_or_not(number: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        x, key = state
        key = mix_bits(key + xp.asarray(number).astype(xp.uint32) + xp.uint32(0x9E3779B9))
        partner = (key % n + n - x) % n
        larger = xp.maximum(x, partner)
        return xp.where(mix_bits(larger ^ key) & xp.uint32(1) == 0, x, partner), key

    if xp is not np:
        return jax.lax.fori_loop(0, ROUNDS, swap_or_not, (x, key))[0]
    for number in range(ROUNDS):
        x, key = swap_or_not(np.array([number]), (x, key))
    return x


def mix_bits(x: Any) -> Any:
    """Mixes 32 bits bijectively (lowbias32 of Wellons' hash prospector)."""
    u = x.dtype.type
    x = (x ^ (x >> u(16))) * u(0x7FEB352D)
    x = (x ^ (x >> u(15))) * u(0x846CA68B)
    return x ^ (x >> u(16))
