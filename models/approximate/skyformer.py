"""Skyformer: attention with a Gaussian kernel, approximated by a modified Nyström method."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.approximate.nystromformer import HIGHEST, pseudo_inverse
from models.core.block_attention import from_blocks, to_blocks
from models.core.chunked import map_chunks, map_heads, to_chunks, weighted_sums
from models.core.layers import Constant, Projections, at_least


def gaussian(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes exp(−|x − y|² / 2√K) in float32: x [..., L, K], y [..., M, K] → [..., L, M]."""
    product = jnp.einsum("...lk,...mk->...lm", x, y, preferred_element_type=jnp.float32)
    x_norm, y_norm = (jnp.square(a.astype(jnp.float32)).sum(-1) / 2 for a in (x, y))
    distance = x_norm[..., None] + y_norm[..., None, :] - product
    return jnp.exp(-jnp.maximum(distance, 0) * x.shape[-1] ** -0.5)


def sample(offsets: jax.Array, mask: jax.Array) -> jax.Array:
    """Samples positions [B, M]: one at a uniform offset in each of M equal segments of an example's real positions.

    Args:
        offsets: the offset in each segment, float32 [M] in [0, 1).
        mask: bool [B, L].
    """
    count = mask.sum(1, keepdims=True)
    place = (jnp.arange(len(offsets), dtype=jnp.float32) + offsets)[None, :] / len(offsets) * count.astype(jnp.float32)
    rank = jnp.minimum(place.astype(jnp.int32), count - 1)
    # The position of the real token of that rank; the last position where an example has no token.
    search = jax.vmap(lambda counts, rank: jnp.searchsorted(counts, rank, side="right"))
    return jnp.minimum(search(jnp.cumsum(mask, 1), rank), mask.shape[1] - 1)


def inverse(gram: jax.Array, gamma: float, iterations: int) -> jax.Array:
    """Computes (G + γ I)⁻¹ of a Gram matrix float32 [..., M, M] with positive entries.

    Preconditioned as in the paper: with d the row sums of G + γ I, the eigenvalues of
    A = d^(−½) (G + γ I) d^(−½) lie in (0, 1], so the iteration for A⁻¹ converges from Z₀ = I.
    """
    identity = jnp.broadcast_to(jnp.eye(gram.shape[-1]), gram.shape)
    gram = gram + gamma * identity
    scale = jax.lax.rsqrt(gram.sum(-1))
    outer = scale[..., None] * scale[..., None, :]
    return outer * pseudo_inverse(outer * gram, identity, iterations)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array,
    landmarks: jax.Array, gamma: float, iterations: int,
) -> jax.Array:  # fmt: skip
    """Computes κ(q, z) (κ(z, z) + γ I)⁻¹ κ(z, k) v over the real keys, [B, L, H, K].

    Args:
        q, k, v: [B, L, H, K].
        mask: bool [B, L].
        landmarks: z, [B, M, H, K].
        gamma: γ.
        iterations: of the inverse.
    """
    count, heads = landmarks.shape[1:3]
    heads_at_once, (mask, queries, keys, values) = to_chunks(count, mask, q, k, v)
    landmarks = to_blocks(landmarks, count)[:, 0]

    def read_keys(z: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        return weighted_sums(lambda k: gaussian(k, z), k, v, mask)[0]

    def write_queries(q: jax.Array, z: jax.Array, values: jax.Array) -> jax.Array:
        return map_chunks(lambda q: gaussian(q, z).astype(q.dtype) @ values, q)

    middle = inverse(gaussian(landmarks, landmarks), gamma, iterations)
    gathered = map_heads(heads_at_once, read_keys, landmarks, keys, values, mask)
    solved = jnp.matmul(middle, gathered, precision=HIGHEST).astype(v.dtype)
    return from_blocks(map_heads(heads_at_once, write_queries, queries, landmarks, solved), heads, q.shape[1])


class Skyformer(nnx.Module):
    """Skyformer: Remodel Self-Attention with Gaussian Kernel and Nyström Method.

    Chen et al. 2021, arXiv:2111.00035, section 4:

        out_l = Σ_m κ(q_l, k_m) v_m,    κ(q, k) = exp(−|q − k|² / 2√K),    no normalisation by rows,
        κ(Q, K) ≈ κ(Q, Z) (κ(Z, Z) + γ I)⁻¹ κ(Z, K),    Z of M rows sampled from the 2L of Q and K

    Q and K together make the kernel's matrix positive semi-definite, which the Nyström method needs. The
    inverse takes a few steps of a Schulz-type iteration. Time L·M·D + M³·H, memory L·D + M²·H: positions
    are taken in chunks (models/core/chunked.py).

    Half of Z comes from Q and half from K, at the same positions for all heads, drawn anew from the step's
    random key while training; evaluation uses positions drawn when the model was built. One is drawn in each of
    M/2 equal segments of a document's real positions, so that no landmark is drawn twice, unless there are fewer
    than M/2; the paper samples all independently. Padded keys have no weight and are no landmarks, so padding
    changes no logit. The kernels and the inverse are float32; γ is 0.1 as in the authors' code, which starts the
    iteration from a multiple of Aᵀ: six steps from there can be far from the inverse. No weights are dropped.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        rotary: bool = False,
        landmarks: int = 128,
        gamma: float = 0.1,
        iterations: int = 6,
        rngs: nnx.Rngs,
    ):
        if landmarks < 2 or landmarks % 2:
            raise ValueError(f"landmarks must be even and at least 2, not {landmarks}")
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, not {gamma}")
        at_least(1, iterations=iterations)
        self.gamma, self.iterations = gamma, iterations
        self.projections = Projections(dim, heads, qkv, rotary=rotary, rngs=rngs)
        self.offsets = Constant(jax.random.uniform(rngs.params(), (2, landmarks // 2)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.projections.project(x)
        offsets = self.offsets[...]
        if rngs is not None:
            offsets = jax.random.uniform(rngs.dropout(), offsets.shape)
        rows = (
            jnp.take_along_axis(a, sample(offset, mask)[..., None, None], axis=1)
            for a, offset in zip((q, k), offsets, strict=True)
        )
        landmarks = jnp.concatenate(list(rows), axis=1)
        return self.projections.join(attend(q, k, v, mask, landmarks, self.gamma, self.iterations))
