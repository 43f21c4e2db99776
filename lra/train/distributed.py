"""What the processes of one cell do together. Where there is only one, each of these is what it would do alone.

Every process runs the same compiled programs on devices of all of them, in the same order. So a decision must either
follow from numbers that all have, such as a mean over all devices, or be agreed on here.
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
_SECONDS_TO_JOIN = 300
_SECONDS_TO_LEAVE = 60


def join(address: str, processes: int, process: int, devices: int) -> None:
    """Makes this process number `process` of `processes`; before anything else that JAX does.

    Args:
        address: host:port of process 0, which listens there.
        devices: of each process that the cell uses.

    Raises:
        ValueError: the processes have devices of different kinds or numbers, or too few.
        RuntimeError: the others did not come in time.
    """
    # Else JAX takes SIGTERM for itself, which asks a cell to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address, processes, process, cluster_detection_method="deactivate",
        initialization_timeout=_SECONDS_TO_JOIN, shutdown_timeout_seconds=_SECONDS_TO_LEAVE,
    )  # fmt: skip
    found = [[d.device_kind for d in jax.devices() if d.process_index == i] for i in range(processes)]
    for i, kinds in enumerate(found):
        if kinds != found[0]:
            raise ValueError(f"process {i} has {_devices(kinds)}, and process 0 has {_devices(found[0])}")
    if len(found[0]) < devices:
        raise ValueError(f"--devices={devices}: each process has {_devices(found[0])}")


def _devices(kinds: Sequence[str]) -> str:
    return " + ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds)) or "no device"


def devices(each: int) -> list[jax.Device]:
    """The first `each` devices of every process, in the processes' order."""
    of_all = [[d for d in jax.devices() if d.process_index == i][:each] for i in range(jax.process_count())]
    return [device for some in of_all for device in some]


def put_replicated(tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
    """Arrays that every process has whole, placed by a sharding, also where some of its devices are of others."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def placed(x: Any) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(placed(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(placed, tree)


def local_part(rows: np.ndarray) -> np.ndarray:
    """This process's part of the last axis, which all processes' devices share."""
    size = rows.shape[-1] // jax.process_count()
    return rows[..., jax.process_index() * size : (jax.process_index() + 1) * size]


def put_local_parts(tree: Tree, sharding: jax.sharding.Sharding) -> Tree:
    """Arrays of which every process has the `part` of its own devices, placed as one by a sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def addressable(tree: Tree) -> Tree:
    """Replicated arrays as this process has them: what is done to these, the others need not do too."""
    return jax.tree.map(lambda x: x if x.is_fully_addressable else x.addressable_data(0), tree)


def first_reason(reason: str) -> str:
    """The reason of the first process that has one, '' where none has; all must ask. The end of a long one is lost."""
    if jax.process_count() == 1:
        return reason
    text = reason.encode()[:_TEXT_BYTES]
    mine = np.frombuffer(text.ljust(_TEXT_BYTES, b"\0"), np.uint8)
    every = multihost_utils.process_allgather(mine)  # [processes, bytes]
    texts = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in np.asarray(every)]
    return next(filter(None, texts), "")


def broadcast(content: bytes) -> bytes:
    """The bytes that process 0 has; what others give is not looked at."""
    pieces, rest = divmod(len(content), _PIECE_BYTES)
    pieces, rest = np.asarray(multihost_utils.broadcast_one_to_all(np.array([pieces, rest], np.int32))).tolist()
    count = pieces * _PIECE_BYTES + rest
    whole = np.empty(count, np.uint8)
    mine = np.frombuffer(content, np.uint8) if jax.process_index() == 0 else whole
    for start in range(0, count, _PIECE_BYTES):
        piece = slice(start, start + _PIECE_BYTES)
        whole[piece] = multihost_utils.broadcast_one_to_all(mine[piece])
    return whole.tobytes()


def broadcast_checkpoint(found: tuple[Tree, dict[str, Any]] | None, like: Tree) -> tuple[Tree, dict[str, Any]] | None:
    """(arrays, progress) that process 0 has found, on every process and placed as `like`; None where it found none.

    Random keys stay those of `like`.
    """
    if jax.process_count() == 1:
        return found
    progress = json.loads(broadcast(json.dumps(found and found[1]).encode()))
    if progress is None:
        return None
    leaves, structure = jax.tree.flatten(like)
    plain = [i for i, x in enumerate(leaves) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    mine = jax.tree.leaves(found[0]) if found else []
    content = broadcast(b"".join(np.asarray(mine[i]).tobytes() for i in plain) if mine else b"")
    offset = 0
    for i in plain:
        x = leaves[i]
        array = np.frombuffer(content, x.dtype, x.size, offset).reshape(x.shape)
        offset += array.nbytes
        leaves[i] = put_replicated(array, x.sharding)
    return jax.tree.unflatten(structure, leaves), progress
