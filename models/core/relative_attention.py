"""Attention of one head whose scores have a term for each distance, by softmax or by MEGA's Laplace function.

    softmax: o_i = Σ_j w_ij v_j,  w_ij = softmax_j(q_i·k_j / √K + b_{j−i})
    laplace: w_ij = ½ (1 + erf((q_i·k_j / n + b_{j−i} − √½) / √(1 / 2π))),  n the number of real keys

over the keys j that are real. Laplace weights do not sum to 1 (MEGA, Ma et al. 2022, arXiv:2209.10655, section 3). No
L×L array is ever materialised: a tile of queries meets all keys, and is computed again in the backward pass.

Shapes: G problems of L positions each, head width K, values of width V.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.core.block_attention import pad_length
from models.core.flash_attention import cpu_rows, dropout_mask, is_single_tile, plan_tiles
from models.core.layers import MASKED
from models.core.positions import sinusoidal

Weights = Literal["softmax", "laplace"]
MEAN, SPREAD = math.sqrt(0.5), math.sqrt(0.5 / math.pi)
"""Of the Laplace function: μ, and σ√2 for σ = √(1 / 4π), with which it comes closest to the square of a ReLU."""


class Dropping(NamedTuple):
    """Dropout of weights: its rate, and the seeds of queries and of keys, uint32 [G, L] (`draw_dropout_seeds`)."""

    rate: float
    queries: jax.Array
    keys: jax.Array


def attend_relative(
    weights: Weights,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    bias: jax.Array,
    dropping: Dropping | None = None,
) -> jax.Array:
    """Attends within each problem.

    Time L², memory L.

    Args:
        weights: what makes weights of scores.
        q: [G, L, K].
        k: [G, L, K].
        v: [G, L, V].
        mask: bool [G, L], the real keys. A query without any gets zeros.
        bias: float32 [2 L − 1], b from distance j − i = −(L − 1) to L − 1.
        dropping: None where no weight is dropped.

    Returns:
        [G, L, V] in v's type.
    """
    problems, length = mask.shape
    at_once, rows = plan(jax.default_backend(), problems, length)
    static = _Static(weights, 0.0 if dropping is None else dropping.rate, at_once, rows)
    seeds = None if dropping is None else (dropping.queries, dropping.keys)
    # With positions as the last axis of what is summed over tiles, a CPU is half as fast again.
    return _attend(static, q, k.swapaxes(1, 2), v.swapaxes(1, 2), bias, _Fixed(mask, seeds))


def plan(backend: str, problems: int, length: int) -> tuple[int, int]:
    """How many problems, and how many queries of each, to compute at once.

    On a CPU all, or few enough for its caches; on accelerators up to 256 MB of scores.
    """
    if is_single_tile(backend, problems * length**2):
        return problems, length
    rows = cpu_rows(length, length) if backend == "cpu" else min(length, 1024, max(64, 2**26 // length))
    return plan_tiles(backend, problems, 1, rows * length)[0], rows


def bias_matrix(bias: jax.Array, rows: int) -> jax.Array:
    """b [2 L − 1] → [rows, W], whose columns from (tiles − 1 − t) · rows on are the biases of tile t of the queries.

    So a tile finds its own without shifting anything, and the gradient is shifted back once.
    """
    length = (len(bias) + 1) // 2
    return toeplitz(jnp.pad(bias, (-length % rows, 1)), rows)


def toeplitz(b: jax.Array, rows: int) -> jax.Array:
    """b [rows + L] → [rows, L], whose entry (r, j) is b[rows − 1 − r + j].

    By shifting each row against the one before, as reshaping can: gathering would be slower, and scattering its
    gradient slower still.
    """
    width = len(b)
    flat = jnp.broadcast_to(b[None], (rows, width)).reshape(-1)
    shifted = flat[rows - 1 : rows - 1 + rows * (width - 1)].reshape(rows, width - 1)
    return shifted[:, : width - rows]


class _Static(NamedTuple):
    """Compile-time constants: `at_once` problems meet `rows` queries of each at once."""

    weights: Weights
    rate: float
    at_once: int
    rows: int


class _Fixed(NamedTuple):
    """Inputs without a gradient: the mask [G, L], and the seeds of queries and keys, uint32 [G, L] each."""

    mask: jax.Array
    seeds: tuple[jax.Array, jax.Array] | None


class _Tile(NamedTuple):
    """Some queries of a group of P problems: q [P, rows, K], their seeds, uint32 [P, rows], and where in `bias_matrix`
    their columns begin."""

    column: jax.Array
    q: jax.Array
    seeds: jax.Array | None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: _Static, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, fixed: _Fixed) -> jax.Array:
    matrix = bias_matrix(bias, static.rows)

    def attend_group(group: Any) -> jax.Array:
        q, k, v, fixed = group

        def attend(tile: _Tile) -> jax.Array:
            b = lax.dynamic_slice_in_dim(matrix, tile.column, k.shape[2], 1)
            return _attend_tile(static, tile, k, v, b, fixed)

        return _join(lax.map(attend, _tiles(static, q, fixed)), k.shape[2])

    return lax.map(attend_group, _groups(static, (q, k, v, fixed))).reshape(*q.shape[:2], -1)


def _forward(static: _Static, *inputs: Any) -> tuple[jax.Array, Any]:
    return _attend(static, *inputs), inputs


def _backward(static: _Static, inputs: Any, g: jax.Array) -> Any:
    """Sums over tiles are float32. By hand, as JAX would keep the biases of all tiles, which depend on no problem."""
    q, k, v, bias, fixed = inputs
    matrix, to_bias = jax.vjp(lambda bias: bias_matrix(bias, static.rows), bias)

    def add_group(of_matrix: jax.Array, group: Any) -> Any:
        q, k, v, fixed, g = group

        def add_tile(sums: Any, x: Any) -> tuple[Any, jax.Array]:
            tile, g = x

            def attend(q: jax.Array, k: jax.Array, v: jax.Array, b: jax.Array) -> jax.Array:
                return _attend_tile(static, tile._replace(q=q), k, v, b, fixed)

            b = lax.dynamic_slice_in_dim(matrix, tile.column, k.shape[2], 1)
            _, pull = jax.vjp(attend, tile.q, k, v, b)
            of_q, tile_k, tile_v, tile_b = pull(g)
            of_k, of_v, of_matrix = sums
            of_k, of_v = of_k + tile_k.astype(jnp.float32), of_v + tile_v.astype(jnp.float32)
            tile_b += lax.dynamic_slice_in_dim(of_matrix, tile.column, k.shape[2], 1)
            return (of_k, of_v, lax.dynamic_update_slice_in_dim(of_matrix, tile_b, tile.column, 1)), of_q

        zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32), of_matrix)
        (of_k, of_v, of_matrix), of_q = lax.scan(add_tile, zeros, (_tiles(static, q, fixed), _cut(static, g)))
        return of_matrix, (_join(of_q, k.shape[2]), of_k.astype(k.dtype), of_v.astype(v.dtype))

    groups = _groups(static, (q, k, v, fixed, g))
    of_matrix, (of_q, of_k, of_v) = lax.scan(add_group, jnp.zeros_like(matrix), groups)
    return of_q.reshape(q.shape), of_k.reshape(k.shape), of_v.reshape(v.shape), *to_bias(of_matrix), None


_attend.defvjp(_forward, _backward)


def _groups(static: _Static, arrays: Any) -> Any:
    """Arrays [G, ...] in groups of problems that are computed at once, [G / P, P, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, static.at_once, *x.shape[1:]), arrays)


def _tiles(static: _Static, q: jax.Array, fixed: _Fixed) -> _Tile:
    """A group's tiles, stacked."""
    queries = _cut(static, q)
    columns = (len(queries) - 1 - jnp.arange(len(queries))) * static.rows
    return _Tile(columns, queries, None if fixed.seeds is None else _cut(static, fixed.seeds[0]))


def _cut(static: _Static, x: jax.Array) -> jax.Array:
    """[P, L, ...] → [tiles, P, rows, ...], padded with zeros."""
    x = pad_length(x, static.rows)
    return x.reshape(x.shape[0], -1, static.rows, *x.shape[2:]).swapaxes(0, 1)


def _join(tiles: jax.Array, length: int) -> jax.Array:
    """The inverse of `_cut`."""
    tiles = tiles.swapaxes(0, 1)
    return tiles.reshape(tiles.shape[0], -1, *tiles.shape[3:])[:, :length]


def _attend_tile(static: _Static, tile: _Tile, k: jax.Array, v: jax.Array, b: jax.Array, fixed: _Fixed) -> jax.Array:
    """A tile's queries over all keys [P, K, L] of its problems, with the biases b [rows, L]: [P, rows, V]."""
    products, seen = _scores(tile.q, k), fixed.mask[:, None]
    if static.weights == "softmax":
        s = jnp.where(seen, products * k.shape[1] ** -0.5 + b[None], MASKED)
        w = jnp.exp(s - lax.stop_gradient(jnp.maximum(s.max(-1, keepdims=True), MASKED / 2)))
        total = jnp.maximum(w.sum(-1, keepdims=True), 1e-30)
    else:
        real = jnp.maximum(seen.sum(-1, dtype=jnp.float32, keepdims=True), 1)
        w = 0.5 * (1 + lax.erf((products / real + b[None] - MEAN) / SPREAD))
        w, total = jnp.where(seen, w, 0), jnp.ones((1, 1, 1))
    if fixed.seeds is not None and tile.seeds is not None:
        w = jnp.where(dropout_mask(tile.seeds, fixed.seeds[1], static.rate), w / (1 - static.rate), 0)
    o = jnp.einsum("prj,pvj->prv", w.astype(v.dtype), v)
    return (o.astype(jnp.float32) / total).astype(v.dtype)


@jax.custom_vjp
def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """Products of q [P, rows, K] and k [P, K, L]: float32, going backwards in the type of both."""
    return jnp.einsum("prk,pkj->prj", q, k, preferred_element_type=jnp.float32)


def _scores_forward(q: jax.Array, k: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scores(q, k), (q, k)


def _scores_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    q, k = saved
    g = g.astype(q.dtype)
    return jnp.einsum("prj,pkj->prk", g, k), jnp.einsum("prk,prj->pkj", q, g)


_scores.defvjp(_scores_forward, _scores_backward)


class SimpleBias(nnx.Module):
    """One learned number for each distance. Parameter: `table` [2 M − 1], N(0, 0.02²), for distances −(M − 1) to M − 1.

    Args:
        most: M, the greatest number of positions.
        rngs: random keys of the initial parameters.
    """

    def __init__(self, most: int, *, rngs: nnx.Rngs):
        self.most = most
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2 * most - 1,)))

    def __call__(self, length: int) -> jax.Array:
        """b of `length` positions: float32 [2 L − 1]."""
        return self.table[self.most - length : self.most + length - 1].astype(jnp.float32)


class RotaryBias(nnx.Module):
    """Two learned vectors, rotated by the positions of query and key (`models.core.positions.rotate`).

        b_{j−i} = rotate_i(α)·rotate_j(β)

    Parameters: `alpha` and `beta` [K], N(0, 0.02²).

    Args:
        width: K, even.
        rngs: random keys of the initial parameters.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        if width % 2:
            raise ValueError(f"bias=rotary needs an even z, not {width}")
        self.alpha = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
        self.beta = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))

    def __call__(self, length: int) -> jax.Array:
        """b of `length` positions: float32 [2 L − 1]."""
        (a1, a2), (b1, b2) = (jnp.split(p[...].astype(jnp.float32), 2) for p in (self.alpha, self.beta))
        angles = sinusoidal(length, 2 * len(a1))
        sin, cos = angles[:, 0::2], angles[:, 1::2]
        # Of the distance alone, since turning both by an angle changes no product; the sine is odd in it.
        even = jnp.matmul(cos, a1 * b1 + a2 * b2, precision="highest")
        odd = jnp.matmul(sin, a2 * b1 - a1 * b2, precision="highest")
        return jnp.concatenate([(even - odd)[:0:-1], even + odd])
