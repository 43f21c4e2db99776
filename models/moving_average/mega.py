"""MEGA: attention with gates, to what a moving average over positions gives it."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.block_attention import pad_length
from models.core.flash_attention import draw_dropout_seeds
from models.core.initial import small_map
from models.core.layers import at_least, dropout
from models.core.moving_average import ComplexMovingAverage, MovingAverage
from models.core.relative_attention import Dropping, RotaryBias, SimpleBias, Weights, attend_relative
from models.core.state_space import real_inputs

AVERAGES = {"real": MovingAverage, "complex": ComplexMovingAverage}


class Mega(nnx.Module):
    """Mega: Moving Average Equipped Gated Attention.

    Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer 2022, arXiv:2209.10655, section 3. With x the normed residual
    stream, s the stream itself, σ the sigmoid, and W, U, V linear maps with bias:

        m = silu(EMA(x)),  z, r = silu(W m),  u = σ(W m),  v = silu(V x)
        q, k = z ⊙ γ_1 + β_1, z ⊙ γ_2 + β_2,  o_i = Σ_j w_ij v_j
        h = silu(W m + U (o ⊙ r)),  s ← s + u ⊙ (h − s)

    EMA is a damped moving average of N modes from both sides, as a convolution; a position itself counts in both, as in
    the authors' code. With ema=complex it is Megalodon's CEMA (Ma et al. 2024, arXiv:2404.08801):

        EMA(x)_t = Σ_{l ≥ 0} (k_l x_{t−l} + k'_l x_{t+l}) + ω x_t
        real: k_l = Σ_n σ(δ_n) β_n γ_n (1 − σ(δ_n) σ(α_n))^l / √N
        complex: k_l = Re Σ_n σ(α_n) γ_n ((1 − σ(α_n) σ(δ_n)) exp(2πi n σ(θ) / N))^l / √N

    Attention has one head, and a term b for each distance in its scores. Laplace weights, which the paper takes for
    pixels, are no distribution: n is the number of real keys, and nothing divides their sum.

        softmax: w_ij = softmax_j(q_i·k_j / √Z + b_{j−i})
        laplace: w_ij = ½ (1 + erf((q_i·k_j / n + b_{j−i} − √½) / √(1 / 2π)))

    The encoder's blocks call `update_stream`, since the gate weighs the stream, which a mixer does not see otherwise;
    `__call__` takes x for s and returns u ⊙ (h − x). Blocks that use it cannot be reversible.

    Time L², memory L: the L×L weights are computed in tiles, and again in the backward pass; averages take L·log L, in
    float32. Masked inputs are zero before they are averaged, and no key, so padding changes no logit. `encoder.heads`
    and `encoder.qkv` do not apply.

    The defaults of z and hidden give the maps the 4·D² parameters of attention; the averages add (8 N + 1)·D, and
    `bias=simple` 2 L − 1. The paper has hidden = 2·D, and on the Long Range Arena z of 32 to 96: z=64,hidden=256 for
    Text. There it cuts kernels off at 1,024 lags (truncation=1024; 4,096 on Path-X).

    Parameters, with Z = z and V = hidden, all maps N(0, 0.02²) with biases of 0, whatever `encoder.init` says:
        average: `delta` and `alpha` [2, D, N] for both directions, N(0, 0.2²), role `A`; `beta` [2, D, N], 1, −1, 1, …
            plus N(0, 0.02²), role `B`; `gamma` [2, D, N], N(0, 1), role `C`; `omega` [D], N(0, 1). With ema=complex no
            `beta`; `theta` [2, D], so that σ(θ) is D^(−i/D) for i = 1 … D in random order, role `A`; `gamma`
            [2, D, N, 2], its imaginary part 0; `omega` N(0, 0.25²).
        value [D, V]: V. base [D, D + Z + V + D]: W, to u, z, r and h in this order. out [V, D]: U.
        gain [2, Z]: γ, N(0, 0.02²). offset [2, Z]: β, 0 at first.
        bias: `table` [2 L − 1], or `alpha` and `beta` [Z] each with b_{j−i} = rotate_i(α)·rotate_j(β); N(0, 0.02²).

    Departures. `encoder.dropout` falls on m and on h, as in the authors' code, but is not tied along positions where
    `encoder.tied_dropout` is set; attention dropout falls on the weights; the code's third, on v, is 0 in all its runs
    and is left out. A query without any key gets zeros; in the code, all of the padding. With ema=complex only the
    average is Megalodon's, here from both sides; its own block norms the average instead of taking its SiLU, has heads,
    and no update gate.

    Args:
        dim: D.
        length: the greatest L.
        z: width of queries and keys; None: half of D, rounded down to an even number, and at least 2.
        hidden: width of the values; None: half of D.
        modes: N.
        truncation: lags of the averages' kernels; None: all.
        ema: 'real', or 'complex' for Megalodon's.
        attention: what makes weights of scores: 'softmax' or 'laplace'.
        bias: 'simple', a learned number for each distance, or 'rotary', which needs an even z.
        dropout: of the attention's weights.
        residual_dropout: of m and h.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: an option that is not listed, or a width, number or rate that is out of range.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        z: int | None = None,
        hidden: int | None = None,
        modes: int = 16,
        truncation: int | None = None,
        ema: Literal["real", "complex"] = "real",
        attention: Weights = "softmax",
        bias: Literal["simple", "rotary"] = "simple",
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        z = max(2, dim // 4 * 2) if z is None else z
        hidden = max(1, dim // 2) if hidden is None else hidden
        at_least(1, z=z, hidden=hidden)
        _one_of("ema", ema, tuple(AVERAGES))
        _one_of("attention", attention, ("softmax", "laplace"))
        _one_of("bias", bias, ("simple", "rotary"))
        for name, rate in (("dropout", dropout), ("residual_dropout", residual_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {rate}")
        self.z, self.hidden, self.attention = z, hidden, attention
        self.rate, self.residual_rate = dropout, residual_dropout
        self.average = AVERAGES[ema](dim, modes, truncation, rngs=rngs)
        self.value = small_map(dim, hidden, rngs=rngs)
        self.base = small_map(dim, 2 * dim + z + hidden, rngs=rngs)
        self.out = small_map(hidden, dim, rngs=rngs)
        self.gain = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2, z)))
        self.offset = nnx.Param(jnp.zeros((2, z)))
        self.bias = RotaryBias(z, rngs=rngs) if bias == "rotary" else SimpleBias(length, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        gate, h = self.candidate(x, mask, rngs)
        return gate * (h - x)

    def update_stream(
        self, stream: jax.Array, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """The stream after the update gate; all [B, L, D]."""
        gate, h = self.candidate(x, mask, rngs)
        return stream + gate * (h - stream)

    def candidate(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> tuple[jax.Array, jax.Array]:
        """u and h, [B, L, D] each."""
        m = jax.nn.silu(self.average(real_inputs(x, mask))).astype(x.dtype)
        dim = x.shape[-1]
        base = self.base(dropout(m, self.residual_rate, rngs))
        u, z, r, h = jnp.split(base, [dim, dim + self.z, dim + self.z + self.hidden], -1)
        z = jax.nn.silu(z)
        gains, offsets = self.gain[...].astype(x.dtype), self.offset[...].astype(x.dtype)
        q, k = (z * gains[i][None, None] + offsets[i][None, None] for i in range(2))
        o = self.attend(q, k, jax.nn.silu(self.value(x)), mask, self._dropping(mask, rngs))
        h = jax.nn.silu(h + self.out(o * jax.nn.silu(r)))
        return jax.nn.sigmoid(u), dropout(h, self.residual_rate, rngs)

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, dropping: Dropping | None) -> jax.Array:
        """Attention over all positions of each document: [B, L, V]."""
        return attend_relative(self.attention, q, k, v, mask, self.bias(mask.shape[1]), dropping)

    def _dropping(self, mask: jax.Array, rngs: nnx.Rngs | None) -> Dropping | None:
        seeds = draw_dropout_seeds(mask.shape, mask.shape, self.rate, rngs)
        return None if seeds is None else Dropping(self.rate, *seeds)


class MegaChunk(Mega):
    """MEGA-chunk: `mega` with attention inside blocks of positions, and its averages across them.

    Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer 2022, arXiv:2209.10655, section 3: positions i and j attend to
    each other where ⌊i / chunk⌋ = ⌊j / chunk⌋. Time L·chunk + L·log L, memory L. `bias=simple` has 2·chunk − 1
    parameters, and with `laplace` q·k is divided by the number of real keys of the block. The last block is shorter
    where `chunk` does not divide L; the authors' code pads it. The paper has chunks of 128, and 4,096 on Path-X.
    All else, options included, as in `mega`.

    Args:
        dim: D.
        length: the greatest L; a longer chunk is this long.
        chunk: positions in a block.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: chunk below 1, or as in `mega`.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        chunk: int = 128,
        z: int | None = None,
        hidden: int | None = None,
        modes: int = 16,
        truncation: int | None = None,
        ema: Literal["real", "complex"] = "real",
        attention: Weights = "softmax",
        bias: Literal["simple", "rotary"] = "simple",
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        at_least(1, chunk=chunk)
        self.chunk = min(chunk, length)
        super().__init__(
            dim, self.chunk, z=z, hidden=hidden, modes=modes, truncation=truncation, ema=ema, attention=attention,
            bias=bias, dropout=dropout, residual_dropout=residual_dropout, rngs=rngs,
        )  # fmt: skip

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, dropping: Dropping | None) -> jax.Array:
        """Attention inside blocks: [B, L, V]."""
        batch, length = mask.shape
        chunk = min(self.chunk, length)

        def cut(x: jax.Array) -> jax.Array:
            return pad_length(x, chunk).reshape(-1, chunk, *x.shape[2:])

        if dropping is not None:
            dropping = Dropping(dropping.rate, cut(dropping.queries), cut(dropping.keys))
        o = attend_relative(self.attention, cut(q), cut(k), cut(v), cut(mask), self.bias(chunk), dropping)
        return o.reshape(batch, -1, self.hidden)[:, :length]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
