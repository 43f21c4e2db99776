"""The decay of Mamba-2: one number a head and position, from a step size that the input sets.

Dao & Gu 2024, arXiv:2405.21060: a_t = e^{−Δ_t A}, with Δ_t = softplus(logit_t + bias) and A > 0.

Shapes: B examples, L positions, H heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.state_space import step_biases


class HeadDecay(nnx.Module):
    """The parameters of the decay.

    log_rate [H]: ln A, from A uniform in [1, 16]. Role `A`.
    step_bias [H]: the bias, so that softplus(bias) is log-uniform in [0.001, 0.1]. Role `step`.
    """

    def __init__(self, heads: int, *, rngs: nnx.Rngs):
        rate = jax.random.uniform(rngs.params(), (heads,), minval=1.0, maxval=16.0)
        self.log_rate = nnx.Param(jnp.log(rate), role="A")
        self.step_bias = nnx.Param(step_biases(rngs.params(), heads), role="step")

    def __call__(self, logits: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Δ and ln a of logits [B, L, H]; float32 [B, L, H], both 0 where `mask` [B, L] is False."""
        bias, log_rate = (p[...].astype(jnp.float32)[None, None, :] for p in (self.step_bias, self.log_rate))
        step = jnp.where(mask[..., None], jax.nn.softplus(logits.astype(jnp.float32) + bias), 0)
        return step, -jnp.exp(log_rate) * step
