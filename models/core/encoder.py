"""The encoder around every mixer: embedding, positions, blocks, pooling and classifier.

Shapes: B batch, P documents per example (1, or 2 for a pair), L length, D model width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.blocks import Block, CarryingMixer, Frame, GatedBlock, Mixer, UpdatingMixer, gelu
from models.core.initial import InitialRngs, Start, embedding_std, head_map, input_map
from models.core.layers import dropout, embed, with_key
from models.core.norms import make_norm
from models.core.positions import sinusoidal
from models.core.remat import run_recomputed
from models.core.reversible import run_reversibly

MakeMixer = Callable[[int, int, int, nnx.Rngs], Mixer]
"""(layer, dim, length, rngs) → the mixer of that layer; layers count from 0."""
AnyBlock = Block | GatedBlock


class Encoder(nnx.Module):
    """Encoder classifier: token ids to class logits.

    By default as in the official benchmark: embedding N(0, 1), positions, pre-norm blocks, final norm, pooling, and a
    classifier D → mlp → ReLU → classes; for pairs both documents go through the same encoder, and the head is
    [e1, e2] (or [e1, e2, e1·e2, e1 − e2] with `pair_head="nli"`) → mlp → mlp/2 → classes. With CLS pooling a
    zero-initialised token is prepended, so mixers see length + 1 positions.

    State-space models have another frame (S4, arXiv:2111.00396; S5, arXiv:2208.04933): a linear input, no positions,
    gated blocks, and a linear head, for pairs [e1, e2, e1 − e2, e1·e2] → D → GELU → classes. With gated blocks the
    input is not dropped. MEGA (arXiv:2209.10655) has a feed-forward again, and one hidden layer in its head.

    Args:
        make_mixer: builds a layer's mixer from (layer, dim, length seen by mixers, rngs).
        positions: 'sinusoidal' (Vaswani et al. 2017, section 3.5), 'learned', or 'none'; with 'rotary' it adds none
            either, and the mixers rotate queries and keys.
        rate: dropout after the embedding, after every mixer and in every feed-forward.
        init: what parameters start from (`models.core.initial.Start`).
        input: 'embedding', or 'linear': a linear map with bias of a token as a one-hot row, or of `pixels`.
        pixels: with a linear input of pictures, (mean, std): value v of 0 to 1 enters as (v − mean) / std.
        final_norm: whether a norm follows the last block.
        head: 'mlp' or 'linear', as above; or 'gelu_mlp', MEGA's: D → mlp → dropout → exact GELU → classes, the last
            map without bias; from [e2, e1] for a pair, in this order.
        reversible: blocks keep no activations for the backward pass (models/core/reversible.py).
        remat: blocks keep only their input and are recomputed in the backward pass (models/core/remat.py): the
            same numbers in less memory, for one more forward pass.
        window: tokens of the windows that every document is cut into (`encode_windows`), for which the mixers are
            built; 0: documents stay whole.
        **frame: fields of `models.core.blocks.Frame`.

    Raises:
        ValueError: blocks that cannot be reversible.
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
        positions: Literal["sinusoidal", "learned", "none", "rotary"] = "sinusoidal",
        pair_head: Literal["concat", "nli"] = "concat",
        pair: bool = False,
        rate: float = 0.1,
        init: Start = "lecun",
        input: Literal["embedding", "linear"] = "embedding",
        pixels: tuple[float, float] | None = None,
        final_norm: bool = True,
        head: Literal["mlp", "linear", "gelu_mlp"] = "mlp",
        reversible: bool = False,
        remat: bool = False,
        window: int = 0,
        rngs: nnx.Rngs,
        **frame: Any,
    ):
        if init != "lecun" and init != "mega":
            rngs = InitialRngs(rngs.params(), init)
        self.frame = Frame(dim, mlp, rate, **frame)
        self.pool, self.reversible, self.remat = pool, reversible, remat
        self.vocab, self.pixels = vocab, pixels
        self.window = window if window < length else 0
        self.seen = seen = length + (pool == "cls")
        mixed = (self.window or length) + (pool == "cls")
        embedding = nnx.initializers.normal(embedding_std(init, dim))
        linear_input = input == "linear"
        self.embedding = None if linear_input else nnx.Embed(vocab, dim, embedding_init=embedding, rngs=rngs)
        self.input: Any = input_map(init, 1 if pixels else vocab, dim, rngs) if linear_input else None
        self.cls = nnx.Param(jnp.zeros((dim,))) if pool == "cls" else None
        learned = positions == "learned"
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (seen, dim))) if learned else None
        self.sinusoidal = positions == "sinusoidal"
        self.blocks = nnx.List(
            [self.frame.make_block(make_mixer(layer, dim, mixed, rngs), rngs) for layer in range(layers)]
        )
        if reversible:
            check_reversible(self.frame, self.blocks)
        self.norm = make_norm(self.frame.norm, dim, self.frame.norm_momentum, rngs) if final_norm else None
        self.pair = (pair_head if head == "mlp" else head) if pair else "none"
        activations: dict[str, Callable[[jax.Array], jax.Array]] = {
            "mlp": jax.nn.relu,
            "linear": gelu(self.frame.block),
            "gelu_mlp": partial(jax.nn.gelu, approximate=False),
        }
        self.activation = activations[head]
        self.head_rate = rate if head == "gelu_mlp" else 0.0
        hidden = {
            "mlp": [mlp, mlp // 2] if pair else [mlp],
            "linear": [dim] if pair else [],
            "gelu_mlp": [mlp],
        }[head]
        widths = [dim * len(_JOINED[self.pair](1.0, 1.0)), *hidden]
        self.head = nnx.List([head_map(init, a, b, True, rngs) for a, b in itertools.pairwise(widths)])
        self.classifier = head_map(init, widths[-1], classes, head != "gelu_mlp", rngs)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Token ids [B, L] → [B, L, D], without positions."""
        if self.embedding is not None:
            return embed(self.embedding.embedding[...], tokens)
        kernel, bias = self.input.kernel[...], self.input.bias[...]
        if self.pixels is None:
            return embed(kernel, tokens) + bias[None, None]
        mean, std = self.pixels
        value = ((tokens - 1).astype(jnp.float32) / (self.vocab - 2) - mean) / std
        # In float32: neighbouring grey levels are the same number in bfloat16.
        x = value[..., None] * kernel.astype(jnp.float32)[None] + bias.astype(jnp.float32)[None, None]
        return x.astype(kernel.dtype)

    def encode(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Encodes token ids [B, L] (0 is padding) under mask [B, L] into one vector per document, [B, D]."""
        if self.window:
            return self.encode_windows(tokens, mask, self.window, rngs=rngs)
        return self._pooled(*self.states(self.embed(tokens), mask, rngs))

    def states(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None, first: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the layers on embedded tokens, without pooling.

        Args:
            x: embedded tokens [B, L, D], without positions.
            mask: [B, L], of real tokens.
            rngs: for dropout; None: none.
            first: int32 [B], the position of each document's first token; None: 0.

        Returns:
            The states after the last norm [B, L, D] and their mask; with CLS pooling, [B, 1 + L], the CLS token first.
        """
        if self.cls is not None:
            front = jnp.broadcast_to(self.cls[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([front, x], axis=1)
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        if self.positions is not None:
            x = x + self._placed(self.positions[...], x.shape[1], first).astype(x.dtype)
        elif self.sinusoidal:
            length = x.shape[1] if first is None else self.seen
            x = x + self._placed(sinusoidal(length, x.shape[2]), x.shape[1], first).astype(x.dtype)
        if self.frame.feeds_forward:
            x = self.frame.drop(x, rngs)
        x = run_reversibly(self.blocks, x, mask, rngs) if self.reversible else self._run(x, mask, rngs)
        return (x if self.norm is None else self.norm(x, mask, rngs)), mask

    def _placed(self, table: jax.Array, count: int, first: jax.Array | None) -> jax.Array:
        """Rows of a table of positions: the first `count`, [1, count, D]; or from `first` [B] on, after the CLS's."""
        if first is None:
            return table[None]
        front = int(self.cls is not None)
        rows = jnp.arange(count)[None] + jnp.where(jnp.arange(count)[None] >= front, first[:, None], 0)
        return table[rows]

    def _pooled(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.pool == "cls":
            return x[:, 0]
        weight = mask.astype(jnp.float32)
        total = jnp.einsum("bl,bld->bd", weight, x, preferred_element_type=jnp.float32)
        return (total / jnp.maximum(weight.sum(1, keepdims=True), 1)).astype(x.dtype)

    def encode_windows(
        self, tokens: jax.Array, mask: jax.Array, size: int, first: int | None = None, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """`encode` with each document cut into windows of `size` tokens that see nothing of each other.

        The windows are separate sequences, whose tokens keep their positions. All states of a document are pooled
        together; with CLS pooling each window has a CLS token, and these are averaged.

        Args:
            tokens: token ids [B, L].
            mask: [B, L], of real tokens.
            size: tokens of a window.
            first: tokens of the first window, 1 to `size`; None: `size`.
            rngs: for dropout; None: none.
        """
        batch, length = tokens.shape
        lead = size - (first or size)
        count = -(-(lead + length) // size)
        rest = ((0, 0), (0, count * size - length - lead))

        def cut(array: jax.Array) -> jax.Array:
            gap = jnp.zeros((batch, lead), array.dtype)
            spread = jnp.concatenate([array[:, : size - lead], gap, array[:, size - lead :]], axis=1)
            return jnp.pad(spread, rest).reshape(batch * count, size)

        cut_tokens, cut_mask = cut(tokens), cut(mask)
        starts = jnp.maximum(size * jnp.arange(count) - lead, 0)
        x, seen = self.states(self.embed(cut_tokens), cut_mask, rngs, jnp.tile(starts, batch))
        x = jnp.where(seen[..., None], x, 0)  # a window of padding alone may give anything
        if self.pool == "cls":
            weight = cut_mask.any(1).reshape(batch, count, 1).astype(jnp.float32)
            total = (x[:, 0].reshape(batch, count, -1) * weight).sum(1)
            return (total / jnp.maximum(weight.sum(1), 1)).astype(x.dtype)
        return self._pooled(x.reshape(batch, count * size, -1), seen.reshape(batch, -1))

    def _run(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs all blocks, each with its own random key, so that a recomputed block draws the same."""

        def run(block: AnyBlock, x: jax.Array, key: jax.Array | None, carried: Any) -> tuple[jax.Array, Any]:
            return block(x, mask, None if rngs is None or key is None else with_key(rngs, key), carried)

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
        return self.classify(flat.reshape(batch, documents, -1), rngs)

    def classify(self, e: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The vectors of each example's documents [B, P, D] → logits float32 [B, classes]."""
        x = jnp.concatenate(_JOINED[self.pair](e[:, 0], e[:, -1]), axis=-1)
        for layer in self.head:
            x = self.activation(dropout(layer(x), self.head_rate, rngs))
        return self.classifier(x).astype(jnp.float32)


_JOINED: dict[str, Callable[[Any, Any], list[Any]]] = {
    "none": lambda e1, _: [e1],
    "concat": lambda e1, e2: [e1, e2],
    "nli": lambda e1, e2: [e1, e2, e1 * e2, e1 - e2],
    "linear": lambda e1, e2: [e1, e2, e1 - e2, e1 * e2],
    "gelu_mlp": lambda e1, e2: [e2, e1],
}
"""What a head sees of a document, or of a pair's two."""


def check_reversible(frame: Frame, blocks: nnx.List) -> None:
    """Raises ValueError if these blocks cannot be run reversibly."""
    if any(isinstance(block.mixer, CarryingMixer) for block in blocks):
        raise ValueError("a mixer that carries something from layer to layer cannot be reversible")
    if any(isinstance(block.mixer, UpdatingMixer) for block in blocks):
        raise ValueError("a mixer that updates the residual stream by a gate cannot be reversible")
    if frame.block != "mlp" or not frame.prenorm:
        raise ValueError("encoder.reversible needs encoder.block=mlp and encoder.prenorm=true")
    if jax.tree.leaves(nnx.state(blocks, nnx.BatchStat)):
        raise ValueError("encoder.reversible keeps no running statistics: use another norm than batch")
