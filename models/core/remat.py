"""Blocks that keep their input alone for the backward pass and are computed again there.

Training Deep Nets with Sublinear Memory Cost. Chen et al. 2016, arXiv:1604.06174: one more forward pass, and
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
"""(block, x, random key or None, what the block before handed on) → x and what the next one is handed."""


def run_recomputed(blocks: Sequence[Any], x: jax.Array, keys: Sequence[Any], run: RunBlock) -> jax.Array:
    """x [B, L, D] through all blocks.

    Runs of blocks of the same structure are one loop each: between blocks that stand in a row, a compiler may do the
    second computation right after the first, and keep what was to be dropped.
    """
    carried: Any = None
    parts = [(*nnx.split(block, nnx.Param, ...), key) for block, key in zip(blocks, keys, strict=True)]
    for graph, group in groupby(parts, key=lambda part: part[0]):
        given = [part[1:] for part in group]

        @jax.checkpoint
        def one(carry: Any, given: Any, graph: Any = graph) -> tuple[Any, None]:
            x, carried = carry
            params, rest, key = given
            return run(nnx.merge(graph, params, rest), x, key, carried), None

        if len(given) == 1:
            (x, carried), _ = one((x, carried), given[0])
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)
            (x, carried), _ = lax.scan(one, (x, carried), stacked)
    return x
