"""Rematerialised blocks: each keeps only its input and is recomputed in the backward pass.

Training Deep Nets with Sublinear Memory Cost. Chen et al. 2016, arXiv:1604.06174: one more forward pass, with the
activations of one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

RunBlock = Callable[[Any, jax.Array, Any, Any], tuple[jax.Array, Any]]
"""(block, x, random key or None, state carried from the previous block) → x and the state carried to the next."""


def run_recomputed(blocks: Sequence[Any], x: jax.Array, keys: Sequence[Any], run: RunBlock) -> jax.Array:
    """Runs x [B, L, D] through all blocks, which get the running statistics (`nnx.BatchStat`) that they computed.

    Consecutive blocks of the same structure are one loop: without it, a compiler may recompute a block right after
    computing it, and so keep what was to be dropped.

    Args:
        blocks: nnx modules.
        x: [B, L, D].
        keys: one random key, or None, per block.
        run: computes one block.
    """
    carried: Any = None
    parts = [(*nnx.split(block, nnx.Param, ...), key, block) for block, key in zip(blocks, keys, strict=True)]
    for graph, group in groupby(parts, key=lambda part: part[0]):
        members = list(group)
        inputs = [part[1:4] for part in members]

        @jax.checkpoint
        def step(carry: Any, inputs: Any, graph: Any = graph) -> tuple[Any, nnx.State]:
            x, carried = carry
            params, other_state, key = inputs
            block = nnx.merge(graph, params, other_state)
            return run(block, x, key, carried), nnx.state(block, nnx.BatchStat)

        if len(members) == 1:
            (x, carried), statistics = step((x, carried), inputs[0])
            nnx.update(members[0][-1], statistics)
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
            (x, carried), statistics = lax.scan(step, (x, carried), stacked)
            for i, member in enumerate(members):
                nnx.update(member[-1], jax.tree.map(lambda leaf, i=i: leaf[i], statistics))
    return x
