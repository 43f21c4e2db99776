"""Checkpoints of a cell's training, from which a killed run resumes.

Orbax writes them atomically, in the background; the two newest are kept. Every array has a checksum, and so have the
values that are not arrays: if one does not match, the previous checkpoint is used.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.train import distributed
from tasks.io.files import make_folder, sync, sync_all

Tree = Any
_MAX_TO_KEEP = 2


@jax.jit
def checksums(leaves: list[jax.Array]) -> jax.Array:
    """Computes one uint32 per array: the sum of its words, each multiplied by an odd number that its place gives."""

    def checksum(x: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(x):
            x = jnp.stack([x.real, x.imag], -1)
        if x.dtype == jnp.bool_ or jax.dtypes.itemsize_bits(x.dtype) < 8:
            x = x.astype(jnp.int8)
        # Wider types become several words.
        word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(x, word).reshape(-1).astype(jnp.uint32)
        place = jax.lax.iota(jnp.uint32, words.size)
        return jnp.sum(words * (place * jnp.uint32(0x9E3779B2) + jnp.uint32(1)), dtype=jnp.uint32)

    return jnp.stack([checksum(leaf) for leaf in leaves])


def _named(tree: Tree) -> dict[str, Any]:
    """Returns the tree's leaves by their paths, without random keys, which a module derives from its seed."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in paths
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _is_exhaustion(error: Exception) -> bool:
    """Whether the error is resource exhaustion, not a damaged checkpoint."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "Cannot allocate memory", "Too many open files")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


class Checkpoints:
    """The checkpoints of one cell. If several processes train it, only the first has them.

    Args:
        folder: a folder for these checkpoints alone; created with the first one.
        key: the cell's key; checkpoints with another key are not used.
        minutes: time between checkpoints; 0 saves as often as possible.
        warn: receives one line about each failure. Training continues if a checkpoint cannot be written.
        code: the mixer's code, as a record holds it; a checkpoint that other code has made is used, with a warning.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        minutes: float,
        warn: Callable[[str], None],
        code: Mapping[str, Any] | None = None,
    ):
        self.folder, self.key, self.seconds, self.warn = folder.resolve(), key, 60 * minutes, warn
        self.code = dict(code or {})
        self.last = time.monotonic()
        self.manager: Any = None
        # Not Orbax's background writers: when a disk is full, they wait for each other for minutes.
        self.worker = ThreadPoolExecutor(1, "checkpoint")
        # Importing Orbax takes seconds; training compiles meanwhile.
        self.worker.submit(importlib.import_module, "orbax.checkpoint")
        self.writing: Future[None] | None = None
        self.missed = False

    def open(self) -> Any:
        """Returns Orbax's manager, creating it on first use."""
        if self.manager is None:
            import orbax.checkpoint as ocp

            make_folder(self.folder)
            single_process = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_MAX_TO_KEEP,
                enable_async_checkpointing=False,
                create=False,
                multiprocessing_options=single_process,
            )
            self.manager = ocp.CheckpointManager(self.folder, options=options)
        return self.manager

    def due(self) -> bool:
        """Whether it is time for a checkpoint, or one was skipped because the last was still being written."""
        return self.missed or time.monotonic() - self.last >= self.seconds

    def save(self, step: int, arrays: Tree, progress: dict[str, Any], wait: bool = False) -> None:
        """Saves the state after `step` steps; skips it if the last checkpoint is still being written.

        Args:
            step: the number of steps taken.
            arrays: the state's arrays; they may change once this returns.
            progress: the rest of the state, as JSON values.
            wait: never skip, and return only once the checkpoint is written.
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
        contents = {
            "key": self.key,
            "progress": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "checksums": sums,
            "code": self.code,
        }
        args = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(contents))
        manager.save(step, args=args, force=True)
        # Orbax syncs only the arrays. The previous checkpoint is synced and kept: one of them survives a power cut.
        sync_all(self.folder / str(step))
        sync(self.folder)

    def finish(self) -> None:
        """Waits until the current checkpoint, if any, is written; warns if that failed."""
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
        """Reads (arrays, progress) of the newest intact checkpoint; None without one.

        The arrays get the devices of `like`; if several processes share these, the arrays are on this process's first.
        Damaged checkpoints and those of another cell are reported and moved aside.
        """
        if not self.folder.is_dir():
            return None
        manager = self.open()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return self._restore(manager, step, like)
            except Exception as error:
                if _is_exhaustion(error):  # the checkpoint may be intact: keep it for a run with more resources
                    raise
                reason = str(error).strip().splitlines() or [type(error).__name__]
                self.warn(f"checkpoint at step {step} cannot be used and is left out: {reason[0][:300]}")
                (self.folder / str(step)).rename(self.folder / f"damaged-{step}-{time.time_ns()}")
                manager.reload()
        return None

    def _restore(self, manager: Any, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        import orbax.checkpoint as ocp

        contents = manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress
        if contents["key"] != self.key:
            raise ValueError("it belongs to another cell")
        if hashlib.sha256(contents["progress"].encode()).hexdigest() != contents["sha256"]:
            raise ValueError("its numbers are damaged")
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in distributed.addressable(_named(like)).items()
        }
        arrays = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes))).arrays
        if jax.device_get(checksums([arrays[name] for name in shapes])).tolist() != contents["checksums"]:
            raise ValueError("its arrays are damaged")
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths]
        tree = jax.tree.unflatten(structure, [arrays.get(name, leaf) for name, leaf in names])
        if contents.get("code", self.code) != self.code:
            self.warn(f"the steps up to {step:,} were trained by other code of the mixer")
        return tree, json.loads(contents["progress"])

    def close(self, delete: bool = False) -> None:
        """Finishes writing; with `delete`, removes all checkpoints."""
        self.finish()
        if delete:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.manager = None
