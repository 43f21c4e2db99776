import jax
import numpy as np
import pytest

from models.core.short_convolution import slide
from tests.helpers.mixing import error, jit, normal


def matrices(length, width, behind):
    """For each tap, zeros and ones [L, L] from positions to those that they see."""
    at = np.arange(length)
    return [(at == at[:, None] + tap - behind).astype(float) for tap in range(width)]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("length", "width", "behind"), [(6, 1, 0), (6, 3, 1), (7, 3, 2), (7, 4, 3), (7, 4, 1), (2, 5, 4), (1, 3, 0)]
)
def test_equals_the_sum_and_its_gradients(length, width, behind, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, kernel, g = normal(2, length, 3), normal(width, 3, seed=1), normal(2, length, 3, seed=2)

    def both(x, kernel, g):
        y, back = jax.vjp(lambda x, kernel: slide(x, kernel, behind), x, kernel)
        return y, *back(g)

    y, of_x, of_kernel = jit(both)(x, kernel, g)
    x, kernel, g = (np.asarray(array, np.float64) for array in (x, kernel, g))
    moves = matrices(length, width, behind)
    assert error(y, sum(k * (move @ x) for k, move in zip(kernel, moves, strict=True))) < 1e-6
    assert error(of_x, sum(k * (move.T @ g) for k, move in zip(kernel, moves, strict=True))) < 1e-6
    assert error(of_kernel, np.stack([(g * (move @ x)).sum((0, 1)) for move in moves])) < 1e-6
