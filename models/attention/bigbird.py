"""BigBird: blocks of positions that see their neighbours, both ends and some random blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention.transformer import attend_with_lse
from models.core.block_attention import attend_blocks, from_blocks, pad_length
from models.core.layers import Constant, MultiHead, at_least


class BigBird(MultiHead):
    """Big Bird: Transformers for Longer Sequences. Zaheer et al. 2020, arXiv:2007.14062, section 2 and
    appendix D (internal transformer construction).

        out_i = softmax_j(q_i·k_j / √K) v_j over the keys of the blocks that i's block sees:
        itself, one neighbour on each side, the first and the last block, and `random` other blocks;
        the first and the last block see everything.

    Time L·block·(5 + random), memory L. The random blocks are drawn once, when the model is built, for each
    layer, head and block of queries. If fewer than `random` blocks are left, all of them are taken; with five
    blocks or fewer this is full attention.

    Departs from the paper in its handling of padding: the "last" block is the last one that holds a real token,
    and random blocks are drawn among those up to it, so that padding changes nothing. In the official code random
    blocks come from the first 1,024 tokens only, there is no attention dropout, and fewer than 8 blocks raise. Its
    padding leaks: inputs are filled up to whole blocks with zeros (one more block where there is nothing to fill),
    and the mask, which is Boolean, with −10⁹, that is, True, so that those zeros are keys like any other.
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
        block: int = 64,
        random: int = 3,
        rngs: nnx.Rngs,
    ):
        at_least(1, block=block)
        at_least(0, random=random)
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.block = min(block, length)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rngs.params(), jnp.arange(-(-length // self.block)))
        # A block's draws do not depend on how many blocks follow it.
        self.draws = Constant(jax.vmap(lambda key: jax.random.uniform(key, (heads, random)))(keys).swapaxes(0, 1))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.project(x)
        return self.join(bigbird_attention(q, k, v, mask, self.draws[...], self.block, self.rate, rngs))


def random_blocks(draws: jax.Array, last: jax.Array) -> jax.Array:
    """Picks distinct random blocks for each query block, int32 [B, H, N, R]; -1 where no more are left.

    The r-th draw picks one of the remaining blocks by its rank: those seen anyway and those picked before are
    skipped in ascending order.

    Args:
        draws: uniform in [0, 1), [H, N, R].
        last: int32 [B], each example's last block that holds a real token.
    """
    blocks, count = draws.shape[1:]
    i = jnp.arange(blocks)[None, None, :]
    end = jnp.broadcast_to(last[:, None, None], (*last.shape, *draws.shape[:2]))  # [B, H, N]
    around = [jnp.zeros_like(end), end, *(jnp.broadcast_to(i + d, end.shape) for d in (-1, 0, 1))]
    taken = jnp.stack([jnp.where((b >= 0) & (b <= end), b, blocks) for b in around], axis=-1)
    picked = []
    for r in range(count):
        taken = jnp.sort(taken, axis=-1)
        again = jnp.pad(taken[..., 1:] == taken[..., :-1], [(0, 0)] * 3 + [(1, 0)])
        taken = jnp.sort(jnp.where(again, blocks, taken), axis=-1)
        left = end + 1 - (taken < blocks).sum(-1)
        pick = jnp.floor(draws[None, ..., r] * left.astype(draws.dtype)).astype(jnp.int32)
        for t in range(taken.shape[-1]):
            pick += (pick >= taken[..., t]).astype(jnp.int32)
        pick = jnp.where(left > 0, pick, -1)
        picked.append(pick)
        taken = jnp.concatenate([taken, jnp.where(pick < 0, blocks, pick)[..., None]], axis=-1)
    return jnp.stack(picked, axis=-1) if picked else jnp.zeros((*end.shape, 0), jnp.int32)


def seen_blocks(draws: jax.Array, last: jax.Array) -> jax.Array:
    """Lists the key blocks of each query block, each once, int32 [B, H, N, 5 + R]; -1 for none. See `random_blocks`."""
    i = jnp.arange(draws.shape[1])[None, None, :]
    end = last[:, None, None]
    left, right = jnp.where(i >= 1, i - 1, -1), jnp.where(i + 1 <= end, i + 1, -1)
    far = [jnp.where(i > 1, 0, -1), jnp.where(i + 1 < end, end, -1)]
    near = jnp.stack([jnp.broadcast_to(b, (*last.shape, *draws.shape[:2])) for b in (left, i, right, *far)], -1)
    return jnp.concatenate([near, random_blocks(draws, last)], axis=-1)


def bigbird_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    draws: jax.Array,
    block: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """BigBird's attention: q, k, v [B, L, H, K], mask [B, L], draws [H, N, R] → [B, L, H, K]."""
    batch, length, heads, width = q.shape
    blocks = -(-length // block)
    real = pad_length(mask, block).reshape(batch, blocks, block).any(-1)
    last = jnp.max(jnp.where(real, jnp.arange(blocks)[None, :], 0), axis=1)
    kv_blocks = seen_blocks(draws[:, :blocks], last).reshape(batch * heads, blocks, -1)
    o, _ = attend_blocks(q, k, v, mask, kv_blocks, block, rate, rngs)

    ends = jnp.stack([jnp.zeros_like(last), last], axis=1)  # [B, 2]
    positions = (ends[:, :, None] * block + jnp.arange(block)[None, None, :]).reshape(batch, -1)
    q_ends = q[jnp.arange(batch)[:, None], jnp.minimum(positions, length - 1)]
    o_ends, _ = attend_with_lse(q_ends, k, v, mask, rate, rngs)
    o_ends = o_ends.reshape(batch * heads, -1, width)[:, : 2 * block].reshape(-1, 2, block, width)
    o = o.at[jnp.arange(batch * heads)[:, None], jnp.repeat(ends, heads, axis=0)].set(o_ends)
    return from_blocks(o, heads, length)
