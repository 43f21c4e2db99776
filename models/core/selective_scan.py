"""The recurrence of Mamba, whose decay, input and read-out depend on the position, without keeping its states.

Shapes: B examples, L positions, E features with N states each; c positions of a chunk.

The states [B, L, E, N] are N times as large as what goes in and comes out. They exist for one chunk of about √L
positions at a time: the first state of each chunk is kept, and the backward pass recomputes the rest (Chen et al. 2016,
arXiv:1604.06174), in memory of about 2 √L states instead of L.

Measured on two CPU cores, forward and with gradients, 2 examples of 16,384 positions, 80 features with 16 states:
44 and 226 ms one position after the other, with temporaries of 47 MiB, where all states have 160. With powers, products
and read-out of a chunk taken out of its loop, 79 and 322 ms. How long passes take on an accelerator is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from models.core.linear_scan import Method

ENTRIES = 2**24
"""States [c, B, E, N] of a chunk on accelerators, which want few and large operations: 64 MB, some ten times over."""

Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""x and step [..., E], into and out [..., N], as `selective_scan` says."""

Carry = tuple[jax.Array, list[jax.Array]]
"""What a chunk needs of those before it: the state [B, E, N], and the positions that it looks back to."""


def selective_scan(
    project: Callable[..., Inputs],
    xs: Sequence[jax.Array],
    rate: jax.Array,
    skip: jax.Array,
    *,
    behind: int = 0,
    method: Method | None = None,
) -> jax.Array:
    """Computes h_t = e^{step_t rate} h_{t−1} + step_t x_t into_t, from h = 0, and y_t = out_t · h_t + skip ⊙ x_t.

    x [E], step [E], into [N] and out [N] of each position are what `project` makes of `xs`. A position whose step is 0
    leaves the state as it is.

    Args:
        project: from `xs` at the positions of a chunk, and the `behind` positions before it, [behind + c, B, ...] each,
            to x and step [c, B, E], and into and out [c, B, N], of any floating-point type. Nothing that it computes is
            kept either. Where `xs` are zero, as before the first position and where they fill up the last chunk, what
            it gives must be finite, and the step 0.
        xs: arrays [B, L, ...].
        rate: float32 [E, N], negative.
        skip: float32 [E].
        behind: how many positions before its own one of `project`'s results depends on.
        method: as in `linear_scan`, for a chunk.

    Returns:
        y float32 [B, L, E].
    """
    if method is None:
        method = "loop" if jax.default_backend() == "cpu" else "passes"
    batch, length = xs[0].shape[:2]
    rows = chunk_rows(method, length, batch * rate.size)
    chunks = -(-length // rows)

    def cut(v: jax.Array) -> jax.Array:
        """[B, L, ...] → [chunks, c, B, ...], padded with zeros."""
        padded = jnp.pad(v, ((0, 0), (0, chunks * rows - length), *((0, 0) for _ in v.shape[2:])))
        return padded.swapaxes(0, 1).reshape(chunks, rows, batch, *v.shape[2:])

    @partial(jax.checkpoint, prevent_cse=False)
    def advance(carry: Carry, chunk: list[jax.Array]) -> tuple[Carry, jax.Array]:
        h, before = carry
        seen = [jnp.concatenate(parts) for parts in zip(before, chunk, strict=True)]
        x, step, into, out = (v.astype(jnp.float32) for v in project(*seen))
        h, y = {"loop": _one_by_one, "passes": _at_once}[method](rate, h, (x, step, into, out))
        return (h, [v[v.shape[0] - behind :] for v in seen]), y + skip[None, None, :] * x

    cuts = [cut(v) for v in xs]
    start = (
        jnp.zeros((batch, *rate.shape), jnp.float32),
        [jnp.zeros((behind, *v.shape[2:]), v.dtype) for v in cuts],
    )
    y = lax.scan(advance, start, cuts)[1]
    return y.reshape(chunks * rows, batch, rate.shape[0])[:length].swapaxes(0, 1)


def chunk_rows(method: Method, length: int, states: int) -> int:
    """Positions of a chunk, as even as possible: √L, for which states at the starts and in a chunk are equally many.

    In passes at least as many as make ENTRIES entries.

    Args:
        method: of a chunk.
        length: L.
        states: entries [B, E, N] of a position.
    """
    rows = math.isqrt(length - 1) + 1
    if method == "passes":
        rows = min(length, max(rows, ENTRIES // states))
    return -(-length // -(-length // rows))


def _one_by_one(rate: jax.Array, h: jax.Array, chunk: Inputs) -> tuple[jax.Array, jax.Array]:
    """From the state [B, E, N] before a chunk, the state after it and its outputs [c, B, E]."""

    def advance(h: jax.Array, now: Inputs) -> tuple[jax.Array, jax.Array]:
        decay, driven, out = _terms(rate, *now)
        h = decay * h + driven
        return h, (h * out).sum(-1)

    return lax.scan(advance, h, chunk)


def _at_once(rate: jax.Array, h: jax.Array, chunk: Inputs) -> tuple[jax.Array, jax.Array]:
    """As `_one_by_one`, in about 2 log₂ c passes over all states of the chunk."""
    decay, driven, out = _terms(rate, *chunk)
    states = _recur(decay, driven, h)
    return states[-1], (states * out).sum(-1)


def _terms(
    rate: jax.Array, x: jax.Array, step: jax.Array, into: jax.Array, out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """e^{step rate} and step x into [..., B, E, N], and out [..., B, 1, N]."""
    over = rate.reshape((1,) * (step.ndim - 1) + rate.shape)
    return jnp.exp(step[..., None] * over), (step * x)[..., None] * into[..., None, :], out[..., None, :]


@jax.custom_vjp
def _recur(a: jax.Array, b: jax.Array, h: jax.Array) -> jax.Array:
    """h_t = a_t h_{t−1} + b_t along the first axis, from h before it; the gradient is that of `linear_scan`."""

    def combine(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    states: jax.Array = lax.associative_scan(combine, (a, b.at[0].add(a[0] * h)))[1]
    return states


def _recur_forward(a: jax.Array, b: jax.Array, h: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    states = _recur(a, b, h)
    return states, (a, states, h)


def _recur_backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, states, h = saved
    following = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    r = _recur(following[::-1], g[::-1], jnp.zeros_like(h))[::-1]
    return r * jnp.concatenate([h[None], states[:-1]]), r, a[0] * r[0]


_recur.defvjp(_recur_forward, _recur_backward)
