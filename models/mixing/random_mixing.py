"""Fixed random linear maps over the sequence and over the hidden dimension instead of attention."""

from __future__ import annotations

import jax
from flax import nnx

from models.core.layers import Constant
from models.mixing.linear_mixing import mix


class RandomMixing(nnx.Module):
    """The Random encoder of FNet's ablations. Lee-Thorp et al. 2021, arXiv:2105.03824, section 4.

        out = S x W,    S [L, L] ~ N(0, 1/L) and W [D, D] ~ N(0, 1/D), drawn once and never trained

    No parameters. Time L²·D + L·D², memory L·D + L² (every layer stores its own S and W). It shows how much
    of the Fourier transform's success is due to mixing as such.

    The padding mask is not used, as in the paper: padding is mixed into every position, and logits depend on
    the length that inputs are padded to.
    """

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.sequence = Constant(init(rngs.params(), (length, length)))
        self.hidden = Constant(init(rngs.params(), (dim, dim)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return mix(x, self.sequence[...].astype(x.dtype), self.hidden[...].astype(x.dtype))
