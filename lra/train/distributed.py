"""Collectives over the processes that train one cell; no-ops in a single process.

All processes run the same compiled programs on all devices, in the same order. So each decision must either follow
from numbers that all processes have, such as a mean over all devices, or be agreed on here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Tree = Any
_TEXT_BYTES = 256
_PIECE_BYTES = 2**26
_JOIN_SECONDS = 300
_LEAVE_SECONDS = 60


def join(address: str, processes: int, process: int, devices: int) -> None:
    """Joins the processes of a cell; must come before any other use of JAX.

    Args:
        address: host:port on which process 0 listens.
        processes: number of processes.
        process: number of this process, from 0.
        devices: devices that the cell uses in each process.

    Raises:
        ValueError: the processes differ in the kind or number of their devices, or have too few.
        RuntimeError: another process did not join in time.
    """
    # Otherwise JAX takes over SIGTERM, which asks a cell to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address, processes, process, cluster_detection_method="deactivate",
        initialization_timeout=_JOIN_SECONDS, shutdown_timeout_seconds=_LEAVE_SECONDS,
    )  # fmt: skip
    kinds_by_process = [[d.device_kind for d in jax.devices() if d.process_index == i] for i in range(processes)]
    first = kinds_by_process[0]
    for i, kinds in enumerate(kinds_by_process):
        if kinds != first:
            raise ValueError(f"process {i} has {_describe(kinds)}, and process 0 has {_describe(first)}")
    if len(first) < devices:
        raise ValueError(f"--devices={devices}: each process has {_describe(first)}")


def _describe(kinds: Sequence[str]) -> str:
    return " + ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds)) or "no device"


def devices(per_process: int) -> list[jax.Device]:
    """Returns the first `per_process` devices of each process, in the order of processes."""
    groups = [[d for d in jax.devices() if d.process_index == i][:per_process] for i in range(jax.process_count())]
    return [device for group in groups for device in group]


def put_replicated(tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
    """Puts arrays that every process holds in full on all devices of a sharding, of whichever process."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree)


def local_part(rows: np.ndarray) -> np.ndarray:
    """Takes this process's part of the last axis, which the devices of all processes share."""
    size = rows.shape[-1] // jax.process_count()
    return rows[..., jax.process_index() * size : (jax.process_index() + 1) * size]


def put_local_parts(tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
    """Assembles global arrays of a sharding; each process passes the part of its own devices (`local_part`)."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def addressable(tree: Tree) -> Tree:
    """Returns this process's copy of replicated arrays, for use without the other processes."""
    return jax.tree.map(lambda x: x if x.is_fully_addressable else x.addressable_data(0), tree)


def first_reason(reason: str) -> str:
    """Returns the first non-empty reason of any process, or ''; all processes must call it. Long reasons are cut."""
    if jax.process_count() == 1:
        return reason
    text = reason.encode()[:_TEXT_BYTES]
    local = np.frombuffer(text.ljust(_TEXT_BYTES, b"\0"), np.uint8)
    gathered = multihost_utils.process_allgather(local)  # [processes, bytes]
    texts = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in np.asarray(gathered)]
    return next(filter(None, texts), "")


def broadcast(content: bytes) -> bytes:
    """Returns the bytes that process 0 passes; those that other processes pass are ignored."""
    size = np.array(divmod(len(content), _PIECE_BYTES), np.int32)  # in two numbers, as one may exceed 32 bits
    pieces, remainder = np.asarray(multihost_utils.broadcast_one_to_all(size)).tolist()
    count = pieces * _PIECE_BYTES + remainder
    whole = np.empty(count, np.uint8)
    source = np.frombuffer(content, np.uint8) if jax.process_index() == 0 else whole
    for start in range(0, count, _PIECE_BYTES):
        piece = slice(start, start + _PIECE_BYTES)
        whole[piece] = multihost_utils.broadcast_one_to_all(source[piece])
    return whole.tobytes()


def broadcast_checkpoint(
    checkpoint: tuple[Tree, dict[str, Any]] | None, like: Tree
) -> tuple[Tree, dict[str, Any]] | None:
    """Sends process 0's checkpoint (arrays, progress), or None, to all processes, with the arrays placed as `like`.

    Random keys are taken from `like`.
    """
    if jax.process_count() == 1:
        return checkpoint
    progress = json.loads(broadcast(json.dumps(checkpoint and checkpoint[1]).encode()))
    if progress is None:
        return None
    leaves, structure = jax.tree.flatten(like)
    plain = [i for i, x in enumerate(leaves) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    arrays = jax.tree.leaves(checkpoint[0]) if checkpoint else []
    content = broadcast(b"".join(np.asarray(arrays[i]).tobytes() for i in plain) if arrays else b"")
    offset = 0
    for i in plain:
        x = leaves[i]
        array = np.frombuffer(content, x.dtype, x.size, offset).reshape(x.shape)
        offset += array.nbytes
        leaves[i] = put_replicated(array, x.sharding)
    return jax.tree.unflatten(structure, leaves), progress
