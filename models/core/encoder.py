"""The encoder around every mixer: embedding, positions, blocks, pooling and classifier.

Shapes: B batch, P documents per example (1, or 2 for a pair), L length, D model width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.initial import Init, InitialRngs, Linear
from models.core.layers import BatchRngs, LayerNorm, dropout, embed, first_document
from models.core.remat import run_recomputed
from models.core.reversible import run_reversibly


class Mixer(Protocol):
    """Mixes positions: x [B, L, D] and the mask of real tokens [B, L] → [B, L, D]."""

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array: ...


@runtime_checkable
class CarryingMixer(Mixer, Protocol):
    """A mixer that also passes state to the next layer's mixer; the first layer's `carry` gets None."""

    def carry(
        self, x: jax.Array, mask: jax.Array, carried: Any, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, Any]: ...


MakeMixer = Callable[[int, int, int, nnx.Rngs], Mixer]
"""(layer, dim, length, rngs) → the mixer of that layer; layers count from 0."""


class Mlp(nnx.Module):
    """Position-wise feed-forward: D → hidden → D with GELU and dropout after each."""

    def __init__(self, dim: int, hidden: int, rate: float, *, rngs: nnx.Rngs):
        self.rate = rate
        self.into = Linear(dim, hidden, rngs=rngs)
        self.out = Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = dropout(jax.nn.gelu(self.into(x)), self.rate, rngs)
        return dropout(self.out(x), self.rate, rngs)


class Block(nnx.Module):
    """A pre-norm block: x + mixer(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, mixer: Mixer, dim: int, hidden: int, rate: float, *, rngs: nnx.Rngs):
        self.rate = rate
        self.norm_mixer = LayerNorm(dim, rngs=rngs)
        self.mixer = mixer
        self.norm_mlp = LayerNorm(dim, rngs=rngs)
        self.mlp = Mlp(dim, hidden, rate, rngs=rngs)

    def mix(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return dropout(self.mixer(self.norm_mixer(x), mask, rngs), self.rate, rngs)

    def feed(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.mlp(self.norm_mlp(x), rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None, carried: Any = None
    ) -> tuple[jax.Array, Any]:
        if isinstance(self.mixer, CarryingMixer):
            mixed, carried = self.mixer.carry(self.norm_mixer(x), mask, carried, rngs)
            x = x + dropout(mixed, self.rate, rngs)
        else:
            x = x + self.mix(x, mask, rngs)
        return x + self.feed(x, rngs), carried


class Encoder(nnx.Module):
    """Encoder classifier: token ids to class logits.

    As in the official benchmark: embedding N(0, 1), positions, pre-norm blocks, final norm, pooling, and a
    classifier D → mlp → ReLU → classes; for pairs both documents go through the same encoder, and the head is
    [e1, e2] (or [e1, e2, e1·e2, e1 − e2] with `pair_head="nli"`) → mlp → mlp/2 → classes. With CLS pooling a
    zero-initialised token is prepended, so mixers see length + 1 positions.

    Args:
        make_mixer: builds a layer's mixer from (layer, dim, length seen by mixers, rngs).
        positions: 'sinusoidal' (Vaswani et al. 2017, section 3.5) or 'learned'.
        rate: dropout after the embedding, after every mixer and in every feed-forward.
        init: what parameters start from (`models.core.initial.Init`).
        reversible: blocks keep no activations for the backward pass (models/core/reversible.py).
        remat: blocks keep only their input and are recomputed in the backward pass (models/core/remat.py): the
            same numbers in less memory, for one more forward pass.
    """

    def __init__(
        self,
        make_mixer: MakeMixer,
        *,
        vocab: int,
        classes: int,
        length: int,
        dim: int,
        layers: int,
        mlp: int,
        pool: Literal["cls", "mean"] = "cls",
        positions: Literal["sinusoidal", "learned"] = "sinusoidal",
        pair_head: Literal["concat", "nli"] = "concat",
        pair: bool = False,
        rate: float = 0.1,
        init: Init = "lecun",
        reversible: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if init != "lecun":
            rngs = InitialRngs(rngs.params(), init)
        self.pool, self.rate, self.reversible, self.remat = pool, rate, reversible, remat
        self.nli = pair and pair_head == "nli"
        seen = length + (pool == "cls")
        embedding = nnx.initializers.normal(0.02 if init == "torch" else 1.0)
        self.embedding = nnx.Embed(vocab, dim, embedding_init=embedding, rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((dim,))) if pool == "cls" else None
        learned = positions == "learned"
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (seen, dim))) if learned else None
        self.blocks = nnx.List(
            [Block(make_mixer(layer, dim, seen, rngs), dim, mlp, rate, rngs=rngs) for layer in range(layers)]
        )
        if reversible and any(isinstance(block.mixer, CarryingMixer) for block in self.blocks):
            raise ValueError("a mixer that carries something from layer to layer cannot be reversible")
        self.norm = LayerNorm(dim, rngs=rngs)
        widths = [dim * (4 if self.nli else 2), mlp, mlp // 2] if pair else [dim, mlp]
        dense = Linear if init == "torch" else nnx.Linear
        self.head = nnx.List([dense(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.classifier = dense(widths[-1], classes, rngs=rngs)

    def encode(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Encodes token ids [B, L] (0 is padding) under mask [B, L] into one vector per document, [B, D]."""
        x = embed(self.embedding.embedding[...], tokens)
        if self.cls is not None:
            front = jnp.broadcast_to(self.cls[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([front, x], axis=1)
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        positions = sinusoidal(*x.shape[1:]) if self.positions is None else self.positions[...]
        x = dropout(x + positions[None].astype(x.dtype), self.rate, rngs)
        x = run_reversibly(self.blocks, x, mask, rngs) if self.reversible else self._run(x, mask, rngs)
        x = self.norm(x)
        if self.pool == "cls":
            return x[:, 0]
        weight = mask.astype(jnp.float32)
        total = jnp.einsum("bl,bld->bd", weight, x, preferred_element_type=jnp.float32)
        return (total / jnp.maximum(weight.sum(1, keepdims=True), 1)).astype(x.dtype)

    def _run(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs all blocks, each with its own random key, so that a recomputed block draws the same."""
        first = 0 if rngs is None else first_document(rngs)

        def run(block: Block, x: jax.Array, key: jax.Array | None, carried: Any) -> tuple[jax.Array, Any]:
            return block(x, mask, None if key is None else BatchRngs(key, first), carried)

        keys = [None if rngs is None else rngs.dropout() for _ in self.blocks]
        if self.remat:
            return run_recomputed(self.blocks, x, keys, run)
        carried = None
        for block, key in zip(self.blocks, keys, strict=True):
            x, carried = run(block, x, key, carried)
        return x

    def __call__(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Token ids [B, P, L] and mask [B, P, L] → logits float32 [B, classes]. Without `rngs`, no dropout."""
        batch, documents, length = tokens.shape
        flat = self.encode(tokens.reshape(-1, length), mask.reshape(-1, length), rngs)
        e = flat.reshape(batch, documents, -1)
        if self.nli:
            e = jnp.concatenate([e, e[:, :1] * e[:, 1:], e[:, :1] - e[:, 1:]], axis=1)
        x = e.reshape(batch, -1)
        for layer in self.head:
            x = jax.nn.relu(layer(x))
        return self.classifier(x).astype(jnp.float32)


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
