"""DeltaNet: linear attention whose memory replaces what it held for a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.delta_rule import delta_rule
from models.core.directions import backward_gain, read
from models.core.initial import Linear
from models.core.layers import at_least, expanded, merge_heads, split_heads
from models.core.norms import unit_rms
from models.core.short_convolution import slide


class DeltaNet(nnx.Module):
    """Parallelizing Linear Transformers with the Delta Rule over Sequence Length.

    Yang, Wang, Zhang, Shen, Kim 2024, arXiv:2406.06484, sections 2 and 3; the rule is Schlag, Irie,
    Schmidhuber's (2021, arXiv:2102.11174). In each head:

        q, k, v = silu(conv(W_q x, W_k x, W_v x)),  q ← q / ‖q‖,  k ← k / ‖k‖,  β_t = σ(w·x_t)
        S_t = S_{t−1} + β_t k_t (v_t − S_{t−1}ᵀ k_t)ᵀ,  o_t = S_tᵀ q_t,  y_t = W_out (g ⊙ RMS(o_t))

    where S is [K, V], the transpose of the paper's: with β = 1, S k is v from then on. conv is depthwise, over a
    position and those before it; RMS is over a head's features, with a gain g that heads share. With `negative` β is
    twice as large, so that I − β k kᵀ has eigenvalues from −1 to 1 (Grazzi et al. 2024, arXiv:2411.12537). There
    rounding can grow: in bfloat16 a run of a thousand equal keys with β = 2 exactly overflows, in float32 on a CPU it
    does not.

    Time L (c + K) (c + V) a head, memory L·D, by chunks of c = 64 positions, 32 on a CPU (models/core/delta_rule.py).
    The paper's mixer is causal. With `bidirectional` convolution and rule also run over each document's reversed real
    part, with the same parameters but for a gain of that o, and RMS is of the sum of both. Without it, the mixer is
    causal. Masked inputs are zero before mixing, and β is 0 there, which leaves the memory as it is: padding changes no
    logit, and a hole is a zero to the convolution and nothing to the memory. The convolution, lengths, β, the memory
    and RMS are float32, projections and the products inside chunks in x's type. Attention dropout does not apply.

    Lengths are √(‖·‖² + 10⁻⁶), and RMS adds 10⁻⁶, the authors' code 10⁻⁵. That code also divides q by √K, which RMS
    would hide but for this.

    Parameters, 4 D² and a few with the defaults; without bias:
        query, key [D, H·K], value [D, H·V], beta [D, H] (w), out [H·V, D].
        taps [conv, H·(K + K + V)]: the convolution; starts as a linear map from `conv` inputs.
        gain [V]: g, 1 at first.
        backward [H·V]: if bidirectional, the gain of what is read from the end (`backward_gain`).

    Args:
        dim: D.
        length: not used.
        heads: H.
        qkv: H·V; None for `dim`.
        expand_k: K / V.
        conv: positions that the convolution sees.
        negative: whether β reaches 2.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: H does not divide H·K or H·V, or heads or conv is below 1.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        expand_k: float = 1.0,
        conv: int = 4,
        negative: bool = False,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, heads=heads, conv=conv)
        width = dim if qkv is None else qkv
        values, keys = expanded(width, heads, qkv=1.0), expanded(width, heads, expand_k=expand_k)
        self.heads, self.negative = heads, negative
        self.widths = (keys, keys, values)
        self.query = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.key = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.value = Linear(dim, values, use_bias=False, rngs=rngs)
        self.taps = Linear(conv, sum(self.widths), use_bias=False, rngs=rngs)
        self.beta = Linear(dim, heads, use_bias=False, rngs=rngs)
        self.gain = nnx.Param(jnp.ones((values // heads,)))
        self.backward = backward_gain(values) if bidirectional else None
        self.out = Linear(values, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y: jax.Array = self.out(self.recall(x, mask).astype(x.dtype))
        return y

    def recall(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """g ⊙ RMS(o) of x [B, L, D]: float32 [B, L, H·V]."""
        x = jnp.where(mask[..., None], x, 0)
        parts = jnp.concatenate([project(x) for project in self.projections()], -1)
        o = read(self._attend, parts, mask, self.backward)
        return merge_heads(unit_rms(split_heads(o, self.heads)) * self.gain[...].astype(jnp.float32)[None, None, None])

    def projections(self) -> list[Linear]:
        """What the rule needs of x: to q, k and v, to β's logits, and whatever `log_decay` takes."""
        return [self.query, self.key, self.value, self.beta]

    def log_decay(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """The logarithm of what the memory keeps at each position, float32 [B, L, H]: 0, all of it."""
        return jnp.zeros((*mask.shape, self.heads))

    def _attend(self, parts: jax.Array, mask: jax.Array) -> jax.Array:
        """Convolution and rule from left to right, of projections [B, L, any]: o float32 [B, L, H·V]."""
        width = sum(self.widths)
        qkv, beta, logits = jnp.split(parts, [width, width + self.heads], -1)
        taps = self.taps.kernel[...].astype(jnp.float32)
        qkv = jax.nn.silu(slide(qkv.astype(jnp.float32), taps, len(taps) - 1))
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, np.cumsum(self.widths[:2]), -1))
        q, k, v = (part.astype(parts.dtype) for part in (unit_length(q), unit_length(k), v))
        beta = jax.nn.sigmoid(beta.astype(jnp.float32)) * (2 if self.negative else 1)
        beta = jnp.where(mask[..., None], beta, 0)
        return merge_heads(delta_rule(q, k, v, beta, self.log_decay(logits, mask)))


def unit_length(x: jax.Array) -> jax.Array:
    """x / √(‖x‖² + 10⁻⁶) over the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)
