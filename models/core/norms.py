"""Norms by name: over the features of a position (layer, RMS, scale), or over the positions of a batch.

Statistics are float32; the result has the type of x.
"""

from __future__ import annotations

from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import BatchRngs, LayerNorm

NormKind = Literal["layer", "rms", "scale", "batch"]
"""By name, for a position's features x [D]:

- `layer`: (x − mean) / √(variance + 10⁻⁶) · g + b. Layer Normalization, Ba et al. 2016, arXiv:1607.06450.
- `rms`: x / √(mean of x² + 10⁻⁶) · g. Root Mean Square Layer Normalization, Zhang & Sennrich 2019, arXiv:1910.07467.
- `scale`: as `rms` with one g for all features. Nguyen & Salazar 2019, arXiv:1910.05895, whose g·x / ‖x‖ is the same
  with √D in g.
- `batch`: mean and variance of a feature over all real positions of a batch. Ioffe & Szegedy 2015, arXiv:1502.03167.
"""


class Norm(Protocol):
    """Normalises x [B, L, D] under the mask of real tokens [B, L]; `rngs` is None outside training."""

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array: ...


def make_norm(kind: NormKind, dim: int, momentum: float, rngs: nnx.Rngs) -> Norm:
    """Builds a norm of D = `dim` features; `momentum` is batch norm's."""
    match kind:
        case "rms":
            return RMSNorm(dim)
        case "scale":
            return RMSNorm(1)
        case "batch":
            return BatchNorm(dim, momentum)
        case _:
            return LayerNorm(dim, rngs=rngs)


class RMSNorm(nnx.Module):
    """`rms`, and with one gain `scale`. Parameter: `scale` [gains], 1 at first."""

    def __init__(self, gains: int):
        self.scale = nnx.Param(jnp.ones((gains,)))

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        return (unit_rms(x) * self.scale[...].astype(jnp.float32)[None, None]).astype(x.dtype)


def unit_rms(x: jax.Array) -> jax.Array:
    """x / √(mean of x² + 10⁻⁶) over the last axis, float32."""
    y = x.astype(jnp.float32)
    return y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)


class BatchNorm(nnx.Module):
    """`batch`: the positions of padding neither count nor change anything.

        training: y = (x − m) / √(v + 10⁻⁵) · g + b,  m and v over the real positions of the whole batch
        running statistics ← momentum · running + (1 − momentum) · (m, v); evaluation takes these for m and v

    Devices that share a batch share m and v. Where a batch is accumulated in parts, each part has its own, and the
    running statistics take their mean. v is the biased variance, as in Flax and in S5.

    Parameters: `scale` [D] (g), 1 at first; `bias` [D] (b), 0 at first. Running statistics: `mean`, 0 at first, and
    `var`, 1 at first, float32 [D].

    Args:
        dim: D.
        momentum: the old value's share in each update; PyTorch's momentum is one minus this.
    """

    def __init__(self, dim: int, momentum: float):
        self.momentum = momentum
        self.scale, self.bias = nnx.Param(jnp.ones((dim,))), nnx.Param(jnp.zeros((dim,)))
        self.mean, self.var = nnx.BatchStat(jnp.zeros((dim,))), nnx.BatchStat(jnp.ones((dim,)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = x.astype(jnp.float32)
        if rngs is None:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = masked_moments(y, mask, rngs.axis if isinstance(rngs, BatchRngs) else None)
            for running, new in ((self.mean, mean), (self.var, var)):
                running[...] = self.momentum * running[...] + (1 - self.momentum) * jax.lax.stop_gradient(new)
        gain = jax.lax.rsqrt(var + 1e-5) * self.scale[...].astype(jnp.float32)
        return ((y - mean[None, None]) * gain[None, None] + self.bias[...].astype(jnp.float32)[None, None]).astype(
            x.dtype
        )


def masked_moments(x: jax.Array, mask: jax.Array, axis: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [D] of x float32 [B, L, D] over the positions that `mask` [B, L] allows.

    Args:
        x: this device's part of the batch.
        mask: likewise.
        axis: name of the mesh's axis of devices that share the batch; None: there is one.
    """

    def over_devices(total: jax.Array) -> jax.Array:
        return total if axis is None else jax.lax.psum(total, axis)

    weight = mask.astype(jnp.float32)
    count = jnp.maximum(over_devices(weight.sum()), 1)
    mean = over_devices(jnp.einsum("bl,bld->d", weight, x, precision="highest")) / count
    squares = jnp.square(x - mean[None, None])
    return mean, over_devices(jnp.einsum("bl,bld->d", weight, squares, precision="highest")) / count
