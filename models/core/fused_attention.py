"""Exact softmax attention as fused kernels for NVIDIA GPUs (FlashAttention-2): no score ever leaves the chip.

Dao 2023, arXiv:2307.08691, with dropout of the weights: the kernels compute its mask from one seed per query and one
per key with `dropout_mask`, as all forms of attention here do, so that all drop the same weights. The forward pass
goes over the keys block by block with a running maximum and sum; it keeps one number per query, the logarithm lse of
its softmax's denominator. The backward pass recomputes each tile's weights from it, once for the queries and once for
the keys: seven products per tile instead of five, but no program adds to another's sums, so that every run gives the
same results.

    o_i = Σ_j d_ij p_ij v_j,  p_ij = exp(s_ij − lse_i),  s_ij = q_i·k_j / √K,  lse_i = log Σ_j exp(s_ij)
    dv_j = Σ_i d_ij p_ij g_i,  ds_ij = p_ij (d_ij g_i·v_j − g_i·o_i),  d_ij = 0 or 1 / (1 − rate)
    dq_i = Σ_j ds_ij k_j / √K,  dk_j = Σ_i ds_ij q_i / √K

Inside, exponentials are powers of 2: scores are multiplied by log₂ e, and lse is a logarithm to base 2.

Shapes: B examples, H heads, L queries, M keys, head width K; b queries and c keys per block. L, M and K are padded,
the last to a power of two (Triton has no other). Tiles have one row per query, or in `_keys_kernel` one per key.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl

from models.core.block_attention import pad_length, seed_blocks
from models.core.flash_attention import draw_dropout_seeds, dropout_mask
from models.core.layers import MASKED

LOG2_E = math.log2(math.e)


class Blocks(NamedTuple):
    """Size of a tile: its queries and keys, and the warps (of 32 threads) of a program."""

    queries: int
    keys: int
    warps: int


class Static(NamedTuple):
    """Compile-time constants."""

    rate: float
    width: int  # K before it was padded
    tile_sizes: Blocks
    interpret: bool


class Queries(NamedTuple):
    """Kernel inputs for each query: the arrays, within a kernel references to them, or the values of one block.

    None where not needed: `dropout_seeds` without dropout, the last three in the forward pass.
    """

    q: Any  # [B, L, H, K]; within a kernel [L or b, K]
    dropout_seeds: Any  # uint32 [B·H, L]; within a kernel [L or b], as the following
    g: Any = None  # [B, L, H, K]: the output's gradient
    lse: Any = None  # float32 [B·H, L]
    inner: Any = None  # float32 [B·H, L]: g·o


class Keys(NamedTuple):
    """Kernel inputs for each key."""

    k: Any  # [B, M, H, K]
    v: Any  # [B, M, H, K]
    mask: Any  # int32 [B, M]: 1 for keys that may be attended to
    dropout_seeds: Any  # uint32 [B·H, M]


def applies(backend: str, capability: float, dtype: Any, width: int) -> bool:
    """Whether the kernels can run: on an NVIDIA GPU of compute capability 8.0 (Ampere) or later, with K up to 128.

    JAX 0.11 deprecates Pallas' Triton backend: a version without it runs none of these kernels.

    Args:
        backend: JAX's name of the platform.
        capability: the compute capability; 0 for anything but an NVIDIA GPU.
        dtype: of queries, keys and values.
        width: K.
    """
    fits = dtype in (jnp.float32, jnp.bfloat16, jnp.float16) and width <= 128
    triton = importlib.util.find_spec("jax.experimental.pallas.triton") is not None
    return backend == "gpu" and capability >= 8 and fits and triton


def tile_sizes(width: int, dtype: Any) -> Blocks:
    """Chooses tiles that fit the shared memory of every GPU that `applies` allows (99 KB), with sums in registers.

    Float32 products avoid tensor cores, which would round them, and need more registers.
    """
    side = 32 if jnp.dtype(dtype).itemsize == 4 else 64
    return Blocks(side, side, 4 if width <= 64 else 8)


def attend_fused(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes softmax(q kᵀ / √K) v over the keys that `mask` allows, with the dropout mask of `attention.attend`.

    Args:
        q: [B, L, H, K], K at most 128.
        k: [B, M, H, K]; v likewise.
        mask: bool [B, M], False at padding. A query without any key gets zeros.
        rate: dropout of the attention weights, applied when `rngs` is given.
        rngs: random keys; None in evaluation.
        interpret: whether JAX itself interprets the kernels, on any device and slowly.

    Returns:
        [B, L, H, K].
    """
    length, width = q.shape[1], q.shape[-1]
    sizes = tile_sizes(width, q.dtype)
    rows, columns = draw_dropout_seeds(q.shape[:3], k.shape[:3], rate, rngs) or (None, None)
    mask = pad_length(mask, sizes.keys)
    last = jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1, dtype=jnp.int32), 0), axis=1)
    used = lax.div(last + (sizes.keys - 1), sizes.keys)

    padded = max(16, 1 << (width - 1).bit_length())  # the smallest that Triton's products take

    def pad(x: jax.Array, block: int) -> jax.Array:
        return pad_length(pad_length(x, block), padded, axis=3)

    def by_head(seeds: jax.Array | None, block: int) -> jax.Array | None:
        return None if seeds is None else seed_blocks(seeds, block).reshape(seeds.shape[0] * seeds.shape[2], -1)

    queries = Queries(pad(q, sizes.queries), by_head(rows, sizes.queries))
    keys = Keys(pad(k, sizes.keys), pad(v, sizes.keys), mask.astype(jnp.int32), by_head(columns, sizes.keys))
    return _attend(Static(rate, width, sizes, interpret), queries, keys, used)[:, :length, :, :width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: Static, queries: Queries, keys: Keys, used: jax.Array) -> jax.Array:
    """Returns o [B, L, H, K]. `used`, int32 [B]: the number of key blocks up to the last key of the mask."""
    return _forward(static, queries, keys, used)[0]


def _forward(static: Static, queries: Queries, keys: Keys, used: jax.Array) -> Any:
    batch, length, heads, _ = queries.q.shape
    lse = jax.ShapeDtypeStruct((batch * heads, length), jnp.float32)
    o, lse = _call(_forward_kernel, static, queries, keys, used, (queries.q, lse), products=2)
    return o, (queries, keys, used, o, lse)


def _backward(static: Static, saved: Any, g: jax.Array) -> Any:
    queries, keys, used, o, lse = saved
    inner = jnp.einsum("blhk,blhk->bhl", g, o, preferred_element_type=jnp.float32).reshape(lse.shape)
    full = queries._replace(g=g, lse=lse, inner=inner)
    (dq,) = _call(_queries_kernel, static, full, keys, used, (queries.q,), products=3)
    dk, dv = _call(_keys_kernel, static, full, keys, used, (keys.k, keys.v), products=4)
    return Queries(dq, None), Keys(dk, dv, None, None), None


_attend.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    static: Static,
    queries: Queries,
    keys: Keys,
    used: jax.Array,
    outs: tuple[Any, ...],
    products: int,
) -> Any:
    """Runs a kernel for each block of keys (`_keys_kernel`) or of queries, in each problem.

    A program gets references to its block and to the other side's whole length; nothing is read until it is indexed.

    Args:
        kernel: `_forward_kernel`, `_queries_kernel` or `_keys_kernel`.
        static, queries, keys, used: as in `_attend`.
        outs: shapes and types of the outputs.
        products: matrix products per tile, for the cost estimate.
    """
    from jax.experimental.pallas import triton  # not at the top: see `applies`

    batch, length, heads, width = queries.q.shape
    problems, (rows, columns, warps) = batch * heads, static.tile_sizes
    by_keys = kernel is _keys_kernel

    def spec(x: Any, block: int | None) -> pl.BlockSpec:
        group = problems // x.shape[0]  # consecutive problems share an entry of the first axis

        def index(i: Any, n: Any) -> tuple[Any, ...]:
            i = 0 if block is None else i
            return (lax.div(n, group), i, lax.rem(n, heads), 0) if x.ndim == 4 else (lax.div(n, group), i)

        size = x.shape[1] if block is None else block
        return pl.BlockSpec((None, size, None, width) if x.ndim == 4 else (None, size), index)

    used_spec = pl.BlockSpec((1,), lambda i, n: (lax.div(n, heads),))
    block = columns if by_keys else rows
    return pl.pallas_call(
        partial(kernel, static),
        # The first axis may have 2³¹ programs; where the second has more than CUDA allows it, JAX folds them.
        grid=((keys.k.shape[1] if by_keys else length) // block, problems),
        in_specs=[
            jax.tree.map(lambda x: spec(x, None if by_keys else rows), queries),
            jax.tree.map(lambda x: spec(x, columns if by_keys else None), keys),
            used_spec,
        ],
        out_specs=tuple(spec(x, block) for x in outs),
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outs),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),  # also selects Triton
        cost_estimate=pl.CostEstimate(
            flops=2 * products * problems * length * keys.k.shape[1] * static.width,
            transcendentals=problems * length * keys.k.shape[1],
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*jax.tree.leaves((queries, keys)), *outs)),
        ),
        interpret=static.interpret,
        name=f"fused_attention{kernel.__name__.removesuffix('_kernel')}",
    )(queries, keys, used)


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Contracts one axis of each, summed in float32. Without HIGHEST, float32 would be rounded to 11 bits."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _read(side: Any, block: Any, size: int) -> Any:
    """Reads one block through a tree of references to whole lengths."""
    return jax.tree.map(lambda ref: ref[pl.ds(block * size, size)], side)


def _read_all(side: Any) -> Any:
    return jax.tree.map(lambda ref: ref[...], side)


def _forward_kernel(static: Static, queries: Queries, keys: Keys, used: Any, o: Any, lse: Any) -> None:
    here = _read_all(queries)
    rows, columns, _ = static.tile_sizes

    def step(j: Any, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, total, sums = carry
        there = _read(keys, j, columns)
        s = _dot(here.q, there.k, (1, 1)) * (static.width**-0.5 * LOG2_E)
        s = jnp.where((there.mask != 0)[None, :], s, MASKED)
        new = jnp.maximum(top, jnp.max(s, axis=1))
        p, shrink = jnp.exp2(s - new[:, None]), jnp.exp2(top - new)
        total = total * shrink + jnp.sum(p, axis=1)
        if here.dropout_seeds is not None:
            p = jnp.where(dropout_mask(here.dropout_seeds, there.dropout_seeds, static.rate), p, 0.0)
        return new, total, sums * shrink[:, None] + _dot(p.astype(there.v.dtype), there.v, (1, 0))

    # Half of MASKED is above a masked score, whose power is therefore 0 even where no key was allowed yet.
    start = (
        jnp.full((rows,), MASKED / 2, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros(here.q.shape, jnp.float32),
    )
    top, total, sums = lax.fori_loop(0, used[0], step, start)
    total = jnp.maximum(total, 1e-30)
    kept = 1.0 if here.dropout_seeds is None else 1 - static.rate
    o[...] = (sums / (total * kept)[:, None]).astype(o.dtype)
    lse[...] = top + jnp.log2(total)


def _tile_weights(static: Static, queries: Queries, keys: Keys, transposed: bool) -> tuple[jax.Array, jax.Array]:
    """Recomputes a tile's weights after dropout (without the factor 1 / (1 − rate)) and its scores' gradients ds.

    Float32 [b, c], or [c, b] if `transposed`, so that both are a product's left side, which may stay in registers.
    """

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return _dot(b, a, (1, 1)) if transposed else _dot(a, b, (1, 1))

    def per_query(x: jax.Array) -> jax.Array:
        return x[None, :] if transposed else x[:, None]

    allowed = keys.mask != 0
    s = product(queries.q, keys.k) * (static.width**-0.5 * LOG2_E)
    s = jnp.where(allowed[:, None] if transposed else allowed[None, :], s, MASKED)
    p, dp = jnp.exp2(s - per_query(queries.lse)), product(queries.g, keys.v)
    if queries.dropout_seeds is None:
        return p, p * (dp - per_query(queries.inner))
    rows, columns = (keys, queries) if transposed else (queries, keys)
    kept = dropout_mask(rows.dropout_seeds, columns.dropout_seeds, static.rate)
    dp = jnp.where(kept, dp * (1 / (1 - static.rate)), 0.0)
    return jnp.where(kept, p, 0.0), p * (dp - per_query(queries.inner))


def _queries_kernel(static: Static, queries: Queries, keys: Keys, used: Any, dq: Any) -> None:
    here = _read_all(queries)

    def step(j: Any, sums: jax.Array) -> jax.Array:
        there = _read(keys, j, static.tile_sizes.keys)
        _, ds = _tile_weights(static, here, there, transposed=False)
        return sums + _dot(ds.astype(there.k.dtype), there.k, (1, 0))

    sums = lax.fori_loop(0, used[0], step, jnp.zeros(here.q.shape, jnp.float32))
    dq[...] = (sums * static.width**-0.5).astype(dq.dtype)


def _keys_kernel(static: Static, queries: Queries, keys: Keys, used: Any, dk: Any, dv: Any) -> None:
    here = _read_all(keys)
    rows = static.tile_sizes.queries

    def step(i: Any, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        there = _read(queries, i, rows)
        p, ds = _tile_weights(static, there, here, transposed=True)
        return (
            sums[0] + _dot(ds.astype(there.q.dtype), there.q, (1, 0)),
            sums[1] + _dot(p.astype(there.g.dtype), there.g, (1, 0)),
        )

    # No trip where no key is allowed. (In Triton's IR, `where` on two Python numbers selects Booleans.)
    trips = (pl.program_id(0) < used[0]).astype(jnp.int32) * (queries.q.shape[0] // rows)
    zeros = jnp.zeros(here.k.shape, jnp.float32)
    sums = lax.fori_loop(0, trips, step, (zeros, zeros))
    dk[...] = (sums[0] * static.width**-0.5).astype(dk.dtype)
    kept = 1.0 if here.dropout_seeds is None else 1 - static.rate
    dv[...] = (sums[1] * (1 / kept)).astype(dv.dtype)
