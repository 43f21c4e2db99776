"""SGConv: a long convolution whose kernel is joined from small ones, stretched and weaker the farther they look."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.convolution.long_conv import convolve_and_skip
from models.core.layers import Constant, at_least


class SGConv(nnx.Module):
    """What Makes Convolutional Models Great on Long Sequence Modeling? (Structured Global Convolution)

    Li, Cai, Zhang, Chen, Dey 2022, arXiv:2210.09298, section 3. Each feature u is convolved with a kernel that is made
    of S small ones with d taps each, one after the other:

        y = K ⊛ u + D u,    K = [k_0, …, k_{S−1}] / Z,    k_i = α^{−i} · stretch(w_i, 2^{max(i − 1, 0)} · 2^{scale})

    stretch(w, f) interpolates linearly between d taps that are f lags apart, and S = 1 + ⌈log₂(L / d)⌉ − scale are as
    many as reach L, so that parameters grow with log L. Z is the norm of each feature's kernel when the mixer is built,
    before it is cut to L; it never changes.

    Time L·log L·D, memory L·D. There is no linear map between features: the block's follows. With `bidirectional` a
    second kernel, which begins at the next position, reads what follows (as in S4). Masked inputs are zero before
    mixing, so padding changes no logit, and a hole is read as a zero. Kernels and transforms are float32. Attention
    dropout does not apply.

    Departs from the authors' code: Z is taken when the mixer is built, theirs in its first step. Of its modes, these
    are `cat_randn`, `cat_cos` (`init` = cosine), and `cat_randn_learnable_fixed` (`alpha` 1 and `power` 1), which are
    those of its recipes for these tasks.

    Parameters, with K = 1 or 2 directions and H features; and the constant 1 / Z [K, H, 1]:
        taps [K, S, H, d]: w. Role `A`.
        skip [H]: D, drawn from N(0, 1).

    Args:
        dim: H.
        length: L, the longest input.
        taps: d; the authors' recipes have 1 (ListOps, Retrieval), 2 (Text), 32 (Image, Pathfinder) and 64 (Path-X).
        alpha_min: α of the first feature; those of the others are evenly spaced. Theirs is 2 for all, and on Path-X
            runs from 1 to 3.
        alpha_max: α of the last feature.
        power: the kernel is multiplied by (lag + 1)^−power; theirs has 1 on Image, with α = 1.
        scale: doublings of all stretches; theirs has 1 on Path-X.
        init: taps drawn from N(0, 1); or one cosine a feature, with 0 to H − 1 periods, in another random order for
            each small kernel, and the same in both directions (theirs on Path-X).
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: an option has no such value.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        taps: int = 32,
        alpha_min: float = 2.0,
        alpha_max: float = 2.0,
        power: float = 0.0,
        scale: int = 0,
        init: Literal["normal", "cosine"] = "normal",
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, taps=taps)
        at_least(0, scale=scale)
        if alpha_min <= 0 or alpha_max <= 0:
            raise ValueError(f"alpha_min ({alpha_min}) and alpha_max ({alpha_max}) must be above 0")
        if init not in ("normal", "cosine"):
            raise ValueError(f"init must be normal or cosine, not {init}")
        self.alpha, self.power, self.scale = (alpha_min, alpha_max), power, scale
        shape = (1 + bidirectional, count_kernels(length, taps, scale), dim, taps)
        draw = jax.random.normal if init == "normal" else cosines
        self.taps = nnx.Param(draw(rngs.params(), shape), role="A")
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (dim,)))
        self.gain = Constant(1 / jnp.linalg.norm(self.join(), axis=-1, keepdims=True))

    def join(self) -> jax.Array:
        """The kernel of each direction before it is divided by Z, float32 [K, H, all lags]."""
        taps = self.taps[...].astype(jnp.float32)
        alpha = np.linspace(*self.alpha, taps.shape[2])
        parts = []
        for i in range(taps.shape[1]):
            weight = (alpha ** float(-i)).astype(np.float32)[None, :, None]
            parts.append(weight * stretch(taps[:, i], 2 ** (max(i - 1, 0) + self.scale)))
        kernel = jnp.concatenate(parts, -1)
        lags = np.arange(kernel.shape[-1]) + 1.0
        return kernel * (lags**-self.power).astype(np.float32)[None, None]

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return convolve_and_skip(x, mask, self.join() * self.gain[...], self.skip[...])


def count_kernels(length: int, taps: int, scale: int) -> int:
    """S = 1 + ⌈log₂(length / taps)⌉ − scale, and at least 1: small kernels that together reach `length` lags."""
    doublings = (math.ceil(length / taps) - 1).bit_length()
    return max(1, 1 + doublings - scale)


def stretch(taps: jax.Array, factor: int) -> jax.Array:
    """Interpolates linearly, [K, H, d] → [K, H, d · factor]: each tap is at the middle of the lags that replace it.

    Before the first and after the last tap's place the kernel is constant.
    """
    near = jnp.pad(taps, ((0, 0), (0, 0), (1, 1)), mode="edge")[..., None]
    before, here, after = near[:, :, :-2], near[:, :, 1:-1], near[:, :, 2:]
    offset = ((np.arange(factor, dtype=np.float32) + 0.5) / factor - 0.5)[None, None, None]  # in taps, ±½
    rows = before * np.maximum(-offset, 0) + here * (1 - np.abs(offset)) + after * np.maximum(offset, 0)
    return rows.reshape(*taps.shape[:2], -1)


def cosines(key: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """Cosines of 0 to H − 1 periods over d taps, in a random order for each small kernel: [K, S, H, d]."""
    directions, kernels, dim, taps = shape
    waves = jnp.asarray(np.cos(np.outer(np.arange(dim), np.linspace(0, 2 * np.pi, taps))), jnp.float32)
    shuffled = jax.vmap(lambda key: jax.random.permutation(key, waves))(jax.random.split(key, kernels))
    return jnp.broadcast_to(shuffled[None], (directions, *shuffled.shape[:3]))
