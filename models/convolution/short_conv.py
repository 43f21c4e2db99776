"""A short convolution of each feature, the yardstick of what can be learnt from neighbours alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.layers import at_least
from models.core.short_convolution import slide
from models.core.state_space import real_inputs


class ShortConv(nnx.Module):
    """A depthwise convolution over `width` positions, centred: no mixer of a paper, but the yardstick of long ones.

        y_t = Σ_j kernel_j ⊙ x_{t + j − (width − 1)/2} + bias,    j = 0 … width − 1

    n layers see n (width − 1)/2 positions to either side. Time L·width·D, memory L·D. Masked inputs are zero before
    mixing, so padding changes no logit, and a hole is read as a zero. Sums are float32. Attention dropout does not
    apply.

    Parameters:
        taps.kernel [width, H]: starts as the kernel of a linear map from `width` inputs to H features does
            (`models.core.initial.Init`), which is how Flax and PyTorch start a depthwise convolution's.
        taps.bias [H]: likewise, as convolutions of Flax and PyTorch have one by default.

    Args:
        dim: H.
        length: not used.
        width: positions that a position sees, itself among them; odd.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `width` is even or below 1.
    """

    def __init__(self, dim: int, length: int, *, width: int = 5, rngs: nnx.Rngs):
        at_least(1, width=width)
        if width % 2 == 0:
            raise ValueError(f"width must be odd, not {width}: the window is centred")
        self.taps = Linear(width, dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        kernel, bias = (part[...].astype(jnp.float32) for part in (self.taps.kernel, self.taps.bias))
        return (slide(real_inputs(x, mask), kernel, len(kernel) // 2) + bias[None, None, :]).astype(x.dtype)
