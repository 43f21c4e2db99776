"""The gated delta rule, S_t = a_t (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ and o_t = S_tᵀ q_t, by chunks of positions.

What the memory holds for a key is replaced, not added to (Yang et al. 2024, arXiv:2406.06484; with the decay a, Yang,
Kautz, Hatamizadeh 2024, arXiv:2412.06464, whose states are the transposes of these).

With u_t = β_t (v_t − a_t S_{t−1}ᵀ k_t), the recurrence is that of decayed attention, S_t = a_t S_{t−1} + k_t u_tᵀ.
Inside a chunk, with G_t = Σ_{r ≤ t} ln a_r from its start and S the state before it, u solves a triangular system:

    u_t + Σ_{m < t} β_t e^{G_t − G_m} (k_t·k_m) u_m = β_t v_t − β_t e^{G_t} Sᵀ k_t
    u = T (β ⊙ v) − T (β ⊙ e^G ⊙ k) S,    T = (I + A)⁻¹,    A_tm = β_t e^{G_t − G_m} (k_t·k_m) for m < t, and 0 else

All exponents are at most 0 but for the last bit. Where ‖k‖ ≤ 1 and β ≤ 2, I − β k kᵀ enlarges nothing, hence no entry
of T is above 2. T is built from the blocks on its diagonal, in log₂ c steps:

    [[X, 0], [Y, Z]]⁻¹ = [[X⁻¹, 0], [−Z⁻¹ Y X⁻¹, Z⁻¹]]

The shorter (I − A)(I + A²)(I + A⁴)… has powers of A, whose entries are 10¹⁸ for 64 equal keys. On two busy CPU cores,
with 2 examples of 4,096 positions, 4 heads and K = V = 16, the rule took 66 ms with gradients so, 395 ms with the
solver of LAPACK; with K = V = 64, 123 and 294 ms. Row by row took as long as by blocks, but is c small operations one
after the other, which accelerators do not like. How long it takes there is not measured.

Shapes: B examples, L positions, H heads, K key features, V value features; N chunks of c positions.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from models.core.decayed_attention import (
    LEAST,
    SIZES,
    Method,
    Sums,
    cumulative,
    exp_between,
    from_chunks,
    product,
    scaled,
    to_chunks,
    weights,
)

SMALL = 4
"""Rows of a matrix whose products are computed entry by entry."""


def delta_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    beta: jax.Array,
    log_decay: jax.Array,
    *,
    method: Method | None = None,
) -> jax.Array:
    """Computes o_t = S_tᵀ q_t in time L (c + K) (c + V), exactly for any decays in [0, 1].

    Products are in the inputs' type with sums in float32, backwards too; β, decays, the triangular system and the
    states between chunks are float32. The backward pass recomputes each chunk from the state before it: L K V / c
    numbers are kept, beside the inputs. A position with β = 0 and ln a = 0 changes nothing.

    Args:
        q: [B, L, H, K].
        k: [B, L, H, K], of length 1, or 0.
        v: [B, L, H, V], of the same type.
        beta: float32 [B, L, H], from 0 to 2. At 2, nothing damps what bfloat16 rounds: with equal keys and without
            decay, it grows from chunk to chunk.
        log_decay: ln a ≤ 0, float32 [B, L, H]. What is below LEAST is a = 0, and has no gradient.
        method: None: a loop on a CPU; on accelerators, which want few and large operations, all chunks at once, and a
            loop over what depends on the states alone.

    Returns:
        o float32 [B, L, H, V].
    """
    if method is None:
        method = "loop" if jax.default_backend() == "cpu" else "at_once"
    length = q.shape[1]
    size = min(SIZES[method].chunk, 1 << (length - 1).bit_length())
    log_decay = jnp.maximum(log_decay.astype(jnp.float32), LEAST)
    numbers = (beta.astype(jnp.float32)[..., None], log_decay[..., None])
    chunks = Chunk(*(to_chunks(x, size) for x in (q, k, v, *numbers)))
    return from_chunks({"loop": _loop, "at_once": _at_once}[method](chunks), length)


class Chunk(NamedTuple):
    """Chunks of the inputs, with any axes before c."""

    q: jax.Array  # [..., c, K]
    k: jax.Array  # [..., c, K]
    v: jax.Array  # [..., c, V]
    beta: jax.Array  # float32 [..., c, 1]
    log_decay: jax.Array  # float32 [..., c, 1]


class Parts(NamedTuple):
    """What a chunk computes without the state before it, float32."""

    fresh: jax.Array  # T (β ⊙ v) [..., c, V]
    held: jax.Array  # T (β ⊙ e^G ⊙ k) [..., c, K]: what is read of the state, and taken from it
    keys: jax.Array  # e^{G_c − G_m} k_m [..., c, K]
    decay: jax.Array  # e^{G_c} [..., 1, 1]
    q: jax.Array  # e^G ⊙ q [..., c, K]: queries to the state
    weights: jax.Array  # e^{G_t − G_m} q_t·k_m for m ≤ t [..., c, c]


def _within(x: Chunk) -> Parts:
    sums = cumulative(x.log_decay)
    last, zero = sums.at((..., slice(-1, None), slice(None))), Sums(*map(jnp.zeros_like, sums))
    since = exp_between(sums, zero)
    inverse = unit_inverse(x.beta * weights(x.k, x.k, sums, diagonal=False))
    solve = partial(product, "...ij,...jk->...ik", x.v.dtype, inverse)
    return Parts(
        fresh=solve(scaled(x.v, x.beta)),
        held=solve(scaled(x.k, x.beta * since)),
        keys=scaled(x.k, exp_between(last, sums)),
        decay=jnp.exp(last.coarse + last.fine),
        q=scaled(x.q, since),
        weights=weights(x.q, x.k, sums),
    )


def _write(kind: jnp.dtype, state: jax.Array, part: Parts) -> tuple[jax.Array, jax.Array]:
    """The state [..., K, V] after a chunk, and the u of its positions [..., c, V]."""
    u = part.fresh - product("...ik,...kv->...iv", kind, part.held, state)
    return part.decay * state + product("...ik,...iv->...kv", kind, part.keys, u), u


def _read(kind: jnp.dtype, state: jax.Array, u: jax.Array, part: Parts) -> jax.Array:
    """o [..., c, V] of the state before the chunk and the u of its positions."""
    old = product("...ik,...kv->...iv", kind, part.q, state)
    return old + product("...ij,...jv->...iv", kind, part.weights, u)


def _start(chunks: Chunk) -> jax.Array:
    return jnp.zeros((*chunks.k.shape[1:-2], chunks.k.shape[-1], chunks.v.shape[-1]), jnp.float32)


def _loop(chunks: Chunk) -> jax.Array:
    @partial(jax.checkpoint, prevent_cse=False)
    def step(state: jax.Array, x: Chunk) -> tuple[jax.Array, jax.Array]:
        part = _within(x)
        after, u = _write(x.v.dtype, state, part)
        return after, _read(x.v.dtype, state, u, part)

    return lax.scan(step, _start(chunks), chunks)[1]


@jax.checkpoint
def _at_once(chunks: Chunk) -> jax.Array:
    kind, parts = chunks.v.dtype, _within(chunks)

    def step(state: jax.Array, part: Parts) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        after, u = _write(kind, state, part)
        return after, (state, u)

    states, u = lax.scan(step, _start(chunks), parts)[1]
    return _read(kind, states, u, parts)


@jax.custom_vjp
def unit_inverse(a: jax.Array) -> jax.Array:
    """(I + a)⁻¹ for float32 a [..., c, c] that is zero on and above the diagonal, where c is a power of two."""
    *batch, size, _ = a.shape
    inverse = jnp.ones((*batch, size, 1, 1), a.dtype)  # of the blocks on the diagonal: [..., c / b, b, b]
    while (block := inverse.shape[-1]) < size:
        below = _below_diagonal(a, block)
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        low = -_times(second, _times(below, first))
        top = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([top, jnp.concatenate([low, second], -1)], -2)
    return inverse[..., 0, :, :]


def _below_diagonal(a: jax.Array, block: int) -> jax.Array:
    """Of each block of 2b on the diagonal of a [..., c, c], its lower left quarter: [..., c / 2b, b, b]."""
    *batch, size, _ = a.shape
    pairs = size // (2 * block)
    cut = a.reshape(*batch, pairs, 2, block, pairs, 2, block)[..., :, 1, :, :, 0, :]
    return jnp.moveaxis(jnp.diagonal(cut, axis1=-4, axis2=-2), -1, -3)


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products of square matrices in full float32, also where an accelerator would round their entries.

    Many small ones are sums, which compilers join to what is around them; on a CPU that takes as long as products.
    """
    if a.shape[-1] <= SMALL:
        return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)
    return jnp.matmul(a, b, precision="highest")


def _inverse_forward(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse = unit_inverse(a)
    return inverse, inverse


def _inverse_backward(inverse: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    transposed = inverse.swapaxes(-1, -2)
    return (-jnp.tril(_times(_times(transposed, g), transposed), -1),)


unit_inverse.defvjp(_inverse_forward, _inverse_backward)
