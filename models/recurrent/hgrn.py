"""HGRN: a gated linear recurrence of complex states, whose forget gates have a lower bound that grows with depth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.layers import LayerNorm
from models.core.linear_scan import Pair, linear_scan


class HGRN(nnx.Module):
    """Hierarchically Gated Recurrent Neural Network for Sequence Modeling.

    Qin, Yang, Zhong 2023, arXiv:2311.04823, section 3. With K complex states:

        c_t = silu(W_r x_t + b_r) + i silu(W_i x_t + b_i),  λ_t = γ + (1 − γ) ⊙ σ(W_λ x_t + b_λ)
        h_t = λ_t e^{iθ} ⊙ h_{t−1} + (1 − λ_t) ⊙ c_t
        output = W_o (LayerNorm[Re h, Im h] ⊙ silu(W_g x + b_g)) + b_o

    γ of layer n is Σ_{m < n} P_m, where P = softmax(Γ) over the layers, for each state: 0 in the first layer, and
    larger in each that follows, which so remembers longer. Γ is shared: the first layer owns it, and the encoder passes
    γ and P on from layer to layer; it calls `carry` where a mixer has it. `__call__` is the mixing of the first layer
    alone, with γ = 0. Time L·H·K, memory L·K: the states are formed, by a scan.

    With `bidirectional` the recurrence also runs from the end, with the same parameters but a θ of its own, and both h
    are added before the norm, as in the module that the authors took for Long Range Arena (with one θ for both, the
    mixer would be its own mirror image); without it, the mixer is causal. Masked positions leave the state as it is in
    either direction, so padding changes no logit, and a hole is as if it were not there. Gates, states and norm are
    float32, projections in x's type. Attention dropout does not apply.

    Parameters, with H features; linear maps start as the recipe's:
        content.kernel [H, 2 K], content.bias [2 K]: W_r and W_i.
        forget.kernel [H, K], forget.bias [K]: W_λ.
        phase [K], with `bidirectional` [2, K]: θ, 10000^(−2k/K) for k = 0 … K − 1 at first. Role `A`.
        bounds [layers, K]: Γ, 0 at first, which makes γ = n / layers; in the first layer only. Role `A`.
        gate.kernel [H, 2 K], gate.bias [2 K]: W_g.
        norm.scale, norm.bias [2 K].
        out.kernel [2 K, H], out.bias [H]: W_o.

    Departures: the paper has K = H (`expand=1`), 7·H² parameters a mixer; the default makes 3.9·H², as attention has
    4·H². The norm stands before the gate, as in the authors' code, where the paper's equation has it behind. The
    paper's feed-forward is a GLU; ours is the encoder's block. Its results for pictures are those of a variant in two
    dimensions, which this is not.

    Args:
        dim: H.
        length: not used.
        layer: number of the layer, from 0.
        layers: how many there are.
        expand: K / H; K is rounded.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `expand` is too small for one state; or, when called, a later layer has nothing carried to it.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        layer: int = 0,
        layers: int = 1,
        expand: float = 0.5625,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        states = round(expand * dim)
        if states < 1:
            raise ValueError(f"expand ({expand}) times dim ({dim}) must be at least 1")
        self.content = Linear(dim, 2 * states, rngs=rngs)
        self.forget = Linear(dim, states, rngs=rngs)
        phase = 10_000.0 ** (-2 / states * jnp.arange(states, dtype=jnp.float32))
        self.phase = nnx.Param(jnp.tile(phase, (2, 1)) if bidirectional else phase, role="A")
        self.bounds = nnx.Param(jnp.zeros((layers, states)), role="A") if layer == 0 else None
        self.gate = Linear(dim, 2 * states, rngs=rngs)
        self.norm = LayerNorm(2 * states, rngs=rngs)
        self.out = Linear(2 * states, dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.carry(x, mask, None, rngs)[0]

    def carry(
        self, x: jax.Array, mask: jax.Array, carried: Pair | None, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, Pair]:
        """x [B, L, H] and what the previous layer carries (None in the first) → the mixed x, and what goes on.

        That is γ of the layer [K], and P [layers, K], rolled so that its first row is what the layer adds to γ: with
        it, all layers but the first are the same program.
        """
        if carried is None:
            if self.bounds is None:
                raise ValueError("a later layer of hgrn needs the lower bounds of the previous layer")
            shares = jax.nn.softmax(self.bounds[...].astype(jnp.float32), axis=0)
            carried = jnp.zeros_like(shares[0]), shares
        bound, shares = carried
        return self._mix(x, mask, bound), (bound + shares[0], jnp.roll(shares, -1, 0))

    def _mix(self, x: jax.Array, mask: jax.Array, bound: jax.Array) -> jax.Array:
        x = jnp.where(mask[..., None], x, 0)
        decay, b = self._recurrence(x, mask, bound)
        forward, *backward = jnp.atleast_2d(self.phase[...].astype(jnp.float32))
        re, im = linear_scan(_rotated(decay, forward, mask), b)
        for phase in backward:
            back = linear_scan(_rotated(decay, phase, mask), b, reverse=True)
            re, im = re + back[0], im + back[1]
        normed = self.norm(jnp.concatenate([re, im], -1))
        mixed: jax.Array = self.out((normed * jax.nn.silu(self.gate(x).astype(jnp.float32))).astype(x.dtype))
        return mixed

    def _recurrence(self, x: jax.Array, mask: jax.Array, bound: jax.Array) -> tuple[jax.Array, Pair]:
        """λ [B, L, K]; and (1 − λ) c, real and imaginary part, for x [B, L, H] and γ [K]: 0 where `mask` is False."""
        real = mask[..., None]
        content = jax.nn.silu(self.content(x).astype(jnp.float32))
        gate, rest = self.forget(x).astype(jnp.float32), (1 - bound)[None, None, :]
        decay = bound[None, None, :] + rest * jax.nn.sigmoid(gate)
        fresh = rest * jax.nn.sigmoid(-gate)  # 1 − λ, exactly, also where λ rounds to 1
        re, im = jnp.split(jnp.where(real, jnp.tile(fresh, 2) * content, 0), 2, axis=-1)
        return decay, (re, im)


def _rotated(decay: jax.Array, phase: jax.Array, mask: jax.Array) -> Pair:
    """λ e^{iθ} for λ [B, L, K] and θ [K]: 1 where `mask` is False."""
    real, phase = mask[..., None], phase[None, None, :]
    return jnp.where(real, decay * jnp.cos(phase), 1), jnp.where(real, decay * jnp.sin(phase), 0)
