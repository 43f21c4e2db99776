"""Learned linear maps over the sequence and over the hidden dimension instead of attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def mix(x: jax.Array, sequence: jax.Array, hidden: jax.Array) -> jax.Array:
    """Computes S x W of x [B, L, D], with `hidden` W [D, D] and the first L rows and columns of `sequence` S."""
    length = x.shape[1]
    return jnp.einsum("lm,bmd->bld", sequence[:length, :length], x @ hidden)


class LinearMixing(nnx.Module):
    """The Linear encoder of FNet's ablations. Lee-Thorp et al. 2021, arXiv:2105.03824, section 4.

        out = S x W,    S [L, L] and W [D, D] learned, without bias

    Time L²·D + L·D², memory L·D + L². A layer has L² + D² parameters, attention 4·D²: at L = 1,001 and
    D = 256 that is four times as many, and a model of four layers has 6,709,062 parameters, the Transformer
    3,487,490. The paper defines the matrix over positions; it cannot be smaller.

    The padding mask is not used, as in the paper: padding is mixed into every position, and logits depend on
    the length that inputs are padded to.

    Departs from the paper's code in the scale at initialisation: variances 1/L and 1/D keep the signal's scale at any
    length, where a standard deviation of 0.02 for both would not.
    """

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.sequence = nnx.Param(init(rngs.params(), (length, length)))
        self.hidden = nnx.Param(init(rngs.params(), (dim, dim)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return mix(x, self.sequence[...].astype(x.dtype), self.hidden[...].astype(x.dtype))
