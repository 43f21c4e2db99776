"""The selective recurrence in chunks, by both ways of computing one, against a loop over positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core import selective_scan as module
from models.core.selective_scan import chunk_rows, selective_scan
from tests.helpers.mixing import error, jit, normal, permissively

BATCH, FEATURES, STATES = 2, 3, 5
METHODS = ("loop", "passes")


def arguments(length, seed=0):
    """x, step, into, out of the positions, some with a step of 0; rate and skip."""
    x, step = normal(BATCH, length, FEATURES, seed=seed), normal(BATCH, length, FEATURES, seed=seed + 1)
    into, out = (normal(BATCH, length, STATES, seed=seed + s) for s in (2, 3))
    rate = -jnp.abs(normal(FEATURES, STATES, seed=seed + 4))
    return (x, jnp.maximum(step, 0), into, out), rate, normal(FEATURES, seed=seed + 5)


def given(*xs):
    return xs


def looped(xs, rate, skip, xp=np):
    """The equation, one position after the other; in double precision by NumPy."""
    x, step, into, out = (v if xp is jnp else np.asarray(v, np.float64) for v in xs)
    h, ys = xp.zeros((*x[:, 0].shape, STATES)), []
    for t in range(x.shape[1]):
        decay = xp.exp(step[:, t, :, None] * rate)
        h = decay * h + step[:, t, :, None] * x[:, t, :, None] * into[:, t, None, :]
        ys.append((h * out[:, t, None, :]).sum(-1) + skip * x[:, t])
    return xp.stack(ys, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 2, 3, 13, 16, 17, 101])
def test_equals_the_loop(method, length, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", 4 * BATCH * FEATURES * STATES)
    xs, rate, skip = arguments(length)
    y = jit(lambda *a: selective_scan(given, *a, method=method))(xs, rate, skip)
    assert y.dtype == jnp.float32
    assert error(y, looped(xs, np.asarray(rate, np.float64), np.asarray(skip, np.float64))) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 23])
def test_gradients_are_those_of_the_loop(method, length, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", 4 * BATCH * FEATURES * STATES)
    given_arguments, weight = arguments(length), normal(BATCH, length, FEATURES, seed=9)

    def gradients(f):
        return jax.tree.leaves(jit(jax.grad(lambda *a: (weight * f(*a) ** 2).sum(), (0, 1, 2)))(*given_arguments))

    actual = gradients(lambda *a: selective_scan(given, *a, method=method))
    expected = gradients(permissively(lambda *a: looped(*a, xp=jnp)))
    for a, e in zip(actual, expected, strict=True):
        assert error(a, e) < 1e-5 or np.abs(a - e).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("behind", [1, 3])
def test_what_is_projected_may_look_back(method, behind, monkeypatch):
    """Also over more than the chunk before, as at 3 positions, of which a chunk has 2; before the first are zeros."""
    monkeypatch.setattr(module, "ENTRIES", 1)
    for length in (1, 3, 17):
        xs, rate, skip = arguments(length)

        def sums(*seen):
            rows = seen[0].shape[0] - behind
            x, step, into, out = (sum(v[j : j + rows] for j in range(behind + 1)) for v in seen)
            return x, step, into, out

        y = jit(lambda *a, f=sums: selective_scan(f, *a, behind=behind, method=method))(xs, rate, skip)
        padded = [np.pad(np.asarray(v, np.float64), ((0, 0), (behind, 0), (0, 0))) for v in xs]
        summed = [sum(v[:, j : j + length] for j in range(behind + 1)) for v in padded]
        assert error(y, looped(summed, np.asarray(rate, np.float64), np.asarray(skip, np.float64))) < 1e-6


def test_a_step_of_zero_leaves_the_state():
    xs, rate, skip = arguments(9)
    x, step, into, out = xs
    without = np.array([0, 1, 3, 4, 5, 7, 8])
    stepped = step.at[:, np.array([2, 6])].set(0)
    y = jit(lambda *a: selective_scan(given, *a))((x, stepped, into, out), rate, skip)
    expected = looped([v[:, without] for v in xs], np.asarray(rate, np.float64), np.asarray(skip, np.float64))
    assert error(y[:, without], expected) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_thousands_of_positions_stay_exact(method):
    """Where nearly nothing is forgotten, and where everything is."""
    xs, _, skip = arguments(3000)
    for rate in (-1e-4, -1.0, -1000.0):
        rates = jnp.full((FEATURES, STATES), rate)
        y = jit(lambda *a: selective_scan(given, *a, method=method))(xs, rates, skip)
        assert error(y, looped(xs, np.asarray(rates, np.float64), np.asarray(skip, np.float64))) < 2e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_states_are_never_whole(method, monkeypatch):
    """Temporaries with gradients, in units of all states; they grow as √L, what goes in and out as L."""
    monkeypatch.setattr(module, "ENTRIES", 1)
    states = 64

    def temporaries(length):
        wide, narrow = (jax.ShapeDtypeStruct((1, length, n), jnp.float32) for n in (8, states))
        xs, rate = (wide, wide, narrow, narrow), jax.ShapeDtypeStruct((8, states), jnp.float32)
        skip = jax.ShapeDtypeStruct((8,), jnp.float32)

        def loss(*a):
            return (selective_scan(given, *a, method=method) ** 2).sum()

        compiled = jit(jax.grad(loss, (0, 1))).lower(xs, rate, skip).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (length * 8 * states * 4)

    short, long = temporaries(1024), temporaries(4096)
    assert long < 0.65 * short
    assert long < {"loop": 0.12, "passes": 0.3}[method]


def test_chunks_are_the_root_of_the_length_and_even(monkeypatch):
    assert [chunk_rows("loop", n, 1) for n in (1, 2, 10, 100, 101, 16_384)] == [1, 2, 4, 10, 11, 128]
    monkeypatch.setattr(module, "ENTRIES", 300)
    assert chunk_rows("passes", 100, 1) == 100  # all at once
    assert chunk_rows("passes", 100, 6) == 50  # of 50 positions in 300 entries
    assert chunk_rows("passes", 101, 6) == 34  # 3 chunks
    assert chunk_rows("passes", 100, 300) == 10


def test_a_loop_on_the_cpu_and_passes_on_accelerators(monkeypatch):
    def scans():
        return str(jax.make_jaxpr(lambda *a: selective_scan(given, *a))(*arguments(13))).count("scan[")

    assert scans() == 2
    for backend in ("gpu", "tpu"):
        monkeypatch.setattr(module.jax, "default_backend", lambda backend=backend: backend)
        assert scans() == 1


@pytest.mark.parametrize("method", METHODS)
def test_several_at_once(method):
    """As when seeds train together."""
    arrays = arguments(13)
    half = jax.tree.map(lambda x: 0.5 * x, arrays)
    both = jit(jax.vmap(lambda *a: selective_scan(given, *a, method=method)))(
        *jax.tree.map(lambda *x: jnp.stack(x), arrays, half)
    )
    (xs, rate, skip) = half
    assert error(both[1], looped(xs, np.asarray(rate, np.float64), np.asarray(skip, np.float64))) < 1e-6
