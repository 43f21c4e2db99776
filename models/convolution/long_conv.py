"""A long convolution whose kernel is learnt entry by entry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import dropout
from models.core.long_convolution import convolve
from models.core.state_space import real_inputs


class LongConv(nnx.Module):
    """Simple Hardware-Efficient Long Convolutions for Sequence Modeling.

    Fu, Epstein, Nguyen, Thomas, Zhang, Dao, Rudra, Ré 2023, arXiv:2302.06646, section 3. Each feature u is convolved
    with a kernel of its own, as long as the input, whose entries are free; small ones are squashed to 0 whenever the
    kernel is used, and in training some others are dropped:

        y = dropout(squash(K)) ⊛ u + D u,    squash(k) = sign(k) · max(|k| − λ, 0)

    A squashed entry has no gradient, as in the authors' code. Time L·log L·D, memory L·D. There is no linear map
    between features: the block's follows. With `bidirectional` a second kernel, which begins at the next position,
    reads what follows. All examples of a step meet the same dropped kernel. Masked inputs are zero before mixing, so
    padding changes no logit, and a hole is read as a zero. Kernels and transforms are float32. Attention dropout does
    not apply.

    With L·H parameters for each direction it has far more than the Transformer on long inputs: 2 million more a layer
    for 4,000 positions of 256 features.

    Departs from the authors' code: one channel; theirs convolves each feature with two kernels, and the linear map of
    its block has twice the inputs. It reads in both directions by default, theirs on Pathfinder and Path-X alone.
    Kernels start from white noise, as in their recipes for these tasks; the paper's other start, with decay, is left
    out.

    Parameters, with K = 1 or 2 directions and H features:
        kernel [K, H, L]: drawn from N(0, 0.002²), of which λ squashes seven entries in eight; kernel[1] reads
            backwards. Role `A`.
        skip [H]: D, drawn from N(0, 1).

    Args:
        dim: H.
        length: L, the longest input.
        squash: λ; the authors' recipes have 0.001 to 0.004.
        kernel_dropout: probability of dropping a kernel's entry in a step of training; theirs have 0.1 to 0.3.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `squash` is negative, or `kernel_dropout` is not at least 0 and below 1.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        squash: float = 0.003,
        kernel_dropout: float = 0.2,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        if squash < 0:
            raise ValueError(f"squash must be at least 0, not {squash}")
        if not 0 <= kernel_dropout < 1:
            raise ValueError(f"kernel_dropout must be at least 0 and below 1, not {kernel_dropout}")
        self.squash, self.rate = squash, kernel_dropout
        shape = (1 + bidirectional, dim, length)
        self.kernel = nnx.Param(0.002 * jax.random.normal(rngs.params(), shape), role="A")
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (dim,)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        kernel = self.kernel[...].astype(jnp.float32)
        kernel = kernel - jnp.clip(kernel, -self.squash, self.squash)
        return convolve_and_skip(x, mask, dropout(kernel, self.rate, rngs, shared=True), self.skip[...])


def convolve_and_skip(x: jax.Array, mask: jax.Array, kernels: jax.Array, skip: jax.Array) -> jax.Array:
    """Computes K ⊛ u + D u, where u is x without what is masked.

    Args:
        x: [B, L, H] in any floating-point type.
        mask: bool [B, L].
        kernels: float32 [1 or 2, H, at least L]; the second reads backwards, from the next position on.
        skip: D, [H].

    Returns:
        [B, L, H] in x's type.

    Raises:
        ValueError: x is longer than the kernels.
    """
    length = x.shape[1]
    if length > kernels.shape[2]:
        raise ValueError(f"{length} positions are more than the {kernels.shape[2]} that the mixer was built for")
    u = real_inputs(x, mask)
    y = convolve(u, *kernels[..., :length])
    return (y + skip.astype(jnp.float32)[None, None, :] * u).astype(x.dtype)
