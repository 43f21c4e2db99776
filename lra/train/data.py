"""Batches that lie on the device or are streamed from the host, and the order of training examples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lra.train import data, distributed
from tasks.task import Dataset, Split


class SplitArrays(NamedTuple):
    """One split on the device; `values` and `lengths` are the table that the splits share."""

    values: jax.Array
    lengths: jax.Array
    rows: jax.Array
    labels: jax.Array


class Batch(NamedTuple):
    """Examples themselves: raw values uint8 [..., B, P, L], true lengths [..., B, P] and labels [..., B]."""

    values: jax.Array
    lengths: jax.Array
    labels: jax.Array


def gather(data: SplitArrays, rows: jax.Array) -> Batch:
    """The examples `rows` [B] of a split."""
    documents = data.rows[rows]
    return Batch(data.values[documents], data.lengths[documents], data.labels[rows])


def tokens_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Token ids int32 [B, P, L], 0 beyond a document's end, and the mask of real tokens [B, P, L]."""
    mask = jnp.arange(batch.values.shape[-1]) < batch.lengths[..., None]
    return jnp.where(mask, batch.values.astype(jnp.int32) + 1, 0), mask


class DeviceData:
    """All splits on the devices, a whole copy on each; the table is there once."""

    def __init__(self, splits: Dataset, sharding: jax.sharding.Sharding):
        values, lengths = distributed.put_replicated((np.asarray(splits.values), np.asarray(splits.lengths)), sharding)

        def put(split: Split) -> SplitArrays:
            rows, labels = np.asarray(split.index), np.asarray(split.labels, np.int32)
            return SplitArrays(values, lengths, *distributed.put_replicated((rows, labels), sharding))

        self.data = {name: put(split) for name, split in splits.splits.items()}

    def chunk(self, step: int, steps: int) -> SplitArrays:
        """What the compiled chunk gets as its source of examples."""
        return self.data["train"]

    def prefetch(self, step: int, steps: int) -> None:
        """Nothing to do."""

    def examples(self, split: str, start: int, batch: int) -> SplitArrays:
        """What the compiled evaluation gets."""
        return self.data[split]


class StreamedData:
    """Batches made by the host while the device computes, for tables that the device has no room for.

    Args:
        seeds: training seeds; each has an order of its own, so a step's batch is [seeds, B, …].
        mesh: the devices that share a batch, or None.
    """

    def __init__(self, splits: Dataset, batch: int, seeds: Sequence[int], mesh: jax.sharding.Mesh | None):
        self.splits, self.batch, self.seeds, self.mesh = splits, batch, tuple(seeds), mesh
        self.worker = ThreadPoolExecutor(1, "feed")
        self.pending: dict[tuple[int, int], Future[Batch]] = {}

    def chunk(self, step: int, steps: int) -> Batch:
        """The batches of steps `step` … `step + steps − 1`, [steps, seeds, B, …]."""
        self.prefetch(step, steps)
        return self.pending.pop((step, steps)).result()

    def prefetch(self, step: int, steps: int) -> None:
        """Starts making a chunk's batches."""
        if (step, steps) not in self.pending:
            self.pending.clear()
            self.pending[step, steps] = self.worker.submit(self._chunk, step, steps)

    def _chunk(self, step: int, steps: int) -> Batch:
        numbers, count = np.arange(step, step + steps), len(self.splits.splits["train"].labels)
        rows = [data.batch_indices(numbers, self.batch, count, seed, np) for seed in self.seeds]
        return self._put("train", np.stack(rows, axis=1))

    def examples(self, split: str, start: int, batch: int) -> Batch:
        """Examples `start` … `start + batch − 1` of a split; beyond its end, the first one again."""
        rows = np.arange(start, start + batch)
        return self._put(split, np.where(rows < len(self.splits.splits[split].labels), rows, 0))

    def _gather(self, split: str, rows: np.ndarray) -> Batch:
        chosen = self.splits.splits[split]
        documents = chosen.index[rows]
        labels = np.asarray(chosen.labels)[rows].astype(np.int32)
        return Batch(self.splits.values[documents], self.splits.lengths[documents], labels)

    def _put(self, split: str, rows: np.ndarray) -> Batch:
        """The examples `rows` [..., B]; each process makes those of its own devices alone."""
        if self.mesh is None:
            return Batch(*map(jnp.asarray, self._gather(split, rows)))
        sharding = NamedSharding(self.mesh, PartitionSpec(*[None] * (rows.ndim - 1), "batch"))
        return Batch(*distributed.put_local_parts(self._gather(split, distributed.local_part(rows)), sharding))


def fits(splits: Dataset, device: jax.Device) -> bool:
    """Whether the table may lie on a device: it takes at most a quarter of the memory that JAX has there."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit is None or 4 * (splits.values.nbytes + splits.lengths.nbytes) <= limit


ROUNDS = 40
"""At least 2 log₂ n for n up to a million; the shuffle is a permutation with any number of rounds."""


def batch_indices(steps: Any, batch: int, count: int, seed: Any, xp: ModuleType) -> Any:
    """Rows of the training split that make the batches of `steps`, uint32 [*steps.shape, batch].

    Batches run on over the end of an epoch, so no example is dropped or doubled within one.

    Args:
        steps: steps, counted from 0; integers that may be traced. step × batch must stay below 2³².
        count: examples in the split.
        seed: below 2³²; may be traced.
        xp: `numpy` or `jax.numpy`.
    """
    place = xp.asarray(steps).astype(xp.uint32)[..., None] * xp.uint32(batch) + xp.arange(batch, dtype=xp.uint32)
    n = xp.uint32(count)
    return permute_index(place % n, count, _hash(_hash(place // n) ^ xp.asarray(seed).astype(xp.uint32)), xp)


def permute_index(x: Any, count: int, key: Any, xp: ModuleType) -> Any:
    """Where the permutation of 0 … count − 1 chosen by `key` sends x. uint32 arrays of one shape."""
    n = xp.uint32(count)

    def swap_or_not(number: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        x, key = state
        key = _hash(key + xp.asarray(number).astype(xp.uint32) + xp.uint32(0x9E3779B9))
        partner = (key % n + n - x) % n
        larger = xp.maximum(x, partner)
        return xp.where(_hash(larger ^ key) & xp.uint32(1) == 0, x, partner), key

    if xp is not np:
        return jax.lax.fori_loop(0, ROUNDS, swap_or_not, (x, key))[0]
    for number in range(ROUNDS):
        x, key = swap_or_not(np.array([number]), (x, key))
    return x


def _hash(x: Any) -> Any:
    """A bijective mixer of 32 bits (the constants are those of Wellons' hash prospector, lowbias32)."""
    u = x.dtype.type
    x = (x ^ (x >> u(16))) * u(0x7FEB352D)
    x = (x ^ (x >> u(15))) * u(0x846CA68B)
    return x ^ (x >> u(16))
