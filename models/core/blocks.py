"""The blocks of the encoder: a mixer with a feed-forward, or with a gate, in a residual stream with norms.

Shapes: B batch, L length, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
from flax import nnx

from models.core.initial import Linear, small_map
from models.core.layers import dropout
from models.core.norms import NormKind, make_norm

BlockKind = Literal["mlp", "silu_mlp", "silu_glu", "gelu", "half_glu1", "half_glu2", "full_glu", "glu"]
"""What follows a mixer's output y; σ is the sigmoid, V and W are linear maps D → D with bias, and z = GELU(y):

- `mlp`: a feed-forward with a norm and a residual of its own, as in the Transformer;
- `silu_mlp`: as `mlp`, with SiLU for GELU and no dropout inside, from kernels N(0, 0.02²), as in MEGA
  (arXiv:2209.10655);
- `silu_glu`: as `mlp`, with SiLU(W_1 x) · W_2 x for what is inside (GLU Variants Improve Transformer, Shazeer 2020,
  arXiv:2002.05202), as in HGRN (arXiv:2311.04823);
- `gelu`: z;
- `half_glu1`: z · σ(W z);
- `half_glu2`: y · σ(W z);
- `full_glu`: V z · σ(W z). Language Modeling with Gated Convolutional Networks, Dauphin et al. 2017, arXiv:1612.08083;
- `glu`: as `full_glu`, as S4's code has it: exact GELU, which the others approximate by tanh, and a third dropout.

The gates are those of S4 (arXiv:2111.00396) and S5 (arXiv:2208.04933).
"""


class Mixer(Protocol):
    """Mixes positions: x [B, L, D] and the mask of real tokens [B, L] → [B, L, D]."""

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array: ...


@runtime_checkable
class CarryingMixer(Mixer, Protocol):
    """A mixer that also passes state to the next layer's mixer; the first layer's `carry` gets None."""

    def carry(
        self, x: jax.Array, mask: jax.Array, carried: Any, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, Any]: ...


@runtime_checkable
class UpdatingMixer(Mixer, Protocol):
    """A mixer that computes the new residual stream itself, as one with an update gate does.

    `update_stream` takes the stream and x, which is the stream's norm in a pre-norm block and the stream itself in a
    post-norm one, and returns the new stream, [B, L, D] all three. It draws its own dropout.
    """

    def update_stream(
        self, stream: jax.Array, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array: ...


@dataclass(frozen=True)
class Frame:
    """What all blocks of an encoder have in common; the recipe's fields of these names."""

    dim: int
    mlp: int
    rate: float = 0.1
    """Of dropout."""
    tied_dropout: bool = False
    norm: NormKind = "layer"
    norm_momentum: float = 0.9
    prenorm: bool = True
    block: BlockKind = "mlp"

    def drop(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Dropout of x [B, L, any]."""
        return dropout(x, self.rate, rngs, tied=self.tied_dropout)

    def make_block(self, mixer: Mixer, rngs: nnx.Rngs) -> Block | GatedBlock:
        """Builds a block around a mixer."""
        return (Block if self.feeds_forward else GatedBlock)(mixer, self, rngs=rngs)

    @property
    def feeds_forward(self) -> bool:
        """Whether blocks have a feed-forward, and no gate."""
        return self.block in ("mlp", "silu_mlp", "silu_glu")


def gelu(block: BlockKind) -> Callable[[jax.Array], jax.Array]:
    """The GELU of a kind of block."""
    return partial(jax.nn.gelu, approximate=block != "glu")


class Mlp(nnx.Module):
    """Position-wise feed-forward: D → hidden → D with GELU and dropout after each.

    In a `silu_mlp` SiLU takes GELU's place, and only the output is dropped: MEGA's hidden dropout is 0 in all its runs
    on the Long Range Arena. In a `silu_glu` the hidden units are SiLU(into(x)) · gate(x).
    """

    def __init__(self, frame: Frame, *, rngs: nnx.Rngs):
        self.frame = frame
        dense = small_map if frame.block == "silu_mlp" else Linear
        self.into = dense(frame.dim, frame.mlp, rngs=rngs)
        self.out = dense(frame.mlp, frame.dim, rngs=rngs)
        self.gate = Linear(frame.dim, frame.mlp, rngs=rngs) if frame.block == "silu_glu" else None

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        drop, hidden = self.frame.drop, self.into(x)
        if self.gate is not None:
            hidden = drop(jax.nn.silu(hidden) * self.gate(x), rngs)
        elif self.frame.block == "silu_mlp":
            hidden = jax.nn.silu(hidden)
        else:
            hidden = drop(jax.nn.gelu(hidden), rngs)
        return drop(self.out(hidden), rngs)


class Block(nnx.Module):
    """A block with a feed-forward: x + mixer(norm(x)), then x + mlp(norm(x)).

    With post-norm, norm(x + mixer(x)), then norm(x + mlp(x)). An `UpdatingMixer`'s new stream takes the place of the
    sum.
    """

    def __init__(self, mixer: Mixer, frame: Frame, *, rngs: nnx.Rngs):
        self.frame = frame
        self.norm_mixer = make_norm(frame.norm, frame.dim, frame.norm_momentum, rngs)
        self.mixer = mixer
        self.norm_mlp = make_norm(frame.norm, frame.dim, frame.norm_momentum, rngs)
        self.mlp = Mlp(frame, rngs=rngs)

    def mix(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """What a pre-norm block's mixer adds to the stream."""
        return self.frame.drop(self.mixer(self.norm_mixer(x, mask, rngs), mask, rngs), rngs)

    def feed(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """What a pre-norm block's feed-forward adds to the stream."""
        return self.mlp(self.norm_mlp(x, mask, rngs), rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None, carried: Any = None
    ) -> tuple[jax.Array, Any]:
        if self.frame.prenorm:
            x, carried = self.advance(x, self.norm_mixer(x, mask, rngs), mask, carried, rngs)
            return x + self.feed(x, mask, rngs), carried
        x, carried = self.advance(x, x, mask, carried, rngs)
        x = self.norm_mixer(x, mask, rngs)
        return self.norm_mlp(x + self.mlp(x, rngs), mask, rngs), carried

    def advance(
        self, stream: jax.Array, x: jax.Array, mask: jax.Array, carried: Any, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, Any]:
        """The stream after the mixer, whose input is x; and what the mixer carries."""
        if isinstance(self.mixer, UpdatingMixer):
            return self.mixer.update_stream(stream, x, mask, rngs), carried
        mixed, carried = call_mixer(self.mixer, x, mask, carried, rngs)
        return stream + self.frame.drop(mixed, rngs), carried


class GatedBlock(nnx.Module):
    """A block without feed-forward: x + gate(mixer(norm(x))); with post-norm, norm(x + gate(mixer(x))).

    The gate takes what an `UpdatingMixer` would add to the stream: its new stream less the old one.

    Parameters: `gate` (W of `BlockKind`) and `value` (V), where the kind has them.
    """

    def __init__(self, mixer: Mixer, frame: Frame, *, rngs: nnx.Rngs):
        self.frame = frame
        self.norm_mixer = make_norm(frame.norm, frame.dim, frame.norm_momentum, rngs)
        self.mixer = mixer
        kind, dim = frame.block, frame.dim
        self.value = Linear(dim, dim, rngs=rngs) if kind in ("full_glu", "glu") else None
        self.gate = None if kind == "gelu" else Linear(dim, dim, rngs=rngs)

    def apply_gate(self, y: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """The mixer's output y [B, L, D] through GELU and gate, with dropout."""
        kind, drop = self.frame.block, self.frame.drop
        if kind == "glu":
            y = drop(y, rngs)
        z = drop(gelu(kind)(y), rngs)
        if self.gate is None:
            return z
        values = y if kind == "half_glu2" else z if self.value is None else self.value(z)
        return drop(values * jax.nn.sigmoid(self.gate(z)), rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None, carried: Any = None
    ) -> tuple[jax.Array, Any]:
        into = self.norm_mixer(x, mask, rngs) if self.frame.prenorm else x
        if isinstance(self.mixer, UpdatingMixer):
            mixed = self.mixer.update_stream(x, into, mask, rngs) - x
        else:
            mixed, carried = call_mixer(self.mixer, into, mask, carried, rngs)
        x = x + self.apply_gate(mixed, rngs)
        return (x if self.frame.prenorm else self.norm_mixer(x, mask, rngs)), carried


def call_mixer(
    mixer: Mixer, x: jax.Array, mask: jax.Array, carried: Any, rngs: nnx.Rngs | None
) -> tuple[jax.Array, Any]:
    """A mixer's output [B, L, D] and what it carries to the next layer; `carried` itself where it carries nothing."""
    if isinstance(mixer, CarryingMixer):
        return mixer.carry(x, mask, carried, rngs)
    return mixer(x, mask, rngs), carried
