"""Sparse Sinkhorn attention: each block attends to itself and to a block that a learned sort assigns to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.block_attention import from_blocks, pad_length, to_blocks
from models.core.flash_attention import Fixed, attend_tiles, draw_dropout_seeds
from models.core.initial import Linear, head_kernels
from models.core.layers import MASKED, MultiHead, at_least, batch_bits, split_heads


class Sinkhorn(MultiHead):
    """Sparse Sinkhorn Attention. Tay et al. 2020, arXiv:2002.11296, sections 3.1 and 3.2.

        R = S(relu(W_B relu(W_P Σ_block x + b_P) + b_B) / τ),  S: rows, then columns, scaled to sum to 1 in turn
        out_i = softmax([q_i·k̃_j ; q_i·k_j] / √K) [ṽ_j ; v_j] over the j of i's block
        k̃ = R k, ṽ = R v: sums of whole blocks

    One softmax over a block's own and its sorted keys is a choice: the official code adds the outputs of two softmaxes,
    one over each.

    Each head sorts separately. While training, Gumbel noise is added to the logits before the division
    (section 3.2.1), unless `noise` is off. Time L·block + (L/block)²·(block·K + iterations), memory
    L + iterations·(L/block)². W_B has L/block columns per head, so parameters grow with L: with
    W_P 8 % more than the Transformer in the Text shape.

    Padding: empty blocks are left out of the sort; where R mixes real and padded positions, k̃ and ṽ hold the
    real ones, divided by their share of R's weight, and the share's logarithm is added to the score (so that
    without padding this is the paper's equation). W_B fits one length: inputs cannot be padded beyond it.
    SortCut and the causal variant are left out. In the official code an einsum sums the sorted blocks away, so
    that the sort has no effect; the default is a softmax instead of S; CLS pooling raises.
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
        iterations: int = 7,
        temperature: float = 0.75,
        noise: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, block=block, iterations=iterations)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.block, self.iterations = min(block, length), iterations
        self.temperature, self.noise = temperature, noise
        width, blocks = dim if qkv is None else qkv, -(-length // self.block)
        self.pooled = Linear(dim, width, rngs=rngs)
        self.sort = nnx.Param(head_kernels(rngs, (heads, width // heads, blocks)))
        self.sort_bias = nnx.Param(jnp.zeros((heads, blocks)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        # [B, H, N, b, K]: with heads first, all products are of matrices that lie in one piece.
        q, k, v = (
            to_blocks(y, self.block).reshape(len(x), self.heads, -1, self.block, y.shape[3]) for y in self.project(x)
        )
        real = pad_length(mask, self.block).reshape(len(x), -1, self.block)
        pooled = pad_length(x * mask[..., None].astype(x.dtype), self.block)
        pooled = pooled.reshape(*real.shape, -1).sum(2)
        hidden = split_heads(jax.nn.relu(self.pooled(pooled)), self.heads)
        blocks = q.shape[2]
        logits = jnp.einsum("bnhk,hkm->bhnm", hidden, self.sort[..., :blocks].astype(hidden.dtype))
        logits = jax.nn.relu(logits.astype(jnp.float32) + self.sort_bias[None, :, None, :blocks].astype(jnp.float32))
        if rngs is not None and self.noise:
            logits += gumbel(rngs, logits.shape)
        order = normalise(logits / self.temperature, real.any(2), self.iterations)
        o = sorted_attention(q, k, v, real, order, self.rate, rngs)
        return self.join(from_blocks(o, self.heads, x.shape[1]))


def gumbel(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    """Draws standard Gumbel noise float32 of `shape`, whose first axis is the documents of a batch."""
    uniform = ((batch_bits(rngs, shape) >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    return -jnp.log(-jnp.log(uniform))


def normalise(logits: jax.Array, real: jax.Array, iterations: int) -> jax.Array:
    """Makes exp(logits) [B, H, N, N] doubly stochastic over the real blocks (bool [B, N]); 0 elsewhere.

    Sinkhorn's algorithm in logarithms: rows, then columns, are divided by their sums, `iterations` times.
    """
    both = (real[:, :, None] & real[:, None, :])[:, None]

    def step(_: int, logits: jax.Array) -> jax.Array:
        for axis in (-1, -2):
            logits = jnp.where(both, logits - jax.nn.logsumexp(logits, axis, keepdims=True), MASKED)
        return logits

    return jnp.exp(jax.lax.fori_loop(0, iterations, step, jnp.where(both, logits, MASKED)))


def sorted_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    real: jax.Array,
    order: jax.Array,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """Attention of each block to itself and to its sorted block.

    Args:
        q, k, v: [B, H, N, b, K].
        real: bool [B, N, b].
        order: float32 [B, H, N, N], the weights of all blocks in each sorted block.
        rate: dropout of the attention weights, applied when `rngs` is given.
        rngs: random keys; None in evaluation.

    Returns:
        [B·H, N, b, K].
    """
    total = order.sum(-1, keepdims=True)
    sums = jnp.einsum("bhnm,bmj->bhnj", order, real.astype(jnp.float32))
    there = sums > 1e-6 * total
    share = jnp.where(there, sums, 1) / jnp.where(there, total, 1)  # of R's weight on real positions; 1 without padding
    order = order.astype(k.dtype)
    k_far, v_far = (
        (order @ (x * real[:, None, ..., None].astype(x.dtype)).reshape(*x.shape[:3], -1)).reshape(x.shape)
        / share[..., None].astype(x.dtype)
        for x in (k, v)
    )
    keys, values = jnp.concatenate([k_far, k], 3), jnp.concatenate([v_far, v], 3)
    # The logarithm of the share is added to scores as one more feature of the keys, which a query's 1 meets.
    # `attend_tiles` divides by √(K + 1).
    width = q.shape[-1]
    bias = jnp.concatenate([jnp.log(share), jnp.zeros_like(share)], -1)[..., None] * (width + 1) ** 0.5
    keys = jnp.concatenate([keys, bias.astype(k.dtype)], -1)
    q = jnp.concatenate([q * (1 + 1 / width) ** 0.5, jnp.ones_like(q[..., :1])], -1)
    seen = jnp.concatenate([there, jnp.broadcast_to(real[:, None], there.shape)], -1)

    drawn = draw_dropout_seeds(q.shape[:4], keys.shape[:4], rate, rngs)
    seeds = None if drawn is None else (flat(drawn[0]), flat(drawn[1]))
    q, keys, values, seen = map(flat, (q, keys, values, seen))
    own = jnp.arange(q.shape[1])[:, None]  # each block of queries has keys of its own
    return attend_tiles(q, keys, values, Fixed(seen, own, seeds), rate)[0]


def flat(x: jax.Array) -> jax.Array:
    """[B, H, ...] → [B·H, ...]."""
    return x.reshape(-1, *x.shape[2:])
