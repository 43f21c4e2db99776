"""Where a token stands: sinusoids to add, and rotations of queries and keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def sinusoidal(length: int, dim: int) -> jax.Array:
    """Sinusoidal positions float32 [L, D] (Vaswani et al. 2017, section 3.5).

        PE[p, 2i] = sin(p / 10,000^(2i/D)),    PE[p, 2i + 1] = cos(p / 10,000^(2i/D))

    In float32, the angle of position 16,384 would be wrong in its third decimal. So the numbers of every 128th position
    and of the first 128 are computed in float64, and all others from them by the sum of two angles.
    """
    rate = 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    near, far = (np.arange(count)[:, None] * rate for count in (128, -(-length // 128)))
    sin_near, cos_near, sin_far, cos_far = (
        jnp.asarray(f(angle), jnp.float32) for angle in (near, 128 * far) for f in (np.sin, np.cos)
    )
    sin = sin_far[:, None] * cos_near[None] + cos_far[:, None] * sin_near[None]
    cos = cos_far[:, None] * cos_near[None] - sin_far[:, None] * sin_near[None]
    return jnp.stack([sin, cos], axis=-1).reshape(-1, 2 * len(rate))[:length, :dim]


def rotate(x: jax.Array) -> jax.Array:
    """Rotates queries or keys [B, L, H, K] by their positions (RoFormer. Su et al. 2021, arXiv:2104.09864, eq. 34).

        (x_i, x_{i + K/2}) ← rotation by the angle p / 10,000^(2i/K), for position p and i < K/2

    So q_p·k_r depends on p − r. A pair is i and i + K/2, as in GPT-NeoX; RoFormer's own code pairs 2i and 2i + 1, which
    are the same functions with other weights. K must be even.
    """
    length, width = x.shape[1], x.shape[3]
    table = sinusoidal(length, width)
    sin, cos = table[None, :, None, 0::2], table[None, :, None, 1::2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def rotate_by(x: jax.Array, rate: np.ndarray) -> jax.Array:
    """Rotates as `rotate` does, by angles of one's own.

    Args:
        x: queries or keys [B, L, H, K].
        rate: float64 [K/2], radians a position.
    """
    length = x.shape[1]
    steps = np.arange(128), 128 * np.arange(-(-length // 128))  # as in `sinusoidal`, for exact angles far out
    near, far = (jnp.asarray(np.exp(1j * np.outer(step, rate)), jnp.complex64) for step in steps)
    turn = far[:, None] * near[None]
    turn = turn.reshape(-1, len(rate))[None, :length, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = lax.complex(a, b) * turn
    return jnp.concatenate([turned.real, turned.imag], axis=-1).astype(x.dtype)
