"""Reformer: attention within neighbouring chunks of the positions, sorted by a hash of their queries."""

from __future__ import annotations

from math import isqrt, prod

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.block_attention import from_blocks, pad_length, to_blocks
from models.core.flash_attention import Fixed, attend_tiles, draw_dropout_seeds
from models.core.initial import Linear
from models.core.layers import MASKED, Constant, at_least, merge_heads, split_heads, take_positions


class Reformer(nnx.Module):
    """Reformer: The Efficient Transformer. Kitaev et al. 2020, arXiv:2001.04451, section 2.

        out_i = Σ_r exp(z_ir − z_i) Σ_{j ∈ P_ir} exp(q_i·k_j − log N_ij − z_ir) v_j,  k_j = q_j / ‖q_j‖
        P_ir = {j : |⌊s_ir / m⌋ − ⌊s_jr / m⌋| ≤ 1},  N_ij = how many rounds r have j in P_ir

    s_ir is i's rank when round r sorts positions by (hash, position), m is `chunk`, z are the logarithms of the
    softmaxes' denominators: together one softmax over the union of the rounds' keys. (Computed as that: a pair
    counts in the first round that has it, which gives the same sum as N times an N-th.) A position sees itself
    only if it sees nothing else (its score is lowered by 10⁵). The hash is argmax([x R; −x R]) for a random
    rotation R, drawn for every head, layer and round, and anew at each training step; beyond 64 buckets it is a
    pair of such hashes, so that hashing costs √buckets per position. `buckets` = 0 is the paper's 2·L / chunk.

    Time L·log L + L·hashes·3·chunk, memory L·hashes. Queries and keys share a projection, which saves D·qkv
    parameters per layer. Reversible layers, the paper's other half, are the encoder's `reversible`.

    The logits are those of the authors' code (Trax), and of Hugging Face's: they divide q_j by its root mean square for
    k_j, and then by √K. Read by the letter, the paper divides q_i·q_j / ‖q_j‖ by √K once more, which leaves the first
    softmax almost uniform: `scaled` does that. On listops_short of `quick`, three seeds, they test at 44.7 % without
    and 45.5 % with it at K = 16; at K = 64 (one head) at 43.9 % and 44.7 %.

    A chunk may hold several buckets, and a position sees all of its chunk and of both neighbours, whatever their
    buckets, as P_ir says; a hash only decides where it is sorted to.

    The paper generates, so a chunk sees itself and the one before; in an encoder it sees both neighbours.
    Padding hashes to a bucket after all real ones and is never seen. In the official code logits are q_i·q_j √K, heads
    and positions merge without a transpose, there are always 10 chunks (a quadratic cost), and output projection,
    reversible layers and the rule on seeing oneself are missing.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        hashes: int = 4,
        chunk: int = 64,
        buckets: int = 0,
        scaled: bool = False,
        rngs: nnx.Rngs,
    ):
        qkv = dim if qkv is None else qkv
        if heads < 1 or qkv % heads:
            raise ValueError(f"qkv ({qkv}) must be a multiple of heads ({heads})")
        at_least(1, hashes=hashes, chunk=chunk)
        if buckets < 0 or buckets % 2:
            raise ValueError(f"buckets must be 0 (for 2·length / chunk) or even, not {buckets}")
        self.heads, self.rate, self.chunk, self.scaled = heads, dropout, min(chunk, length), scaled
        self.query = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.value = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = Linear(qkv, dim, use_bias=False, rngs=rngs)
        self.halves = half_sizes(buckets or 2 * -(-length // self.chunk))
        self.shape = (heads, qkv // heads, hashes, sum(self.halves))
        self.rotations = Constant(jax.random.normal(rngs.params(), self.shape))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, v = (split_heads(project(x), self.heads) for project in (self.query, self.value))
        rotations = self.rotations[...]
        if rngs is not None:
            rotations = jax.random.normal(rngs.dropout(), self.shape)
        buckets = hash_buckets(q, rotations, self.halves)
        y = lsh_attention(
            q, v, mask, buckets, prod(2 * half for half in self.halves), self.chunk, self.rate, rngs, self.scaled
        )
        return self.out(merge_heads(y))


def half_sizes(buckets: int) -> tuple[int, ...]:
    """Splits `buckets` into one or two hashes and returns half the values of each: the columns of its rotation."""
    if buckets <= 64:
        return (buckets // 2,)
    first = -(-isqrt(buckets) // 2)
    return first, -(-buckets // (4 * first))


def hash_buckets(q: jax.Array, rotations: jax.Array, halves: tuple[int, ...]) -> jax.Array:
    """Hashes queries [B, L, H, K] by rotations [H, K, R, Σ halves] into buckets int32 [B, L, H, R]."""
    rotated = jnp.einsum("blhk,hkrc->blhrc", jax.lax.stop_gradient(q).astype(jnp.float32), rotations)
    buckets, start = jnp.zeros(rotated.shape[:-1], jnp.int32), 0
    for half in halves:
        part = rotated[..., start : start + half]
        buckets = buckets * (2 * half) + jnp.argmax(jnp.concatenate([part, -part], -1), -1)
        start += half
    return buckets


def sort_buckets(buckets: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Sorts positions by (bucket, position): buckets int32 [..., L], below `count` → which position is at each place,
    and the place of each position, int32 [..., L].

    Bucket and position sort as one number, in a third of the time of a stable sort of pairs on a CPU.
    """
    length = buckets.shape[-1]
    at = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), buckets.shape)
    if count * length < 2**31:
        order = jnp.sort(buckets * length + at, axis=-1, stable=False) % length
    else:
        order = jnp.argsort(buckets, axis=-1, stable=True)
    flat = order.reshape(-1, length)
    rows = jnp.arange(flat.shape[0])[:, None]
    place = jnp.zeros_like(flat).at[rows, flat].set(at.reshape(flat.shape), unique_indices=True)
    return order, place.reshape(order.shape)


@jax.custom_vjp
def by_rounds(x: jax.Array, order: jax.Array, place: jax.Array) -> jax.Array:
    """Sorts x [G, L, ...] by each of the orders [G, R, L]: [G, R, L, ...]; `place` undoes `order`."""
    del place
    return take_positions(x, order.reshape(order.shape[0], -1)).reshape(*order.shape, *x.shape[2:])


@jax.custom_vjp
def unsort(x: jax.Array, order: jax.Array, place: jax.Array) -> jax.Array:
    """Undoes the orders [G, R, L] of x [G, R, L, ...]."""
    del order
    return take_positions(x.reshape(-1, *x.shape[2:]), place.reshape(-1, place.shape[2])).reshape(x.shape)


# Gradients gather too, by the inverse, where JAX's own would scatter.
by_rounds.defvjp(
    lambda x, order, place: (by_rounds(x, order, place), (order, place)),
    lambda orders, g: (unsort(g, *orders).sum(1, dtype=jnp.float32).astype(g.dtype), None, None),
)
unsort.defvjp(
    lambda x, order, place: (unsort(x, order, place), (order, place)),
    lambda orders, g: (unsort(g, *orders[::-1]), None, None),
)


def lsh_attention(
    q: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    buckets: jax.Array,
    count: int,
    chunk: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
    scaled: bool = False,
) -> jax.Array:
    """Attention within neighbouring chunks: q, v [B, L, H, K], mask [B, L], buckets [B, L, H, R] → [B, L, H, K].

    Buckets are below `count`. The logits are q·k with k = q / ‖q‖, and q·k / √K if `scaled`.
    """
    (batch, length, heads, width), rounds = q.shape, buckets.shape[-1]
    norm = jnp.sqrt(jnp.sum(jnp.square(q.astype(jnp.float32)), -1, keepdims=True) + 1e-12)
    # `attend_tiles` divides by √K.
    k = (q.astype(jnp.float32) * ((1 if scaled else width**0.5) / norm)).astype(q.dtype)
    # Padding comes after all buckets.
    buckets = pad_length(jnp.where(mask[..., None, None], buckets, count), chunk)
    padded = buckets.shape[1]
    buckets = buckets.at[:, length:].set(count)
    order, place = sort_buckets(buckets.transpose(0, 2, 3, 1).reshape(-1, rounds, padded), count + 1)  # [B·H, R, L]

    def cut(x: jax.Array) -> jax.Array:
        """[B·H, R, L, ...] → chunks [B·H·R, N, chunk, ...]."""
        return x.reshape(-1, padded // chunk, chunk, *x.shape[3:])

    # Inputs of `score_mod`: a position, and its chunks in the earlier rounds (elsewhere values that never match).
    chunks = [by_rounds(place[:, r] // chunk, order, place) for r in range(rounds - 1)]  # each [B·H, R, L]
    now = jnp.arange(rounds)[None, :, None]
    mod_inputs = [
        [cut(order), *(cut(jnp.where(r < now, chunks[r], never)) for r in range(rounds - 1))] for never in (-4, -8)
    ]

    def score_mod(i: list[jax.Array], j: list[jax.Array]) -> jax.Array:
        (i_at, *i_chunks), (j_at, *j_chunks) = [x[:, None] for x in i], [x[None] for x in j]
        score = jnp.where(i_at == j_at, -1e5, 0.0)
        for a, b in zip(i_chunks, j_chunks, strict=True):
            score = jnp.where(jnp.abs(a - b) <= 1, MASKED, score)
        return score

    flat = [to_blocks(x, chunk).reshape(batch * heads, padded, width) for x in (q, k, v)]
    flat.append(jnp.repeat(pad_length(mask, chunk), heads, axis=0))
    q, k, v, real = (cut(by_rounds(x, order, place)) for x in flat)
    near = np.arange(padded // chunk)[:, None] + np.arange(-1, 2)
    kv_blocks = jnp.asarray(np.where((near >= 0) & (near < len(near)), near, -1))
    drawn = draw_dropout_seeds(*2 * ((batch, heads * rounds, *q.shape[1:3]),), rate, rngs)
    dropout_seeds = None if drawn is None else (drawn[0].reshape(q.shape[:3]), drawn[1].reshape(q.shape[:3]))
    o, lse = attend_tiles(
        q, k, v, Fixed(real, kv_blocks, dropout_seeds, (mod_inputs[0], mod_inputs[1])), rate, score_mod
    )

    o, lse = (unsort(x.reshape(-1, rounds, padded, *x.shape[3:]), order, place) for x in (o, lse))
    o = jnp.einsum("grl,grlk->glk", jax.nn.softmax(lse, axis=1).astype(o.dtype), o)
    return from_blocks(o[:, :, None], heads, length)
