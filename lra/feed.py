"""Where a step's examples come from: a table that lies on the device, or batches that the host sends.

Both give the same batches: the order of examples is a function of (seed, step) that the device and the host
compute alike (lra/order.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lra import collective, order
from tasks.task import Split, Splits


class Data(NamedTuple):
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


def gather(data: Data, rows: jax.Array) -> Batch:
    """The examples `rows` [B] of a split."""
    documents = data.rows[rows]
    return Batch(data.values[documents], data.lengths[documents], data.labels[rows])


def tokens_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Token ids int32 [B, P, L], 0 beyond a document's end, and the mask of real tokens [B, P, L]."""
    mask = jnp.arange(batch.values.shape[-1]) < batch.lengths[..., None]
    return jnp.where(mask, batch.values.astype(jnp.int32) + 1, 0), mask


class Resident:
    """All splits on the devices, a whole copy on each; the table is there once."""

    def __init__(self, splits: Splits, sharding: jax.sharding.Sharding):
        values, lengths = collective.put((np.asarray(splits.values), np.asarray(splits.lengths)), sharding)

        def put(split: Split) -> Data:
            rows, labels = np.asarray(split.index), np.asarray(split.labels, np.int32)
            return Data(values, lengths, *collective.put((rows, labels), sharding))

        self.data = {name: put(split) for name, split in splits.splits.items()}

    def chunk(self, step: int, steps: int) -> Data:
        """What the compiled chunk gets as its source of examples."""
        return self.data["train"]

    def prefetch(self, step: int, steps: int) -> None:
        """Nothing to do."""

    def examples(self, split: str, start: int, batch: int) -> Data:
        """What the compiled evaluation gets."""
        return self.data[split]


class Streamed:
    """Batches made by the host while the device computes, for tables that the device has no room for.

    Args:
        seeds: training seeds; each has an order of its own, so a step's batch is [seeds, B, …].
        mesh: the devices that share a batch, or None.
    """

    def __init__(self, splits: Splits, batch: int, seeds: Sequence[int], mesh: jax.sharding.Mesh | None):
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
        rows = [order.examples(numbers, self.batch, count, seed, np) for seed in self.seeds]
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
        return Batch(*collective.put_parts(self._gather(split, collective.part(rows)), sharding))


def fits(splits: Splits, device: jax.Device) -> bool:
    """Whether the table may lie on a device: it takes at most a quarter of the memory that JAX has there."""
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return limit is None or 4 * (splits.values.nbytes + splits.lengths.nbytes) <= limit
