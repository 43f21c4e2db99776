"""Nyströmformer: softmax attention approximated through landmarks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.block_attention import from_blocks, mask_to_blocks, to_blocks
from models.core.chunked import exp_below, map_chunks, map_heads, masked_max, to_chunks, weighted_sums
from models.core.initial import fan_in_uniform, init_of
from models.core.layers import MASKED, Projections, at_least, split_heads

HIGHEST = jax.lax.Precision.HIGHEST


def segment_means(x: jax.Array, mask: jax.Array, landmarks: int) -> tuple[jax.Array, jax.Array]:
    """Averages x [B, L, D] over `landmarks` equal segments of each example's real positions.

    The i-th of n real positions belongs to segment ⌊i·M/n⌋, so padding plays no role. An example with fewer than
    M positions has segments of one position and empty ones.

    Args:
        x: [B, L, D].
        mask: bool [B, L].
        landmarks: M.

    Returns:
        Means [B, M, D] (zero where empty), and bool [B, M], False where empty.
    """
    count = mask.sum(1, keepdims=True)
    # In integers, i·M overflows only beyond 2³¹: L = 16,384 leaves room for 131,072 landmarks.
    segment = (jnp.cumsum(mask, axis=1) - 1) * landmarks // jnp.maximum(count, 1)

    def sums(mask: jax.Array, x: jax.Array, segment: jax.Array) -> tuple[jax.Array, jax.Array]:
        return weighted_sums(lambda s: (s == jnp.arange(landmarks)[None, :]).astype(jnp.float32), segment, x, mask)

    heads_at_once, chunks = to_chunks(landmarks, mask, x[:, :, None], segment[:, :, None, None])
    total, size = map_heads(heads_at_once, sums, *chunks)
    return (total / jnp.maximum(size, 1)[..., None]).astype(x.dtype), size > 0


def pseudo_inverse(a: jax.Array, z: jax.Array, iterations: int) -> jax.Array:
    """Iterates towards the Moore-Penrose inverse of float32 [..., M, M], to third order (the paper's iteration).

        Z ← Z (13 I − A Z (15 I − A Z (7 I − A Z))) / 4

    Converges from a `z` with |A A⁺ − A Z| < 1, such as that of `initial_inverse`.
    """
    identity = jnp.broadcast_to(jnp.eye(a.shape[-1]), a.shape)
    for _ in range(iterations):
        az = jnp.matmul(a, z, precision=HIGHEST)
        inner = 15 * identity - jnp.matmul(az, 7 * identity - az, precision=HIGHEST)
        z = jnp.matmul(z, 13 * identity - jnp.matmul(az, inner, precision=HIGHEST), precision=HIGHEST) / 4
    return z


def initial_inverse(a: jax.Array) -> jax.Array:
    """Computes Z₀ = Aᵀ / (|A|₁ |A|_∞), which converges for every A; zero rows and columns stay zero."""
    columns, rows = jnp.abs(a).sum(-2).max(-1), jnp.abs(a).sum(-1).max(-1)
    return a.swapaxes(-1, -2) / jnp.maximum(columns * rows, 1e-30)[..., None, None]


def scores(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes x yᵀ / √K in float32."""
    return jnp.einsum("...lk,...mk->...lm", x, y, preferred_element_type=jnp.float32) * x.shape[-1] ** -0.5


def masked_softmax(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    """Softmax in float32 over the last axis where `allowed`; zero elsewhere, and in rows that allow nothing."""
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED))
    return jnp.where(allowed, weights, 0)


def read_keys(landmarks: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes a head's softmax(q̃ kᵀ / √K) v for q̃ [M, K]; k, v [N, c, K], mask [N, c] → float32 [M, K]."""
    top = masked_max(lambda k: scores(k, landmarks), k, mask)
    above, below = weighted_sums(lambda k: exp_below(scores(k, landmarks) - top[None, :]), k, v, mask)
    return above / jnp.maximum(below, 1e-30)[:, None]


def write_queries(q: jax.Array, landmarks: jax.Array, real: jax.Array, values: jax.Array) -> jax.Array:
    """Computes a head's softmax(q k̃ᵀ / √K) y for q [N, c, K]; k̃ [M, K] where `real` [M], y [M, K] → [N, c, K]."""
    return map_chunks(lambda q: masked_softmax(scores(q, landmarks), real).astype(q.dtype) @ values, q)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array,
    q_means: jax.Array, k_means: jax.Array, real: jax.Array, iterations: int,
) -> jax.Array:  # fmt: skip
    """Computes softmax(q k̃ᵀ / √K) · softmax(q̃ k̃ᵀ / √K)⁺ · softmax(q̃ kᵀ / √K) v, [B, L, H, K].

    Args:
        q, k, v: [B, L, H, K].
        mask: bool [B, L].
        q_means, k_means: the landmarks q̃ and k̃, [B, M, H, K].
        real: bool [B, M], the landmarks that exist.
        iterations: of the pseudo-inverse.
    """
    count, heads = q_means.shape[1:3]
    heads_at_once, (mask, queries, keys, values) = to_chunks(count, mask, q, k, v)
    q_means, k_means = (to_blocks(x, count)[:, 0] for x in (q_means, k_means))
    real = mask_to_blocks(real, count, heads)[:, 0]
    middle = jnp.where(real[..., None], masked_softmax(scores(q_means, k_means), real[:, None]), 0)
    inverse = pseudo_inverse(middle, initial_inverse(middle), iterations)
    gathered = map_heads(heads_at_once, read_keys, q_means, keys, values, mask)
    solved = jnp.matmul(inverse, gathered, precision=HIGHEST).astype(v.dtype)
    return from_blocks(map_heads(heads_at_once, write_queries, queries, k_means, real, solved), heads, q.shape[1])


def convolve(v: jax.Array, weights: jax.Array) -> jax.Array:
    """Convolves along the positions with one filter per head: v [B, L, H, K], `weights` [H, W], W odd.

    Σ_w weights[h, w] v[l + w − W//2] with zeros beyond the ends, as products of blocks of positions with a
    banded matrix: ten times as fast as a depthwise convolution on a CPU, and suited to accelerators' matrix
    units.
    """
    batch, length, heads, width = v.shape
    size = weights.shape[1]
    block = max(64, size - 1)
    blocks = -(-length // block)
    left = size // 2
    v = jnp.pad(v, ((0, 0), (left, (blocks + 1) * block - length - left), (0, 0), (0, 0)))
    v = v.reshape(batch, blocks + 1, block, heads, width)
    offset = jnp.arange(2 * block)[None, :] - jnp.arange(block)[:, None]
    band = jnp.where(((offset >= 0) & (offset < size))[None], weights[:, jnp.clip(offset, 0, size - 1)], 0)
    y = jnp.einsum("hij,bnjhk->bnihk", band[..., :block], v[:, :-1])
    y = y + jnp.einsum("hij,bnjhk->bnihk", band[..., block:], v[:, 1:])
    return y.reshape(batch, blocks * block, heads, width)[:, :length]


def initial_filters(rngs: nnx.Rngs, heads: int, size: int) -> jax.Array:
    """Draws one filter per head, [H, W]: N(0, 1/W), or as PyTorch's convolution starts if `rngs` ask for it."""
    if init_of(rngs) == "torch":
        return fan_in_uniform(rngs.params(), (heads, size), size)
    return jax.random.normal(rngs.params(), (heads, size)) * size**-0.5


class Nystromformer(nnx.Module):
    """Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention.

    Xiong et al. 2021, arXiv:2102.03902, section 3, with the convolution skip around the values:

        out = softmax(Q K̃ᵀ / √K) (softmax(Q̃ K̃ᵀ / √K))⁺ softmax(Q̃ Kᵀ / √K) V + conv(V)

    Q̃ and K̃ are M segment means; A⁺ takes six steps of an iteration. Time L·M·D + M³·H, memory
    L·D + M²·H: positions are taken in chunks (models/core/chunked.py).
    `kernel` is the convolution's width (0 leaves it out), one filter per head: 33·H parameters per layer.

    Padding: the paper cuts the padded sequence into segments. Here each document's real positions are cut,
    padded keys have no weight and padded values are zero in the convolution, so padding changes no logit.
    As projections have no bias, the mean of projections is the projection of the mean, and x is averaged
    once. Softmax and inverse are float32. As in the paper, no attention weights are dropped.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        rotary: bool = False,
        landmarks: int = 64,
        kernel: int = 33,
        iterations: int = 6,
        rngs: nnx.Rngs,
    ):
        at_least(1, landmarks=landmarks, iterations=iterations)
        if kernel and (kernel < 0 or kernel % 2 == 0):
            raise ValueError(f"kernel must be odd, or 0 for no convolution, not {kernel}")
        self.landmarks, self.iterations = landmarks, iterations
        self.projections = Projections(dim, heads, qkv, rotary=rotary, rngs=rngs)
        self.filters = nnx.Param(initial_filters(rngs, heads, kernel)) if kernel else None

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        p = self.projections
        q, k, v = p.project(x)
        # Further segments would be empty.
        means, real = segment_means(x, mask, min(self.landmarks, x.shape[1]))
        q_means, k_means = split_heads(p.query(means), p.heads), split_heads(p.key(means), p.heads)
        y = attend(q, k, v, mask, q_means, k_means, real, self.iterations)
        if self.filters is not None:
            v = jnp.where(mask[..., None, None], v, jnp.zeros((), v.dtype))
            y = y + convolve(v, self.filters[...].astype(v.dtype))
        return p.join(y)
