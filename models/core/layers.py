"""Layers shared by mixers and encoder: dropout, embedding, projections of heads.

Precision: parameters are float32 and are cast at the edge of the training step, so a layer computes in its
input's type; whatever must stay float32 (softmax, norms, Fourier transforms) says so where it is computed.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.positions import rotate

MASKED = -1e30
"""Score of a key that may not be attended to; the log-denominator of a softmax over no keys is near half of it."""


class BatchRngs(nnx.Rngs):
    """Random keys for part of a batch, which starts at document `first` of the whole batch.

    The bits that `batch_bits` draws for a document depend on its number in the whole batch alone, so that splitting
    a batch over devices or into micro-batches changes no draw.

    `axis` names the mesh's axis of devices that share the batch, for what is computed over all of it; None if one has
    it alone.
    """

    def __init__(self, key: jax.Array, first: jax.Array | int = 0, axis: str | None = None):
        super().__init__(dropout=key)
        self.first = nnx.data(first)
        self.axis = axis


def with_key(rngs: nnx.Rngs, key: jax.Array) -> BatchRngs:
    """Random keys that follow from `key`, for the same part of the batch as `rngs`."""
    return BatchRngs(key, first_document(rngs), rngs.axis if isinstance(rngs, BatchRngs) else None)


def batch_bits(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    """Draws random uint32 of `shape`, whose first axis is the documents of a batch (see `BatchRngs`)."""
    return random_bits(rngs.dropout(), shape, first_document(rngs))


def first_document(rngs: nnx.Rngs) -> jax.Array | int:
    """Number of the first document that `rngs` draws for; 0 where it serves the whole batch."""
    return rngs.first if isinstance(rngs, BatchRngs) else 0


def random_bits(key: jax.Array, shape: tuple[int, ...], first: jax.Array | int = 0) -> jax.Array:
    """Draws random uint32 for dropout masks: a keyed hash of each element's number.

    Two rounds of `lowbias32`, each after mixing in a word of the key. It fuses into the operation that uses it, and
    took under a third of the time of JAX's own generator on a CPU; good enough for masks, and for nothing finer.

    Args:
        key: JAX's random key.
        shape: at most 2³² elements.
        first: elements are numbered as if this many rows of the first axis came before.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    x = jax.lax.iota(jnp.uint32, math.prod(shape))
    x = x + jnp.asarray(first, jnp.uint32) * jnp.uint32(math.prod(shape[1:]))
    for word in words:
        x = lowbias32(x ^ word)
    return x.reshape(shape)


def lowbias32(x: jax.Array) -> jax.Array:
    """Mixes the bits of uint32, invertibly (lowbias32 of Wellons' hash prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout(x: jax.Array, rate: float, rngs: nnx.Rngs | None, shared: bool = False, tied: bool = False) -> jax.Array:
    """Inverted dropout (Srivastava et al. 2014): zeroes each element with probability `rate`.

    Args:
        x: its first axis is the documents of a batch, unless it is `shared`.
        rate: probability of zeroing an element; 0 is the identity.
        rngs: random keys; None, in evaluation, is the identity.
        shared: whether all documents share x.
        tied: whether a feature of a document [B, L, D] is zeroed at all positions or at none.
    """
    if rngs is None or rate == 0:
        return x
    if tied:
        bits = batch_bits(rngs, (x.shape[0], 1, *x.shape[2:]))
    else:
        bits = random_bits(rngs.dropout(), x.shape) if shared else batch_bits(rngs, x.shape)
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), x / (1 - rate), jnp.zeros((), x.dtype))


def embed(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Looks up rows of `table` [V, D] for token ids of any shape: [..., D].

    On accelerators the gradient is a product with the tokens as one-hot rows: a scatter-add would sum thousands of
    rows in the table's type, bfloat16 in training, and on a GPU in an order that changes from run to run. With a
    vocabulary of bytes the product is cheap.
    """
    if jax.default_backend() == "cpu":
        return jnp.take(table.astype(jnp.float32), tokens, axis=0).astype(table.dtype)
    return _embed(table, tokens)


@jax.custom_vjp
def _embed(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.take(table, tokens, axis=0)


def _embed_forward(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _embed(table, tokens), (jnp.zeros((table.shape[0], 0), table.dtype), tokens)


def _embed_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None]:
    like, tokens = saved
    rows = jax.nn.one_hot(tokens.ravel(), like.shape[0], dtype=g.dtype)
    flat = g.reshape(-1, g.shape[-1])
    total = jnp.einsum("nv,nd->vd", rows, flat, precision="highest", preferred_element_type=jnp.float32)
    return total.astype(like.dtype), None


_embed.defvjp(_embed_forward, _embed_backward)


def take_positions(x: jax.Array, index: jax.Array) -> jax.Array:
    """Gathers x[g, index[g, l]] from x [G, L, ...] by index int32 [G, M], all of it from 0 to L − 1."""
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="promise_in_bounds")


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Reshapes [B, L, H·K] → [B, L, H, K]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """Reshapes [B, L, H, K] → [B, L, H·K]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def expanded(width: int, heads: int, **option: float) -> int:
    """`width` times an option; raises ValueError, by its name, if that is no positive multiple of `heads`."""
    ((name, factor),) = option.items()
    size = round(width * factor)
    if heads < 1 or size < 1 or abs(size - width * factor) > 1e-6 or size % heads:
        raise ValueError(f"{name} times {width} is {width * factor:g}, not a multiple of heads ({heads})")
    return size


class LayerNorm(nnx.LayerNorm):
    """Normalises the last axis; statistics are float32, the result has the type of x and the parameters."""

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        # Flax subtracts float32 means from x in its own type.
        with jax.numpy_dtype_promotion("standard"):
            normalised: jax.Array = super().__call__(x)
        return normalised


class Constant(nnx.Variable):
    """An array that a mixer needs and nothing trains, such as random features; drawn when the mixer is built."""


class Projections(nnx.Module):
    """Linear maps to heads' queries, keys and values, and back to the model; without bias, as in the benchmark.

    Args:
        dim: the model's width D.
        heads: H.
        qkv: width of all heads together, H·K; None for `dim`.
        rotary: whether queries and keys are rotated by their positions (`models.core.positions.rotate`).
        rngs: random keys of the initial parameters.
    """

    def __init__(self, dim: int, heads: int, qkv: int | None, *, rotary: bool = False, rngs: nnx.Rngs):
        qkv = dim if qkv is None else qkv
        if heads < 1 or qkv % heads:
            raise ValueError(f"qkv ({qkv}) must be a multiple of heads ({heads})")
        if rotary and qkv // heads % 2:
            raise ValueError(f"rotary positions need heads of even width, not qkv ({qkv}) / heads ({heads})")
        self.heads, self.rotary = heads, rotary
        self.query = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.key = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.value = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = Linear(qkv, dim, use_bias=False, rngs=rngs)

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Projects x [B, L, D] to queries, keys and values, [B, L, H, K] each."""
        kernel = jnp.concatenate([p.kernel[...] for p in (self.query, self.key, self.value)], axis=1)
        q, k, v = (split_heads(y, self.heads) for y in jnp.split(x @ kernel, 3, axis=-1))
        return (rotate(q), rotate(k), v) if self.rotary else (q, k, v)

    def join(self, y: jax.Array) -> jax.Array:
        """Projects the heads' outputs [B, L, H, K] back to [B, L, D]."""
        joined: jax.Array = self.out(merge_heads(y))
        return joined


class MultiHead(Projections):
    """Base of multi-head attention: its projections and the dropout rate of its weights."""

    def __init__(self, dim: int, heads: int, qkv: int | None, dropout: float, *, rotary: bool = False, rngs: nnx.Rngs):
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        super().__init__(dim, heads, qkv, rotary=rotary, rngs=rngs)
        self.rate = dropout


def at_least(least: int, **options: int) -> None:
    """Raises ValueError if an option is smaller than `least`."""
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
