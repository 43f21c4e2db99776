"""Exact softmax attention in tiles (FlashAttention): no L×L array is ever materialised.

Beside the output, the forward pass keeps one number per query, the logarithm of its softmax's denominator; the
backward pass recomputes each tile's weights from it (Dao et al. 2022, arXiv:2205.14135, in the form where a tile
holds all keys of its queries, so nothing is rescaled).

    o_i = Σ_j p_ij v_j,  p_ij = exp(s_ij − lse_i),  s_ij = q_i·k_j / √K,  lse_i = log Σ_j exp(s_ij)
    dv_j = Σ_i p_ij g_i,  ds_ij = p_ij (g_i·v_j − g_i·o_i + dlse_i)
    dq_i = Σ_j ds_ij k_j / √K,  dk_j = Σ_i ds_ij q_i / √K

Shapes: G independent problems (batch × heads), N query blocks of b rows, M key blocks of c rows, head width K;
a query block sees S key blocks, J = S·c keys, or all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.core.layers import MASKED, first_document, lowbias32, random_bits

ScoreMod = Callable[[Any, Any], jax.Array]
"""(query inputs [b], key inputs [J]) → term added to the scores, float32 [b, J]: 0, MASKED or a bias.

Inputs are arrays or trees of arrays: one with a last axis for several numbers could not be read in vectors."""


class Static(NamedTuple):
    """Compile-time constants; `heads_at_once` problems, and `step` query blocks of each, are computed at once."""

    rate: float
    score_mod: ScoreMod | None
    heads_at_once: int
    step: int


class Fixed(NamedTuple):
    """Inputs without a gradient. `kv_blocks` is None where every query sees every key."""

    mask: jax.Array  # bool [G, M, c]: keys that may be attended to
    kv_blocks: jax.Array | None = None  # int32 [N, S] or [G, N, S]: key blocks of each query block; -1: none
    dropout_seeds: tuple[jax.Array, jax.Array] | None = None  # uint32 [G, N, b] and [G, M, c]
    mod_inputs: tuple[Any, Any] | None = None  # trees of int32 [G, N, b] and [G, M, c]


def is_single_tile(backend: str, scores: int) -> bool:
    """Whether full attention computes all its scores at once, without a loop: up to 4 MB of them on a CPU.

    There, a loop over few tiles costs more than the cache saves. Training holds about eight arrays of that size.
    """
    return backend == "cpu" and scores <= 2**20


def cpu_rows(queries: int, keys: int) -> int:
    """Chooses the queries of a tile for a CPU: at most 352, and 8 MB of scores, and as even as multiples of 8 allow.

    So few rows are padding, where a fixed size would pad 513 queries to 640. Measured on 2 cores from 257 to 8,193
    queries: from 352 on the products are as fast as they get, and longer tiles leave the caches.
    """
    most = min(352, max(32, 2**21 // keys))
    even = -(-queries // -(-queries // most))
    return min(queries, -(-even // 8) * 8)


def plan_tiles(backend: str, problems: int, blocks: int, tile: int) -> tuple[int, int]:
    """Chooses how much to compute at once: about 1 MB of scores on a CPU, 256 MB on accelerators.

    A CPU wants a tile's scores in its cache while softmax passes over them; an accelerator wants large products
    and few launches.

    Args:
        backend: JAX's name of the platform.
        problems: G.
        blocks: query blocks in each problem, N.
        tile: scores of one query block.

    Returns:
        (heads_at_once, step). The first divides `problems`, so that no remainder is compiled separately; the steps
        are as even as possible, so that little is padded.
    """
    at_once = 2**18 if backend == "cpu" else 2**26
    step = max(1, min(blocks, at_once // tile))
    step = -(-blocks // -(-blocks // step))
    heads_at_once = max(1, min(problems, at_once // (tile * step)))
    while problems % heads_at_once:
        heads_at_once -= 1
    return heads_at_once, step


def dropout_mask(rows: jax.Array, columns: jax.Array, rate: float) -> jax.Array:
    """Dropout mask [..., i, j] from one random seed per row and one per column: True with probability 1 − rate.

    Hashing the sum of the two seeds lets the backward pass recompute the same mask from L seeds instead of L²
    bits, and makes the mask independent of the tiling.
    """
    threshold = jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return lowbias32(rows[..., :, None] + columns[..., None, :]) >= threshold


def draw_dropout_seeds(
    rows: tuple[int, ...], columns: tuple[int, ...], rate: float, rngs: nnx.Rngs | None
) -> tuple[jax.Array, jax.Array] | None:
    """Draws the seeds of `dropout_mask`, uint32; None where nothing is dropped.

    Args:
        rows: shape of the row seeds, documents first.
        columns: shape of the column seeds, documents first.
        rate: probability of dropping a weight.
        rngs: random keys; None in evaluation.
    """
    if rngs is None or rate == 0:
        return None
    row_key, column_key = jax.random.split(rngs.dropout())
    first = first_document(rngs)
    return random_bits(row_key, rows, first), random_bits(column_key, columns, first)


def attend_tiles(
    q: jax.Array, k: jax.Array, v: jax.Array, fixed: Fixed, rate: float = 0.0, score_mod: ScoreMod | None = None
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention of query blocks over the key blocks that each may see.

    Takes time G·N·b·J and holds a constant number of scores at once.

    Args:
        q: [G, N, b, K].
        k: [G, M, c, K].
        v: likewise, of any width.
        fixed: which keys each query sees, and the inputs of dropout and `score_mod`.
        rate: dropout of the weights, applied where `fixed` holds seeds.
        score_mod: what is added to the scores.

    Returns:
        o [G, N, b, K] and lse float32 [G, N, b]. A query without any key gets 0 and an lse near MASKED / 2.
    """
    problems, blocks, rows = q.shape[:3]
    backend = jax.default_backend()
    seen = k.shape[1] if fixed.kv_blocks is None else fixed.kv_blocks.shape[-1]
    tile = rows * seen * k.shape[2]
    if fixed.kv_blocks is not None:
        heads_at_once, step = plan_tiles(backend, problems, blocks, tile)
    elif is_single_tile(backend, problems * blocks * tile):
        heads_at_once, step = problems, 1
    else:  # full attention: a step is one query block
        heads_at_once, step = plan_tiles(backend, problems, 1, tile)
    return _attend(Static(rate, score_mod, heads_at_once, step), q, k, v, fixed)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: Static, q: jax.Array, k: jax.Array, v: jax.Array, fixed: Fixed) -> tuple[jax.Array, jax.Array]:
    return _forward(static, q, k, v, fixed)[0]


def _map_problems(static: Static, f: Callable[..., Any], fixed: Fixed, *arrays: jax.Array) -> Any:
    """Maps f(*arrays, fixed) over the G problems, `heads_at_once` at a time."""
    shared = fixed.kv_blocks if fixed.kv_blocks is not None and fixed.kv_blocks.ndim == 2 else None
    mapped = fixed if shared is None else fixed._replace(kv_blocks=None)

    def call(xs: Any) -> Any:
        *inputs, fixed = xs
        return f(*inputs, fixed if shared is None else fixed._replace(kv_blocks=shared))

    if static.heads_at_once == arrays[0].shape[0]:
        return jax.vmap(call)((*arrays, mapped))
    return lax.map(call, (*arrays, mapped), batch_size=static.heads_at_once)


def _tiles(static: Static, fixed: Fixed, *rows: jax.Array) -> tuple[Any, int]:
    """Groups one problem's query blocks [N, ...] into steps [steps, step, ...], padded with blocks that see no key."""
    blocks = rows[0].shape[0]
    pad = -blocks % static.step

    def cut(x: jax.Array, fill: int = 0) -> jax.Array:
        x = jnp.pad(x, ((0, pad), *((0, 0),) * (x.ndim - 1)), constant_values=fill) if pad else x
        return x.reshape(-1, static.step, *x.shape[1:])

    kv_blocks = None if fixed.kv_blocks is None else cut(fixed.kv_blocks, -1)
    dropout_seeds = None if fixed.dropout_seeds is None else cut(fixed.dropout_seeds[0])
    mod_inputs = None if fixed.mod_inputs is None else jax.tree.map(cut, fixed.mod_inputs[0])
    return (tuple(cut(x) for x in rows), kv_blocks, dropout_seeds, mod_inputs), blocks


def _take(x: jax.Array, kv_blocks: jax.Array | None) -> jax.Array:
    """Key blocks [M, c, ...] → the keys seen by each query block of a step, [step, J, ...]."""
    if kv_blocks is None:
        return x.reshape(1, -1, *x.shape[2:])
    return x[jnp.maximum(kv_blocks, 0)].reshape(kv_blocks.shape[0], -1, *x.shape[2:])


def _scores(
    static: Static, q: jax.Array, kj: jax.Array, fixed: Fixed, kv_blocks: jax.Array | None, mod_inputs: Any
) -> jax.Array:
    """Scores float32 [step, b, J], MASKED where a key may not be seen."""
    s = jnp.einsum("tbk,tjk->tbj", q, kj, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    seen = _take(fixed.mask, kv_blocks)
    if kv_blocks is not None:
        seen &= jnp.repeat(kv_blocks >= 0, fixed.mask.shape[1], axis=1)
    if static.score_mod is not None and fixed.mod_inputs is not None and mod_inputs is not None:
        of_keys = jax.tree.map(lambda x: _take(x, kv_blocks), fixed.mod_inputs[1])
        s = s + jax.vmap(static.score_mod)(mod_inputs, of_keys)
    return jnp.where(seen[:, None, :], s, MASKED)


def _dropped(
    static: Static, p: jax.Array, fixed: Fixed, kv_blocks: jax.Array | None, dropout_seeds: jax.Array | None
) -> jax.Array:
    """Applies dropout to p [step, b, J], the weights or their gradients: the same mask at every call."""
    if fixed.dropout_seeds is None or dropout_seeds is None:
        return p
    kept = dropout_mask(dropout_seeds, _take(fixed.dropout_seeds[1], kv_blocks), static.rate)
    return jnp.where(kept, p / (1 - static.rate), 0)


def _forward(static: Static, q: jax.Array, k: jax.Array, v: jax.Array, fixed: Fixed) -> Any:
    def attend_problem(q: jax.Array, k: jax.Array, v: jax.Array, fixed: Fixed) -> tuple[jax.Array, jax.Array]:
        def tile(_: None, x: Any) -> tuple[None, tuple[jax.Array, jax.Array]]:
            (qi,), kv_blocks, dropout_seeds, mod_inputs = x
            s = _scores(static, qi, _take(k, kv_blocks), fixed, kv_blocks, mod_inputs)
            top = jnp.maximum(s.max(-1, keepdims=True), MASKED / 2)
            p = jnp.exp(s - top)
            total = jnp.maximum(p.sum(-1, keepdims=True), 1e-30)
            kept = _dropped(static, p, fixed, kv_blocks, dropout_seeds).astype(v.dtype)
            o = jnp.einsum("tbj,tjk->tbk", kept, _take(v, kv_blocks), preferred_element_type=jnp.float32)
            return None, ((o / total).astype(q.dtype), (top + jnp.log(total))[..., 0])

        xs, blocks = _tiles(static, fixed, q)
        _, outs = lax.scan(tile, None, xs)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:blocks], outs)

    o, lse = _map_problems(static, attend_problem, fixed, q, k, v)
    return (o, lse), (q, k, v, fixed, o, lse)


def _backward(static: Static, saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> Any:
    q, k, v, fixed, o, lse = saved
    g, g_lse = cotangents
    inner = jnp.einsum("gnbk,gnbk->gnb", g, o, preferred_element_type=jnp.float32) - g_lse

    def gradients(q, k, v, g, lse, inner, fixed):  # type: ignore[no-untyped-def]
        # Sums over queries are [M, K, c]: with J as the product's last axis a CPU is three times faster.
        def add(total: jax.Array, kv_blocks: jax.Array | None, part: jax.Array) -> jax.Array:
            part = part.reshape(*part.shape[:2], -1, total.shape[-1]).swapaxes(1, 2)  # [step, S, K, c]
            if kv_blocks is None:
                return total + part.reshape(total.shape)
            if jax.default_backend() == "cpu":
                return total.at[jnp.maximum(kv_blocks, 0)].add(part)
            # A product with one-hot rows: to add in the same order each time, a GPU sorts what it scatters. With a
            # scatter, local attention ran 4.9 training steps per second and 176 in inference (H200, 4,096 tokens,
            # batch 32).
            rows = jax.nn.one_hot(kv_blocks, total.shape[0], dtype=k.dtype)
            part = part.astype(k.dtype)
            return total + jnp.einsum(
                "tsm,tskc->mkc", rows, part, precision="highest", preferred_element_type=jnp.float32
            )

        def tile(sums: tuple[jax.Array, jax.Array], x: Any) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            (qi, gi, li, di), kv_blocks, dropout_seeds, mod_inputs = x
            kj, vj = _take(k, kv_blocks), _take(v, kv_blocks)
            p = jnp.exp(_scores(static, qi, kj, fixed, kv_blocks, mod_inputs) - li[..., None])
            dp = jnp.einsum("tbk,tjk->tbj", gi, vj, preferred_element_type=jnp.float32)
            ds = p * (_dropped(static, dp, fixed, kv_blocks, dropout_seeds) - di[..., None]) * q.shape[-1] ** -0.5
            ds, kept = ds.astype(k.dtype), _dropped(static, p, fixed, kv_blocks, dropout_seeds).astype(g.dtype)
            dk = jnp.einsum("tbk,tbj->tkj", qi, ds, preferred_element_type=jnp.float32)
            dv = jnp.einsum("tbk,tbj->tkj", gi, kept, preferred_element_type=jnp.float32)
            dq = jnp.einsum("tbj,tjk->tbk", ds, kj, preferred_element_type=jnp.float32).astype(q.dtype)
            return (add(sums[0], kv_blocks, dk), add(sums[1], kv_blocks, dv)), dq

        xs, blocks = _tiles(static, fixed, q, g, lse, inner)
        dk, dv = (jnp.zeros(x.swapaxes(1, 2).shape, jnp.float32) for x in (k, v))
        (dk, dv), dq = lax.scan(tile, (dk, dv), xs)
        dk, dv = dk.swapaxes(1, 2).astype(k.dtype), dv.swapaxes(1, 2).astype(v.dtype)
        return dq.reshape(-1, *q.shape[1:])[:blocks], dk, dv

    return *_map_problems(static, gradients, fixed, q, k, v, g, lse, inner), None


_attend.defvjp(_forward, _backward)
