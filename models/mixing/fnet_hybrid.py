"""FNet with attention in its last layers."""

from __future__ import annotations

import jax
from flax import nnx

from models.attention.transformer import Attention
from models.core.layers import at_least
from models.mixing.fnet import FNet, Method


class FNetHybrid(nnx.Module):
    """FNet-Hybrid. Lee-Thorp et al. 2021, arXiv:2105.03824, "hybrid" in its tables.

        out = Re(F_L(F_D(x)))                        in all but the last layers,
        out = concat_h(softmax(Q_h K_hᵀ / √K) V_h) W_O    in the last `attention` of them (2 in the paper)

    Time L·D·log(L·D) in a Fourier layer and L² in an attention layer; memory likewise. The attention layers
    honour the padding mask, the Fourier layers cannot: logits depend on the length that inputs are padded to.
    A model of no more than `attention` layers is a Transformer.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        layer: int = 0,
        layers: int = 1,
        attention: int = 2,
        method: Method = "auto",
        rngs: nnx.Rngs,
    ):
        at_least(0, attention=attention)
        if layer >= layers - attention:
            self.mixer = Attention(dim, length, heads=heads, qkv=qkv, dropout=dropout, rngs=rngs)
        else:
            self.mixer = FNet(dim, length, method=method, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        mixed: jax.Array = self.mixer(x, mask, rngs)
        return mixed
