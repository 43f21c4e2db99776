"""cosFormer: linear attention with ReLU features and weights that fall with distance as a cosine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.approximate.linear_transformer import kernel_attend
from models.core.layers import Projections


def cos_features(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes [relu(x) cos(πl / 2N), relu(x) sin(πl / 2N)] in float32, [B, L, H, K] → [B, L, H, 2K].

    N is the example's length: one more than the last position that `mask` [B, L] allows. Beyond it the features are
    zero: the cosine of a padded query and a key would be negative, and the weights' sum could be anything.
    """
    position = jnp.arange(x.shape[1], dtype=jnp.float32)[None, :]
    length = jnp.max(jnp.where(mask, position + 1, 1), axis=1, keepdims=True)
    angle = (jnp.pi / 2 * position / length)[:, :, None, None]
    x = jnp.where(mask[..., None, None], jax.nn.relu(x.astype(jnp.float32)), 0)
    return jnp.concatenate([x * jnp.cos(angle), x * jnp.sin(angle)], axis=-1)


class Cosformer(nnx.Module):
    """cosFormer: Rethinking Softmax in Attention. Qin et al. 2022, arXiv:2202.08791, section 3.

    Not causal:

        out_l = Σ_m s_lm v_m / Σ_m s_lm,    s_lm = relu(q_l)·relu(k_m) cos(π(l − m) / 2N)

    By cos(a − b) = cos a cos b + sin a sin b this is linear attention with twice the features. Time L·K·D,
    memory L·D. N, the sequence's length in the paper, is each document's length without padding, so padding
    changes no logit (the authors' code takes the batch's padded length). There are no attention weights to
    drop, so attention dropout does not apply. A query without a positive feature has no weights and gives zero, as
    do padded queries.
    """

    def __init__(self, dim: int, length: int, *, heads: int = 4, qkv: int | None = None, rngs: nnx.Rngs):
        self.projections = Projections(dim, heads, qkv, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.projections.project(x)
        return self.projections.join(kernel_attend(cos_features(q, mask), cos_features(k, mask), v, mask))
