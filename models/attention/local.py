"""Block-local attention: each block of positions attends to itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.block_attention import attend_blocks, from_blocks
from models.core.layers import MultiHead, at_least


class Local(MultiHead):
    """Local attention in blocks that do not overlap, as in the Long Range Arena (Tay et al. 2020,
    arXiv:2011.04006, appendix); the pattern is Image Transformer's one-dimensional one without its memory
    (Parmar et al. 2018, arXiv:1802.05751, section 3.3).

        out_i = softmax_j(q_i·k_j / √K) v_j over the j with ⌊j / block⌋ = ⌊i / block⌋

    Time L·block, memory L. The last block is shorter where `block` does not divide L. With CLS pooling the
    CLS token is the first position of the first block, and sees only that block, in one layer or in many.

    In the official code, by the way it reshapes, a position attends to those equal to it modulo the number of
    blocks instead of its neighbours, and the mask is reshaped the other way, so that padding leaks; as it does from
    what fills up the last block, where the Boolean mask is padded with −10⁹, that is, True.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rotary: bool = False,
        block: int = 50,
        rngs: nnx.Rngs,
    ):
        at_least(1, block=block)
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.block = min(block, length)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.join(local_attention(*self.project(x), mask, self.block, self.rate, rngs))


def local_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    block: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """Attention within blocks: q, k, v [B, L, H, K] and mask [B, L] → [B, L, H, K]."""
    length, heads = q.shape[1:3]
    kv_blocks = jnp.arange(-(-length // block))[:, None]
    o, _ = attend_blocks(q, k, v, mask, kv_blocks, block, rate, rngs)
    return from_blocks(o, heads, length)
