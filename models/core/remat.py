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
    """Runs x [B, L, D] through all blocks.

    Consecutive blocks of the same structure are one loop: without it, a compiler may recompute a block right after
    computing it, and so keep what was to be dropped.

    Args:
        blocks: nnx modules.
        x: [B, L, D].
        keys: one random key, or None, per block.
        run: computes one block.
    """
    carried: Any = None
    parts = [(*nnx.split(block, nnx.Param, ...), key) for block, key in zip(blocks, keys, strict=True)]
    for graph, group in groupby(parts, key=lambda part: part[0]):
        inputs = [part[1:] for part in group]

        @jax.checkpoint
        def step(carry: Any, inputs: Any, graph: Any = graph) -> tuple[Any, None]:
            x, carried = carry
            params, other_state, key = inputs
            return run(nnx.merge(graph, params, other_state), x, key, carried), None

        if len(inputs) == 1:
            (x, carried), _ = step((x, carried), inputs[0])
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
            (x, carried), _ = lax.scan(step, (x, carried), stacked)
    return x
