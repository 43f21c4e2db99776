"""A short convolution of each feature, the yardstick of what can be learnt from neighbours alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.layers import at_least
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
        return (slide(real_inputs(x, mask), kernel) + bias[None, None, :]).astype(x.dtype)


@jax.custom_vjp
def slide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Σ_j kernel_j ⊙ x_{t + j − (w − 1)/2}, zero beyond both ends: x [B, L, D] and kernel [w, D] → [B, L, D], w odd.

    On a CPU the kernel's gradient is w products of x and the output's: as sums, which accelerators prefer, it took 40
    times as long on two cores (16,384 positions, 64 features, w = 5).
    """
    taps = zip(_windows(x, len(kernel)), kernel, strict=True)
    return sum((part * tap[None, None, :] for part, tap in taps), jnp.zeros_like(x))


def _windows(x: jax.Array, width: int) -> list[jax.Array]:
    """x moved by each of the window's places."""
    padded = jnp.pad(x, ((0, 0), (width // 2, width // 2), (0, 0)))
    return [padded[:, j : j + x.shape[1]] for j in range(width)]


def _slide_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return slide(x, kernel), (x, kernel)


def _slide_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if jax.default_backend() == "cpu":
        of_kernel = [jnp.einsum("bld,bld->d", part, g, precision="highest") for part in _windows(x, len(kernel))]
    else:
        of_kernel = [(part * g).sum((0, 1)) for part in _windows(x, len(kernel))]
    return slide(g, kernel[::-1]), jnp.stack(of_kernel)


slide.defvjp(_slide_forward, _slide_backward)
