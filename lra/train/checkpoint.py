"""Checkpoints of one cell's training, so that a killed run goes on where it was.

Orbax writes them, in the background, whole or not at all; the two newest stay. Each array has a checksum of its
own beside it, and so have the numbers that are no arrays; what is read back wrong is not used, and the one before is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.train import distributed
from tasks.io.files import make_folder, sync, sync_all

Tree = Any
_KEPT = 2


@jax.jit
def checksums(leaves: list[jax.Array]) -> jax.Array:
    """A uint32 for each array: the sum of its 32-bit words, each times an odd number of its own place."""

    def one(x: jax.Array) -> jax.Array:
        narrow = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(x, narrow) if x.dtype != jnp.bool_ else x
        words = words.reshape(-1).astype(jnp.uint32)
        place = jax.lax.iota(jnp.uint32, words.size)
        return jnp.sum(words * (place * jnp.uint32(0x9E3779B2) + jnp.uint32(1)), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in leaves])


def _named(tree: Tree) -> dict[str, Any]:
    """The tree's leaves by their places in it, but for random keys, which a module makes from its seed."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in paths
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _for_want(error: Exception) -> bool:
    """Whether the machine lacked something, which says nothing about what was to be read."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "Cannot allocate memory", "Too many open files")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


class Checkpoints:
    """The checkpoints of one cell. Of several processes that train it, the first alone has them.

    Args:
        folder: theirs alone; made when the first is saved.
        key: the cell's; checkpoints of another are not used.
        minutes: between two of them; 0 saves as often as it can.
        warn: told in one line what went wrong. Training goes on without a checkpoint that could not be written.
    """

    def __init__(self, folder: Path, key: str, minutes: float, warn: Callable[[str], None]):
        self.folder, self.key, self.seconds, self.warn = folder.resolve(), key, 60 * minutes, warn
        self.last = time.monotonic()
        self.manager: Any = None
        # A thread of our own: when a disk is full, Orbax's background writers wait for each other for minutes.
        self.worker = ThreadPoolExecutor(1, "checkpoint")
        # Orbax takes seconds to import: meanwhile training compiles.
        self.worker.submit(importlib.import_module, "orbax.checkpoint")
        self.writing: Future[None] | None = None
        self.missed = False

    def open(self) -> Any:
        """Orbax's manager, made when it is first needed."""
        if self.manager is None:
            import orbax.checkpoint as ocp

            make_folder(self.folder)
            alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
            )
            self.manager = ocp.CheckpointManager(self.folder, options=options)
        return self.manager

    def due(self) -> bool:
        """Whether it is time for a checkpoint, or one was left out because the last was still being written."""
        return self.missed or time.monotonic() - self.last >= self.seconds

    def save(self, step: int, arrays: Tree, progress: dict[str, Any], wait: bool = False) -> None:
        """Saves the state after `step` steps. Returns once the arrays may change; with `wait`, once it is written.

        While the last checkpoint is still being written this one is put off to the next time, unless `wait`.
        """
        if self.writing is not None and not self.writing.done() and not wait:
            self.missed = True
            return
        self.finish()
        named = distributed.addressable(_named(arrays))
        sums = checksums(list(named.values()))
        copied = {name: np.array(leaf) for name, leaf in named.items()}
        self.writing = self.worker.submit(self._write, step, copied, progress, jax.device_get(sums).tolist())
        self.missed, self.last = False, time.monotonic()
        if wait:
            self.finish()

    def _write(self, step: int, arrays: dict[str, np.ndarray], progress: dict[str, Any], sums: list[int]) -> None:
        import orbax.checkpoint as ocp

        manager = self.open()
        if step in manager.all_steps():
            return
        text = json.dumps(progress)
        told = {
            "key": self.key,
            "progress": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "checksums": sums,
        }
        args = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(told))
        manager.save(step, args=args, force=True)
        # Orbax syncs the arrays alone. The one before has been synced, and stays: a power cut leaves one of the two.
        sync_all(self.folder / str(step))
        sync(self.folder)

    def finish(self) -> None:
        """Waits for a checkpoint that is being written."""
        if self.writing is None:
            return
        try:
            self.writing.result()
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.warn(f"a checkpoint could not be written to {self.folder}: {reason[0][:300]}")
            self.manager = None
        self.writing = None

    def restore(self, like: Tree) -> tuple[Tree, dict[str, Any]] | None:
        """(arrays, progress) of the newest checkpoint that is whole, on the devices of `like`; None without one.

        Where those are of several processes too, the arrays are on this one's first.
        Checkpoints that are damaged or of something else are told of and put aside.
        """
        if not self.folder.is_dir():
            return None
        manager = self.open()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return self._restore(manager, step, like)
            except Exception as error:
                if _for_want(error):  # the checkpoint may be whole, and is kept for a run that has more
                    raise
                reason = str(error).strip().splitlines() or [type(error).__name__]
                self.warn(f"checkpoint at step {step} cannot be used and is left out: {reason[0][:300]}")
                (self.folder / str(step)).rename(self.folder / f"damaged-{step}-{time.time_ns()}")
                manager.reload()
        return None

    def _restore(self, manager: Any, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        import orbax.checkpoint as ocp

        told = manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress
        if told["key"] != self.key:
            raise ValueError("it belongs to another cell")
        if hashlib.sha256(told["progress"].encode()).hexdigest() != told["sha256"]:
            raise ValueError("its numbers are damaged")
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in distributed.addressable(_named(like)).items()
        }
        found = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(wanted))).arrays
        if jax.device_get(checksums([found[name] for name in wanted])).tolist() != told["checksums"]:
            raise ValueError("its arrays are damaged")
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths]
        tree = jax.tree.unflatten(structure, [found.get(name, leaf) for name, leaf in names])
        return tree, json.loads(told["progress"])

    def close(self, delete: bool = False) -> None:
        """Ends the writing; `delete` when the cell is done and its record stands."""
        self.finish()
        if delete:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.manager = None
