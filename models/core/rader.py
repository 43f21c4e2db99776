"""Fourier transforms along a length with one large prime factor, by Rader's algorithm.

A CLS token makes a round length awkward: 4,097 is 17 · 241 and 4,001 a prime, for which a fast Fourier transform takes
4 to 10 times as long as for the length before. But a prime less one has small factors again, often. With L = m p:

1. Good's mapping (I. J. Good 1958, The interaction algorithm and practical Fourier analysis): as m and p have no common
   factor, a transform of L positions is one of m × p in two dimensions, of reordered positions, without twiddles.
2. Rader's (C. M. Rader 1968, Discrete Fourier transforms when the number of data samples is prime): the numbers 1 to
   p − 1 are powers g^q of a generator, so that a transform of p is a cyclic convolution of p − 1 positions,

       X[0] = Σ_n x[n],  X[g^−q] = x[0] + Σ_r x[g^r] ω^(g^−(q − r)),  ω = exp(−2πi / p)

   which transforms of length p − 1 compute.

All is exact to rounding, with errors like the library's own.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEAST_LENGTH, LEAST_PRIME = 3_200, 100
"""Below these, XLA's own transform is as fast. On 2 cores, batch 2 and 64 features, FNet's mixing takes 3.5 ms by XLA's
and 1.7 by this at 4,097 positions, but 0.6 and 1.6 at 2,049."""
MOST_FACTOR = 31
"""Largest prime factor of p − 1: one that transforms of that length handle well."""


class Plan(NamedTuple):
    """How to transform a length L = m p; `order` and `place` are permutations int32 [L]."""

    order: np.ndarray
    """Where each position of the two dimensions, m × (p − 1) and then m, comes from."""
    place: np.ndarray
    """Where each frequency is found."""
    kernel: np.ndarray
    """Transform of ω^(g^−q), complex64 [p − 1]."""


def factors(n: int) -> list[int]:
    """Prime factors in ascending order."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return [*found, n] if n > 1 else found


@functools.cache
def plan(length: int) -> Plan | None:
    """The plan for a length; None where the library's transform is as fast."""
    large = factors(length)[-1] if length > 1 else 1
    if length < LEAST_LENGTH or large < LEAST_PRIME or max(factors(large - 1)) > MOST_FACTOR:
        return None
    return None if length // large % large == 0 else make_plan(length, large)


def make_plan(length: int, p: int) -> Plan:
    """The plan for a prime p that divides `length` once."""
    m = length // p
    g = next(g for g in range(2, p) if all(pow(g, (p - 1) // q, p) != 1 for q in set(factors(p - 1))))
    powers = np.array([pow(g, q, p) for q in range(p - 1)])
    inverse = np.roll(powers[::-1], 1)  # g^−q
    row = np.arange(m)[:, None]

    def reordered(of_row: int, of_column: int, columns: np.ndarray) -> np.ndarray:
        """Positions of m × (p − 1), and then of the m whose second coordinate is 0."""
        grid = (of_row * row + of_column * columns[None]) % length
        return np.concatenate([grid.ravel(), (of_row * row[:, 0]) % length])

    order = reordered(p, m, powers)
    frequency = reordered(p * pow(p, -1, m) if m > 1 else 0, m * pow(m, -1, p), inverse)
    place = np.empty(length, np.int32)
    place[frequency] = np.arange(length)
    kernel = np.fft.fft(np.exp(-2j * np.pi * inverse / p))
    return Plan(order.astype(np.int32), place, kernel.astype(np.complex64))


def real_of_transform(x: jax.Array, plan: Plan) -> jax.Array:
    """Computes Re(F_L x) along the last axis, in the order that `plan.place` undoes.

    Args:
        x: complex64 [..., L], its positions in the plan's `order`.
        plan: the plan for L.

    Returns:
        float32 [..., L]; frequency k is at `plan.place[k]`.
    """
    length, prime_less_one = x.shape[-1], len(plan.kernel)
    rows = length // (prime_less_one + 1)
    count = rows * prime_less_one
    grid, first = x[..., :count].reshape(*x.shape[:-1], rows, prime_less_one), x[..., count:]
    if rows > 1:
        grid, first = jnp.fft.fft2(grid), jnp.fft.fft(first)
    else:
        grid = jnp.fft.fft(grid)
    kernel = plan.kernel.reshape(*[1] * (grid.ndim - 1), -1)
    convolved = jnp.fft.ifft(grid * kernel).real + first.real[..., None]
    total = first.real + grid[..., 0].real
    return jnp.concatenate([convolved.reshape(*x.shape[:-1], count), total], axis=-1)
