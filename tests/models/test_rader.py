"""Transforms by Rader's algorithm, against the sum that defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core import rader
from models.mixing.fnet import fourier_fft, fourier_matmul
from tests.helpers.mixing import error, normal


def transformed(x, plan):
    y = np.asarray(rader.real_of_transform(x[..., plan.order], plan))
    return y[..., plan.place]


@pytest.mark.parametrize("length, prime", [(3, 3), (5, 5), (13, 13), (21, 7), (24, 3), (34, 17), (165, 11)])
def test_the_real_part_of_the_sum(length, prime):
    x = np.asarray(normal(2, 3, length)) + 1j * np.asarray(normal(2, 3, length, seed=1))
    n = np.arange(length)
    expected = (x @ np.exp(-2j * np.pi * np.outer(n, n) / length)).real
    plan = rader.make_plan(length, prime)
    assert sorted(plan.order) == sorted(plan.place) == list(range(length))
    assert error(transformed(jnp.asarray(x, jnp.complex64), plan), expected) < 2e-6


@pytest.mark.parametrize("length", [4_001, 4_097, 8_193])
def test_long_lengths_are_exact_to_rounding(length):
    assert rader.plan(length) is not None
    x = normal(1, length, 6)
    assert error(fourier_fft(x), np.fft.fft2(np.asarray(x, np.float64)).real) < 1e-6


def test_odd_widths_and_gradients():
    assert error(fourier_fft(normal(1, 4_001, 5)), fourier_matmul(normal(1, 4_001, 5))) < 5e-6
    x, weight = normal(1, 4_097, 4), normal(1, 4_097, 4, seed=1)
    (gradient,) = jax.vjp(fourier_fft, x)[1](weight)
    assert error(gradient, np.fft.fft2(np.asarray(weight, np.float64)).real) < 1e-6


@pytest.mark.parametrize(
    "length, why",
    [(1, "short"), (2_049, "short"), (4_096, "smooth"), (16_129, "127 twice"), (4_099, "4,098 is 2 · 3 · 683")],
)
def test_other_lengths_go_by_the_library(length, why):
    assert rader.plan(length) is None


def test_accelerators_have_their_own_transforms(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    text = str(jax.make_jaxpr(fourier_fft)(jnp.zeros((1, 4_097, 4))))
    assert "fft_lengths=(4097,)" in text and "gather" not in text
