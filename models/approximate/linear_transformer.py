"""Linear Transformer: attention with a feature map instead of the exponential."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import Projections


def kernel_attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes Σ_m (q·k_m) v_m / Σ_m q·k_m over the real positions m, without any L×L array.

    Args:
        q: features float32 [B, L, H, F] whose products with those of k are not negative.
        k: features like q.
        v: [B, L, H, K]; the two products with it are in its type, sums and the denominator in float32.
        mask: bool [B, L]. A row whose denominator is (nearly) zero, as without any key, gives zero.
    """
    k = jnp.where(mask[..., None, None], k, 0)
    memory = jnp.einsum("blhf,blhk->bhfk", k.astype(v.dtype), v, preferred_element_type=jnp.float32)
    above = jnp.einsum("blhf,bhfk->blhk", q.astype(v.dtype), memory.astype(v.dtype))
    below = jnp.einsum("blhf,bhf->blh", q, k.sum(1))
    return (above.astype(jnp.float32) / jnp.maximum(below, 1e-6)[..., None]).astype(v.dtype)


def elu_features(x: jax.Array) -> jax.Array:
    """Computes elu(x) + 1 in float32: positive, as attention weights must be."""
    return jax.nn.elu(x.astype(jnp.float32)) + 1


class LinearTransformer(nnx.Module):
    """Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention.

    Katharopoulos et al. 2020, arXiv:2006.16236, eq. 5 to 7, not causal:

        out_l = φ(q_l)ᵀ Σ_m φ(k_m) v_mᵀ / φ(q_l)ᵀ Σ_m φ(k_m),    φ(x) = elu(x) + 1

    Time L·K·D, memory L·D. Padded keys have no features, so padding changes no logit. There are no attention
    weights to drop, so attention dropout does not apply. The official benchmark ignores the mask here.
    """

    def __init__(self, dim: int, length: int, *, heads: int = 4, qkv: int | None = None, rngs: nnx.Rngs):
        self.projections = Projections(dim, heads, qkv, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.projections.project(x)
        return self.projections.join(kernel_attend(elu_features(q), elu_features(k), v, mask))
