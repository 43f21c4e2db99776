"""The recurrence and its hand-written gradient, by both ways of computing them, against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core import linear_scan as module
from models.core.linear_scan import linear_scan
from tests.helpers.mixing import error, jit, normal
from tests.helpers.recurrences import recur

BATCH, LENGTH, STATES = 2, 13, 3


def arguments(varying: bool, length: int = LENGTH):
    """a of modulus around 0.8, constant or not, and b, as pairs."""
    shape = (BATCH, length, STATES)
    a = tuple(0.6 * normal(*(shape if varying else shape[2:]), seed=seed) for seed in (1, 2))
    return a, (normal(*shape, seed=3), normal(*shape, seed=4))


def looped(a, b, reverse):
    """The equation in double precision, one position after the other."""
    a, b = (np.asarray(re, np.float64) + 1j * np.asarray(im, np.float64) for re, im in (a, b))
    a = np.broadcast_to(a, b.shape)
    if reverse:
        a, b = a[:, ::-1], b[:, ::-1]
    h, states = np.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return np.stack(states[::-1] if reverse else states, 1)


WAYS = [(varying, method) for varying in (False, True) for method in ("loop", "passes")]


@pytest.mark.parametrize(("varying", "method"), WAYS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
class TestAllWays:
    @pytest.mark.parametrize("length", [1, 2, LENGTH, 16, 17, 35, 300])
    def test_equals_the_loop(self, varying, reverse, method, length):
        a, b = arguments(varying, length)
        re, im = jit(lambda a, b: linear_scan(a, b, reverse=reverse, method=method))(a, b)
        expected = looped(a, b, reverse)
        assert re.dtype == im.dtype == jnp.float32
        assert error(re, expected.real) < 1e-6 and error(im, expected.imag) < 1e-6

    def test_gradient_is_that_of_the_loop(self, varying, reverse, method):
        """By finite differences of the loop in double precision; the loss weighs all states."""
        a, b = arguments(varying)
        weights = np.asarray(normal(2, BATCH, LENGTH, STATES, seed=5), np.float64)

        def loss(a, b):
            h = linear_scan(a, b, reverse=reverse, method=method)
            return sum((jnp.asarray(w, jnp.float32) * part**2).sum() for w, part in zip(weights, h, strict=True))

        def loss_of_loop(leaves):
            h = looped(leaves[:2], leaves[2:], reverse)
            return (weights[0] * h.real**2 + weights[1] * h.imag**2).sum()

        leaves = [np.asarray(leaf, np.float64) for leaf in (*a, *b)]
        for number, actual in enumerate(jax.tree.leaves(jit(jax.grad(loss, (0, 1)))(a, b))):
            expected = np.zeros_like(leaves[number])
            for place in np.ndindex(expected.shape):
                moved = [[leaf.copy() for leaf in leaves] for _ in range(2)]
                for sign, copies in zip((1, -1), moved, strict=True):
                    copies[number][place] += sign * 1e-6
                expected[place] = (loss_of_loop(moved[0]) - loss_of_loop(moved[1])) / 2e-6
            assert error(actual, expected) < 5e-6


@pytest.mark.parametrize(("varying", "method"), WAYS)
def test_memory_is_a_small_multiple_of_the_states_and_linear(varying, method):
    """In units of the states' own size; the associative scan keeps parts of its levels."""

    def temporaries(length):
        x = jax.ShapeDtypeStruct((BATCH, length, 64), jnp.float32)
        a = x if varying else jax.ShapeDtypeStruct((64,), jnp.float32)

        def loss(a, b):
            return sum((part**2).sum() for part in linear_scan(a, b, method=method))

        compiled = jit(jax.grad(loss, (0, 1))).lower((a, a), (x, x)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (2 * x.size * 4)

    short, long = temporaries(256), temporaries(512)
    assert long < 1.05 * short
    assert short < {"loop": 3.1, "passes": 5.5}[method]


def test_a_loop_on_the_cpu_and_passes_on_accelerators(monkeypatch):
    def primitives():
        return str(jax.make_jaxpr(lambda a, b: linear_scan(a, b))(*arguments(varying=False)))

    assert "scan[" in primitives()
    for backend in ("gpu", "tpu"):
        monkeypatch.setattr(module.jax, "default_backend", lambda backend=backend: backend)
        assert "scan[" not in primitives()


@pytest.mark.parametrize("modulus", [1.0, 0.9999, 0.5, 0.0])
@pytest.mark.parametrize("method", ["loop", "passes"])
def test_thousands_of_positions_stay_exact(modulus, method):
    """Where nothing is forgotten, and where everything is."""
    angle = np.linspace(0, np.pi, STATES)
    a = tuple(jnp.asarray(modulus * f(angle), jnp.float32) for f in (np.cos, np.sin))
    b = normal(1, 5000, STATES, seed=3), normal(1, 5000, STATES, seed=4)
    re, im = jit(lambda a, b: linear_scan(a, b, method=method))(a, b)
    expected = looped(a, b, False)
    assert error(re, expected.real) < 2e-5 and error(im, expected.imag) < 2e-5


def test_several_at_once():
    """As when seeds train together."""
    a, b = arguments(varying=True)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), (a, b))
    both = jax.vmap(lambda a, b: linear_scan(a, b))(*stacked)
    alone = linear_scan(*jax.tree.map(lambda x: 0.5 * x, (a, b)))
    assert error(both[0][1], alone[0]) < 1e-6


def test_the_helper_s_loop_agrees():
    """Tests of mixers rely on it."""
    (a, b) = arguments(varying=False)
    h = recur(np.asarray(a[0]) + 1j * np.asarray(a[1]), np.asarray(b[0]) + 1j * np.asarray(b[1]), np)
    assert error(h.real, looped(a, b, False).real) < 1e-6
