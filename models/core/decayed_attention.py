"""Linear attention whose memory decays, S_t = diag(a_t) S_{t−1} + k_t v_tᵀ and o_t = S_tᵀ q_t, by chunks of positions.

Inside a chunk, this is a product with c×c weights; between chunks, a state of K×V numbers is handed on (Yang et al.
2023, arXiv:2312.06635, section 4). With G_t = Σ_{r ≤ t} ln a_r and s the last position of the chunk before:

    o_t = Σ_{s < m ≤ t} (q_t ⊙ e^{G_t − G_m})·k_m v_m + S_sᵀ (q_t ⊙ e^{G_t − G_s})

All exponents are differences of a later and an earlier sum, hence at most 0 but for the last bit: nothing overflows,
whatever the decays.
Where each key feature has a decay of its own, the exponential does not leave the sum over features. There a chunk is
cut again, into tiles of b: the pairs inside a tile are formed one by one, [b, b, K]; those of different tiles as a
product, after queries have decayed from the start of their tile and keys until then.

Shapes: B examples, L positions, H heads, K key features, V value features; N chunks of c positions. An axis D of decays
is 1, one for all key features, or K.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.core.block_attention import pad_length
from models.core.layers import MASKED

Method = Literal["loop", "at_once"]
"""How to compute it: one chunk after the other, or all of them, and their states by an associative scan."""


class Sizes(NamedTuple):
    """In positions; chunks of tiles are a multiple of theirs, the others a power of two, as `delta_rule` needs."""

    chunk: int  # c, where a head has one decay
    tiled_chunk: int  # c, where each key feature has its own
    tile: int  # b, there


SIZES: dict[Method, Sizes] = {"loop": Sizes(32, 16, 4), "at_once": Sizes(64, 64, 16)}
"""A CPU's time goes into the c×c weights and the [b, b, K] pairs; accelerators want few and large operations.

A sequence shorter than a tile is a chunk of one tile of its own length.
"""

LEAST = -120.0
"""Smallest ln a: e^−120 is 0 in float32."""


def decayed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    *,
    reverse: bool = False,
    diagonal: bool = True,
    method: Method | None = None,
) -> jax.Array:
    """Computes o_t = Σ_{m ≤ t} (q_t ⊙ a_{m+1} ⊙ … ⊙ a_t)·k_m v_m in time L (c + K) V, exactly for any decays in [0, 1].

    Products are in the inputs' type with sums in float32, backwards too; decays and the states between chunks are
    float32. The backward pass recomputes each chunk from the state before it: L K V / c numbers are kept, beside the
    inputs. A position with k = 0 and ln a = 0 changes nothing.

    Args:
        q: [B, L, H, K]. With decays of heads, H may be 1 in q and k, which all heads of v share then.
        k: [B, L, H, K].
        v: [B, L, H, V], of the same type.
        log_decay: ln a ≤ 0, float32; [H], the same at all positions, [B, L, H], or [B, L, H, K]. What is below LEAST is
            a = 0, and has no gradient.
        reverse: runs from the last position to the first: Σ_{m ≥ t} (q_t ⊙ a_t ⊙ … ⊙ a_{m−1})·k_m v_m.
        diagonal: whether the sum includes m = t.
        method: None: a loop on a CPU; on accelerators, which want few and large operations, all at once.

    Returns:
        o float32 [B, L, H, V].
    """
    if method is None:
        method = "loop" if jax.default_backend() == "cpu" else "at_once"
    log_decay = jnp.maximum(log_decay.astype(jnp.float32), LEAST)
    if log_decay.ndim < 4:
        log_decay = log_decay[..., None]
    arrays: tuple[jax.Array, ...] = (q, k, v, log_decay)
    if reverse:
        arrays = tuple(jnp.flip(x, 1) if x.ndim == 4 else x for x in arrays)
    length = q.shape[1]
    sizes = SIZES[method]
    largest, tile = (sizes.tiled_chunk, sizes.tile) if log_decay.shape[-1] > 1 else (sizes.chunk, 1)
    size = length if length < tile else min(largest, length + -length % tile)
    chunks = Chunk(*(to_chunks(x, size) if x.ndim == 4 else _same_in_all(x, size) for x in arrays))
    o = from_chunks({"loop": _loop, "at_once": _at_once}[method](chunks, diagonal, tile), length)
    return jnp.flip(o, 1) if reverse else o


def with_ones(v: jax.Array) -> jax.Array:
    """v [..., V] with a last feature of ones [..., V + 1], whose output is the sum of a row's weights."""
    return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)


def to_chunks(x: jax.Array, size: int) -> jax.Array:
    """Cuts [B, L, H, any] into chunks [N, B, H, size, any], padded with zeros."""
    x = pad_length(x, size)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).transpose(1, 0, 3, 2, 4)


def from_chunks(x: jax.Array, length: int) -> jax.Array:
    """Joins chunks [N, B, H, c, any] to [B, L, H, any], without the padding."""
    x = x.transpose(1, 0, 3, 2, 4)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _same_in_all(log_decay: jax.Array, size: int) -> jax.Array:
    """Decays [H, 1] that are the same everywhere, as one chunk [1, 1, H, size, 1]."""
    return jnp.broadcast_to(log_decay[None, None, :, None], (1, 1, len(log_decay), size, 1))


class Chunk(NamedTuple):
    """Chunks of the inputs, with any axes before c; those of the decays may be 1 where the others are not."""

    q: jax.Array  # [..., c, K]; its axis of heads may be 1, as that of k
    k: jax.Array  # [..., c, K]
    v: jax.Array  # [..., c, V]
    log_decay: jax.Array  # float32 [..., c, D]


class Sums(NamedTuple):
    """Sums of logarithms from the start of a chunk, in two parts: `coarse` is exact, and `fine` is small.

    Their differences so are good to 10⁻⁷ where the sums themselves, at −5,000, would be to 10⁻³.
    """

    coarse: jax.Array
    fine: jax.Array

    def at(self, index: tuple[object, ...]) -> Sums:
        """Both parts, indexed."""
        return Sums(self.coarse[index], self.fine[index])


def cumulative(log_decay: jax.Array) -> Sums:
    """Sums of ln a over the positions of a chunk up to each, float32 [..., c, D], for ln a from LEAST to 0 and c ≤ 128.

    The coarse parts are multiples of 2⁻¹⁰, of which float32 holds all up to 2¹⁴ = 128 · 128.
    """
    coarse = lax.stop_gradient(jnp.round(log_decay * 1024) / 1024)
    return Sums(_running_sum(coarse), _running_sum(log_decay - coarse))


def _running_sum(x: jax.Array) -> jax.Array:
    """Sums of x [..., c, D] over the positions up to each; on a CPU as a product with a triangle of ones.

    There a cumulative sum is taken in two levels, and joined again, element by element, in each exponential.
    """
    if jax.default_backend() != "cpu":
        return jnp.cumsum(x, -2)
    ones = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), x.dtype))
    return jnp.einsum("ij,...jd->...id", ones, x, precision="highest")


def exp_between(later: Sums, earlier: Sums, allowed: np.ndarray | None = None) -> jax.Array:
    """exp(later − earlier), the product of the decays between; 0 where `allowed` is False."""
    exponent = (later.coarse - earlier.coarse) + (later.fine - earlier.fine)
    if allowed is not None:
        exponent = jnp.where(
            jnp.asarray(allowed.reshape((1,) * (exponent.ndim - allowed.ndim) + allowed.shape)), exponent, MASKED
        )
    return jnp.exp(exponent)


def scaled(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x times a float32 factor, float32."""
    return x.astype(jnp.float32) * factor


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(equation: str, kind: jnp.dtype, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum of two arrays that are rounded to the type `kind`, summed in float32; so are its gradients.

    Left to JAX, the products of the backward pass would be in float32, as the result is.
    """
    return jnp.einsum(equation, a.astype(kind), b.astype(kind), preferred_element_type=jnp.float32)


def _product_forward(
    equation: str, kind: jnp.dtype, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(equation, kind, a, b), (a, b)


def _product_backward(
    equation: str, kind: jnp.dtype, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    of_a = product(f"{output},{right}->{left}", kind, g, b)
    return of_a.astype(a.dtype), product(f"{left},{output}->{right}", kind, a, g).astype(b.dtype)


product.defvjp(_product_forward, _product_backward)


def weights(q: jax.Array, k: jax.Array, sums: Sums, diagonal: bool = True, tile: int = 1) -> jax.Array:
    """Computes the weights inside a chunk, (q_t ⊙ e^{G_t − G_m})·k_m for m ≤ t (without `diagonal`: m < t) and 0 else.

    Args:
        q: [..., c, K].
        k: [..., c, K].
        sums: [..., c, D].
        diagonal: whether m = t counts.
        tile: b, if D = K > 1.

    Returns:
        float32 [..., c, c].
    """
    if sums.fine.shape[-1] > 1:
        return _weights_by_tiles(q, k, sums, diagonal, tile)
    at = np.arange(q.shape[-2])
    allowed = at[:, None] >= at + (not diagonal)
    later, earlier = sums, Sums(*(part.swapaxes(-1, -2) for part in sums))
    return product("...ik,...jk->...ij", q.dtype, q, k) * exp_between(later, earlier, allowed)


def _weights_by_tiles(q: jax.Array, k: jax.Array, sums: Sums, diagonal: bool, tile: int) -> jax.Array:
    *batch, size, features = q.shape
    tile = min(tile, size)
    tiles, at = size // tile, np.arange(size)

    def cut(x: jax.Array) -> jax.Array:
        return x.reshape(*batch, tiles, tile, features)

    tiled = Sums(*map(cut, sums))
    near = _pairs(diagonal, cut(q).astype(jnp.float32), cut(k).astype(jnp.float32), tiled)

    def before(x: jax.Array) -> jax.Array:
        """Sums up to the end of the tile before, [..., tiles, 1, K]."""
        return jnp.pad(x[..., :-1, -1:, :], [(0, 0)] * len(batch) + [(1, 0), (0, 0), (0, 0)])

    start = Sums(*map(before, tiled))
    earlier = at < tile * np.arange(tiles)[:, None]
    decayed_q = scaled(cut(q), exp_between(tiled, start))
    decayed_k = scaled(k[..., None, :, :], exp_between(start, sums.at(COLUMN), earlier[..., None]))
    far = product("...nik,...njk->...nij", q.dtype, decayed_q, decayed_k)
    same = jnp.eye(tiles)[:, None, :, None].reshape((1,) * len(batch) + (tiles, 1, tiles, 1))
    return (far.reshape(*batch, tiles, tile, tiles, tile) + same * near[..., None, :]).reshape(*batch, size, size)


ROW, COLUMN = (..., slice(None), None, slice(None)), (..., None, slice(None), slice(None))
"""Indices that make [..., b, K] the rows or the columns of [..., b, b, K]."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pairs(diagonal: bool, q: jax.Array, k: jax.Array, sums: Sums) -> jax.Array:
    """The weights inside a tile, float32 [..., b, b], of q, k and sums float32 [..., b, K].

    Written by hand, the gradient keeps no array [..., b, b, K]: that of G is q ⊙ dq − k ⊙ dk.
    """
    return (q[ROW] * k[COLUMN] * _pair_decay(diagonal, sums)).sum(-1)


def _pair_decay(diagonal: bool, sums: Sums) -> jax.Array:
    at = np.arange(sums.fine.shape[-2])
    allowed = at[:, None] >= at + (not diagonal)
    return exp_between(sums.at(ROW), sums.at(COLUMN), allowed[..., None])


def _pairs_forward(
    diagonal: bool, q: jax.Array, k: jax.Array, sums: Sums
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Sums]]:
    return _pairs(diagonal, q, k, sums), (q, k, sums)


def _pairs_backward(
    diagonal: bool, saved: tuple[jax.Array, jax.Array, Sums], g: jax.Array
) -> tuple[jax.Array, jax.Array, Sums]:
    q, k, sums = saved
    decayed = g[..., None] * _pair_decay(diagonal, sums)
    of_q, of_k = (decayed * k[COLUMN]).sum(-2), (decayed * q[ROW]).sum(-3)
    return of_q, of_k, Sums(jnp.zeros_like(sums.coarse), q * of_q - k * of_k)


_pairs.defvjp(_pairs_forward, _pairs_backward)


def _within(x: Chunk, diagonal: bool, tile: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What a chunk does by itself.

    Returns:
        o without the state [..., c, V], queries [..., c, K] that read the state before the chunk, the decay [..., D, 1]
        of that state over the chunk, and what the chunk adds to it [..., K, V]; float32.
    """
    sums = cumulative(x.log_decay)
    last = sums.at((..., slice(-1, None), slice(None)))
    o = product("...ij,...jv->...iv", x.v.dtype, weights(x.q, x.k, sums, diagonal, tile), x.v)
    zero = Sums(jnp.zeros_like(sums.coarse), jnp.zeros_like(sums.fine))
    added = product("...jk,...jv->...kv", x.v.dtype, scaled(x.k, exp_between(last, sums)), x.v)
    return o, scaled(x.q, exp_between(sums, zero)), jnp.exp(last.coarse + last.fine).swapaxes(-1, -2), added


def _read(x: Chunk, q: jax.Array, state: jax.Array) -> jax.Array:
    return product("...ik,...kv->...iv", x.q.dtype, q, state)


def _loop(chunks: Chunk, diagonal: bool, tile: int) -> jax.Array:
    q, k, v, log_decay = chunks
    same = len(log_decay) == 1  # then it is no input of the loop, and compilers compute its powers once

    @partial(jax.checkpoint, prevent_cse=False)
    def step(
        state: jax.Array, x: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[jax.Array, jax.Array]:
        chunk = Chunk(*x[:3], log_decay[0] if x[3] is None else x[3])
        o, q, decay, added = _within(chunk, diagonal, tile)
        return decay * state + added, o + _read(chunk, q, state)

    start = jnp.zeros((*v.shape[1:-2], k.shape[-1], v.shape[-1]), jnp.float32)
    return lax.scan(step, start, (q, k, v, None if same else log_decay))[1]


@partial(jax.checkpoint, static_argnums=(1, 2))
def _at_once(chunks: Chunk, diagonal: bool, tile: int) -> jax.Array:
    o, q, decay, added = _within(chunks, diagonal, tile)

    def combine(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    decay = jnp.broadcast_to(decay, (len(added), *decay.shape[1:]))
    states = lax.associative_scan(combine, (decay, added))[1]
    return o + _read(chunks, q, jnp.pad(states[:-1], ((1, 0), *((0, 0),) * (states.ndim - 1))))
