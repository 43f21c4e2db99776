"""What several mixers and the encoder share: dropout and projections.

Precision: parameters are float32 and are cast at the edge of the training step, so a layer computes in its
input's type; what must stay float32 (softmax, norms, Fourier transforms) says so where it is computed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def dropout(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Inverted dropout (Srivastava et al. 2014): zeroes each element with probability `rate`.

    Identity when `rngs` is None (evaluation) or `rate` is 0. The mask is drawn from 16 random bits an
    element, a quarter of the generator's work for float32 uniforms, so the rate is exact to 1/65,536.
    """
    if rngs is None or rate == 0:
        return x
    threshold = round(rate * 65536)
    keep = jax.random.bits(rngs.dropout(), x.shape, jnp.uint16) >= jnp.uint16(threshold)
    return jnp.where(keep, x / (1 - threshold / 65536), jnp.zeros((), x.dtype))


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, L, H·K] → [B, L, H, K]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """[B, L, H, K] → [B, L, H·K]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


class Constant(nnx.Variable):
    """An array a mixer needs and nothing trains: random features, blocks. Drawn from `rngs` when built."""


class Projections(nnx.Module):
    """Projections into heads' queries, keys and values, and the one back; without bias, as in the benchmark.

    Args:
        dim: the model's width D.
        heads: H.
        qkv: the width of all heads together, H·K; `dim` where it is None.
    """

    def __init__(self, dim: int, heads: int, qkv: int | None, *, rngs: nnx.Rngs):
        qkv = dim if qkv is None else qkv
        if qkv % heads:
            raise ValueError(f"qkv ({qkv}) must be a multiple of heads ({heads})")
        self.heads = heads
        self.query = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(qkv, dim, use_bias=False, rngs=rngs)

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, L, D] → queries, keys and values, [B, L, H, K] each."""
        q, k, v = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        return q, k, v

    def join(self, y: jax.Array) -> jax.Array:
        """The heads' results [B, L, H, K] → [B, L, D]."""
        joined: jax.Array = self.out(merge_heads(y))
        return joined
