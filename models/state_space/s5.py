"""S5: one diagonal state space for all features, run as a scan."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.state_space import hippo, log_steps, real_inputs, scan_system, to_complex, to_pairs


def initial_basis(state: int, blocks: int, conj_sym: bool) -> tuple[np.ndarray, np.ndarray]:
    """Λ [P'] and the eigenvectors V [P, P'] of `blocks` copies of HiPPO-N side by side; P' = P/2 with conj_sym, else P.

    Raises:
        ValueError: the state cannot be cut into so many blocks, or a block not into conjugate pairs.
    """
    if blocks < 1 or state < blocks or state % blocks or (conj_sym and state // blocks % 2):
        raise ValueError(f"state ({state}) must have {blocks} blocks" + (" of even size" if conj_sym else ""))
    size = state // blocks
    a, vectors, _ = hippo(size)
    kept = slice(size // 2 if conj_sym else 0, None)
    return np.tile(a[kept], blocks), np.kron(np.eye(blocks), vectors[:, kept])


class S5(nnx.Module):
    """Simplified State Space Layers for Sequence Modeling.

    Smith, Warrington, Linderman 2022, arXiv:2208.04933, sections 3 and 4. All features drive one state of P modes:

        h_t = Λ̄ h_{t−1} + B̄ u_t,  y_t = 2 Re(C h_t) + D u_t,    Λ̄ = e^{ΛΔ},  B̄ = Λ⁻¹(Λ̄ − 1) B

    Time L·P·D, memory L·P: the states are formed, by a scan. With `bidirectional` the same system also runs from the
    end, and C has columns for both states, each of which includes position t. Masked inputs are zero before mixing, so
    padding changes no logit, and a hole is read as a zero; the authors' code lets the state that comes from the end
    read padding. The whole mixer computes in float32, its products with B and C too. Attention dropout does not apply.

    Departs from the authors' code: e^{ΛΔ} − 1 without cancellation, and of each conjugate pair the mode with positive
    frequency is kept, which is the same function.

    Parameters, with P' = P/2 modes (P without conj_sym), H features, K = 1 or 2 directions:
        decay [P']: Re Λ (`Lambda_re`); used as it is, so that a mode can come to grow, unless clip_eigs. Role `A`.
        frequency [P']: Im Λ (`Lambda_im`). Role `A`.
        log_step [P']: ln Δ (`log_step`, there [P', 1]), drawn uniformly from [ln step_min, ln step_max]. Role `step`.
        into [P', H, 2]: B, real and imaginary part (`B`). Role `B`.
        out [K, H, P', 2]: C (`C`, or `C1` and `C2`); out[1] reads the state that comes from the end. Role `C`.
        skip [H]: D (`D`), drawn from N(0, 1).

    Args:
        dim: H.
        length: not used.
        state: P, both halves of the conjugate pairs.
        blocks: J; Λ starts as J copies of the eigenvalues of HiPPO-N of size P / J, and V is block-diagonal.
        c_init: what C starts from: C₀V with both parts of C₀ [H, P] N(0, 1 / (P H)) (lecun: its fan-in counts H too)
            or N(0, 1 / P) (trunc), truncated at two standard deviations, or both parts of C N(0, ½) (complex). B starts
            as V* B₀, with B₀ real [P, H] N(0, 1 / P), truncated too.
        conj_sym: keeps one mode of each conjugate pair, and doubles the real part; else keeps all.
        clip_eigs: Re Λ is at most −10⁻⁴ where it is used.
        bidirectional: whether positions see what follows.
        step_min: smallest initial Δ.
        step_max: largest initial Δ.
        step_rescale: multiplies Δ: 2 for an input of half the resolution.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: an option has no such value, or the state does not fit the blocks.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        state: int = 64,
        blocks: int = 1,
        c_init: Literal["lecun", "trunc", "complex"] = "lecun",
        conj_sym: bool = True,
        clip_eigs: bool = False,
        bidirectional: bool = True,
        step_min: float = 1e-3,
        step_max: float = 0.1,
        step_rescale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        a, vectors = initial_basis(state, blocks, conj_sym)
        basis, modes = jnp.asarray(vectors, jnp.complex64), len(a)
        self.conj_sym, self.clip_eigs, self.step_rescale = conj_sym, clip_eigs, step_rescale
        self.decay = nnx.Param(jnp.asarray(a.real, jnp.float32), role="A")
        self.frequency = nnx.Param(jnp.asarray(a.imag, jnp.float32), role="A")
        self.log_step = nnx.Param(log_steps(rngs.params(), modes, step_min, step_max), role="step")
        real = nnx.initializers.lecun_normal()(rngs.params(), (state, dim))
        self.into = nnx.Param(to_pairs(basis.conj().T @ real.astype(jnp.complex64)), role="B")
        directions = [_readout(rngs.params(), c_init, dim, basis) for _ in range(1 + bidirectional)]
        self.out = nnx.Param(jnp.stack(directions), role="C")
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (dim,)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        u = real_inputs(x, mask)
        decay = self.decay[...].astype(jnp.float32)
        if self.clip_eigs:
            decay = jnp.minimum(decay, -1e-4)
        a = jax.lax.complex(decay, self.frequency[...].astype(jnp.float32))
        step = self.step_rescale * jnp.exp(self.log_step[...].astype(jnp.float32))
        rate = a * step.astype(jnp.complex64)
        into = (jnp.expm1(rate) / a)[:, None] * to_complex(self.into[...])
        y = scan_system(u, jnp.exp(rate), into, (1 + self.conj_sym) * to_complex(self.out[...]))
        return (y + self.skip[...].astype(jnp.float32)[None, None, :] * u).astype(x.dtype)


def _readout(key: jax.Array, c_init: str, dim: int, basis: jax.Array) -> jax.Array:
    """One direction's C, float32 [H, P', 2], for eigenvectors `basis` [P, P']."""
    state, modes = basis.shape
    match c_init:
        case "lecun" | "trunc":
            inputs = state * dim if c_init == "lecun" else state
            draw = nnx.initializers.truncated_normal(inputs**-0.5 / _TRUNCATED)
            return to_pairs(to_complex(draw(key, (dim, state, 2))) @ basis)
        case "complex":
            return 0.5**0.5 * jax.random.normal(key, (dim, modes, 2))
    raise ValueError(f"c_init must be lecun, trunc or complex, not {c_init}")


_TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal number that is drawn anew while it is outside ±2."""
