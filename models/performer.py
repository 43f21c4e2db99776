"""Performer: softmax attention estimated with positive orthogonal random features."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import Constant, Projections
from models.linear_transformer import kernel_attend

Kernel = Literal["softmax", "relu", "plain_relu"]


def orthogonal_features(key: jax.Array, features: int, width: int) -> jax.Array:
    """Random directions float32 [M, K]: each N(0, I) by itself, orthogonal within every K of them.

    Blocks of K rows are random rotations (uniform ones: the signs of R's diagonal are divided out), and
    each row gets the length of an independent normal vector (section 2.4 of the paper).
    """
    rotations, lengths = jax.random.split(key)
    blocks = -(-features // width)
    q, r = jnp.linalg.qr(jax.random.normal(rotations, (blocks, width, width)))
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    rows = q.swapaxes(-1, -2).reshape(blocks * width, width)[:features]
    return rows * jnp.linalg.norm(jax.random.normal(lengths, (features, width)), axis=1, keepdims=True)


def softmax_features(q: jax.Array, k: jax.Array, directions: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(ω·x − |x|²/2) for every direction ω, whose mean product over ω estimates exp(q·k).

    Every feature of a key is divided by its largest value over the real keys and multiplied back into the
    queries', and every query's features are divided by their largest: neither changes the attention, no
    exponent is above zero, and no denominator below one.

    Args:
        q, k: float32 [B, L, H, K], scaled by K^(−1/4).
        directions: [M, K].

    Returns: features of queries and keys, [B, L, H, M] each.
    """
    logits_q, logits_k = (
        jnp.einsum("blhk,mk->blhm", x, directions) - (x * x).sum(-1, keepdims=True) / 2 for x in (q, k)
    )
    real = mask[..., None, None]
    largest = jnp.max(jnp.where(real, logits_k, jnp.finfo(jnp.float32).min), axis=1, keepdims=True)
    largest = jax.lax.stop_gradient(largest)
    logits_q = logits_q + largest
    top = jax.lax.stop_gradient(logits_q.max(-1, keepdims=True))
    return jnp.exp(logits_q - top), jnp.exp(jnp.where(real, logits_k - largest, -jnp.inf))


def relu_features(x: jax.Array, directions: jax.Array | None, epsilon: float = 1e-3) -> jax.Array:
    """relu(ω·x) + ε for every direction ω, or relu(x) + ε without directions; [B, L, H, K] → [B, L, H, M]."""
    if directions is not None:
        x = jnp.einsum("blhk,mk->blhm", x, directions)
    return jax.nn.relu(x) + epsilon


class Performer(nnx.Module):
    """Rethinking Attention with Performers. Choromanski et al. 2020, arXiv:2009.14794: FAVOR+, not causal.

        out_l = φ(q_l)ᵀ Σ_m φ(k_m) v_mᵀ / φ(q_l)ᵀ Σ_m φ(k_m),    x scaled by K^(−1/4)
        softmax      φ(x)_i = exp(ω_i·x − |x|²/2)    lemma 1: unbiased for exp(q·k), error ~ 1/√M
        relu         φ(x)_i = relu(ω_i·x) + ε        section 2.2, generalised attention
        plain_relu   φ(x) = relu(x) + ε              no random features

    Time L·M·D, memory L·M·H + L·D for M features. The directions ω are shared by heads, differ between
    layers, are orthogonal in blocks, and are never trained. Padded keys have no features, so padding
    changes no logit. There are no attention weights to drop, so the attention's dropout does not apply.

    Redrawing: with `redraw` every training step draws new directions from the step's random key, and
    evaluation uses those stored when the model was built; `redraw_directions(key)` replaces the stored
    ones, for a training loop that redraws every so many steps, as the paper does.

    The official benchmark ignores the mask here, its default and published score come from `plain_relu`,
    and where it has random features it draws them anew for every batch from a seed computed from the
    queries' sum.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        kernel: Kernel = "softmax",
        features: int = 256,
        redraw: bool = False,
        rngs: nnx.Rngs,
    ):
        if kernel not in ("softmax", "relu", "plain_relu"):
            raise ValueError(f"kernel must be softmax, relu or plain_relu, not {kernel!r}")
        if features < 1:
            raise ValueError(f"features must be 1 or more, not {features}")
        self.kernel, self.features, self.redraw = kernel, features, redraw
        self.projections = Projections(dim, heads, qkv, rngs=rngs)
        self.width = (dim if qkv is None else qkv) // heads
        random = kernel != "plain_relu"
        self.directions = Constant(orthogonal_features(rngs.params(), features, self.width)) if random else None

    def redraw_directions(self, key: jax.Array) -> None:
        """Replaces the stored random directions, where there are any, by new ones drawn from `key`."""
        if self.directions is not None:
            self.directions[...] = orthogonal_features(key, self.features, self.width)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        queries, keys, v = self.projections.project(x)
        q, k = (a.astype(jnp.float32) * self.width**-0.25 for a in (queries, keys))
        directions = None if self.directions is None else self.directions[...]
        if self.redraw and rngs is not None and directions is not None:
            directions = orthogonal_features(rngs.dropout(), self.features, self.width)
        if self.kernel == "softmax" and directions is not None:
            q, k = softmax_features(q, k, directions, mask)
        else:
            q, k = relu_features(q, directions), relu_features(k, directions)
        return self.projections.join(kernel_attend(q, k, v, mask))
