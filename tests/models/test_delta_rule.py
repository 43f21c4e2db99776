import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core import delta_rule as module
from models.core.delta_rule import delta_rule, unit_inverse
from tests.helpers.mixing import error, jit, normal, permissively

BATCH, HEADS, KEYS, VALUES = 2, 2, 5, 3
METHODS = ("loop", "at_once")

compute = jit(delta_rule, static_argnames=("method",))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def given(length: int, most: float = 1.0, decay: float = 0.3, seed: int = 0) -> tuple[jax.Array, ...]:
    """q, k, v, β uniform up to `most`, and ln a of about −`decay`."""
    q, k, v = (normal(BATCH, length, HEADS, width, seed=seed + i) for i, width in enumerate((KEYS, KEYS, VALUES)))
    beta = np.random.default_rng(seed).uniform(0, most, (BATCH, length, HEADS))
    log_decay = -decay * jnp.abs(normal(BATCH, length, HEADS, seed=seed + 3))
    return q, jnp.asarray(unit(k)), v, jnp.asarray(beta, jnp.float32), log_decay


def recurrent(q, k, v, beta, log_decay):
    """The gated rule of arXiv:2412.06464 in double precision, with the paper's states [V, K]."""
    q, k, v, beta, log_decay = (np.asarray(x, np.float64) for x in (q, k, v, beta, log_decay))
    state, out = np.zeros((*k[:, 0].shape[:2], v.shape[-1], k.shape[-1])), []
    for t in range(q.shape[1]):
        kt, b = k[:, t, :, None, :], beta[:, t, :, None, None]
        change = np.eye(k.shape[-1]) - b * kt * kt.swapaxes(-1, -2)
        state = np.exp(log_decay[:, t])[..., None, None] * (state @ change) + b * v[:, t, ..., None] * kt
        out.append(np.einsum("bhvk,bhk->bhv", state, q[:, t]))
    return np.stack(out, 1)


@permissively
def scanned(q, k, v, beta, log_decay):
    """The same in single precision, for gradients."""

    def step(state, x):
        q, k, v, b, g = x
        held = jnp.einsum("bhvk,bhk->bhv", state, k)
        state = jnp.exp(g)[..., None, None] * (state - b[..., None, None] * held[..., None] * k[..., None, :])
        state = state + b[..., None, None] * v[..., None] * k[..., None, :]
        return state, jnp.einsum("bhvk,bhk->bhv", state, q)

    start = jnp.zeros((*k[:, 0].shape[:2], v.shape[-1], k.shape[-1]))
    return jax.lax.scan(step, start, tuple(x.swapaxes(0, 1) for x in (q, k, v, beta, log_decay)))[1].swapaxes(0, 1)


def gradients(function, arrays):
    weight = normal(*arrays[2].shape, seed=9)
    return jit(jax.grad(lambda *a: (function(*a) * weight).sum(), argnums=(0, 1, 2, 3, 4)))(*arrays)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 7, 64, 65, 131])
def test_chunks_equal_the_recurrence(length, method):
    arrays = given(length)
    assert error(compute(*arrays, method=method), recurrent(*arrays)) < 2e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("most", "decay"), [(1.0, 0.0), (2.0, 0.0), (2.0, 3.0)])
def test_any_strength_and_decay(most, decay, method):
    arrays = given(203, most, decay)
    assert error(compute(*arrays, method=method), recurrent(*arrays)) < 5e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [5, 71])
def test_gradients_equal_those_of_the_recurrence(length, method):
    arrays = given(length, 2.0, 0.1)
    expected = gradients(scanned, arrays)
    actual = gradients(lambda *a: delta_rule(*a, method=method), arrays)
    for a, e in zip(actual, expected, strict=True):
        assert error(a, e) < 2e-5


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_key_s_value_is_replaced_and_others_stay(decay):
    """With β = 1 and keys that are orthogonal, each read is the last value of its key, as old as it is."""
    length, rng = 150, np.random.default_rng(0)
    written, asked = rng.integers(0, KEYS, (2, length))
    basis = np.linalg.qr(rng.normal(size=(KEYS, KEYS)))[0]
    v = rng.normal(size=(length, VALUES))
    expected = np.zeros((length, VALUES))
    for t in range(length):
        past = np.flatnonzero(written[: t + 1] == asked[t])
        if past.size:
            expected[t] = v[past[-1]] * np.exp(-decay * (t - past[-1]))
    q, k, v = (jnp.asarray(x[None, :, None], jnp.float32) for x in (basis[asked], basis[written], v))
    o = compute(q, k, v, jnp.ones((1, length, 1)), jnp.full((1, length, 1), -decay))
    assert error(o[0, :, 0], expected) < 2e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("beta", "tolerance"), [(1.0, 5e-6), (2.0, 2e-4)])
def test_equal_keys_lose_few_digits(beta, tolerance, method):
    """Where powers of the triangular matrix have entries of 10¹⁸. With β = 2, the rounding of ‖k‖² adds up over t."""
    _, k, v, _, _ = given(150)
    k = jnp.broadcast_to(k[:, :1], k.shape)
    arrays = (k, k, v, jnp.full(k.shape[:3], beta), jnp.zeros(k.shape[:3]))
    expected = recurrent(*arrays)
    if beta == 1:
        assert error(expected, v) < 1e-6
    assert error(compute(*arrays, method=method), expected) < tolerance
    assert all(np.isfinite(g).all() for g in gradients(lambda *a: delta_rule(*a, method=method), arrays))


@pytest.mark.parametrize("method", METHODS)
def test_positions_without_strength_and_decay_do_nothing(method):
    q, k, v, beta, log_decay = given(140)
    off = np.random.default_rng(1).random((140,)) < 0.5
    silent = [jnp.where(jnp.asarray(off)[None, :, None], 0, x) for x in (beta, log_decay)]
    whole = compute(q, k, v, *silent, method=method)
    alone = compute(*(x[:, ~off] for x in (q, k, v, beta, log_decay)), method=method)
    assert error(np.asarray(whole)[:, ~off], alone) < 2e-6


@pytest.mark.parametrize("lowest", [-1e4, -1e30, -20.0])
@pytest.mark.parametrize("method", METHODS)
def test_extreme_decays_are_exact_and_finite(method, lowest):
    q, k, v, beta, log_decay = given(135)
    drawn = np.random.default_rng(5).random(log_decay.shape)
    log_decay = jnp.where(drawn < 0.2, lowest, jnp.where(drawn < 0.6, 0, 0.1 * log_decay))
    arrays = (q, k, v, beta, log_decay)
    assert error(compute(*arrays, method=method), recurrent(*arrays)) < 2e-6
    found = gradients(lambda *a: delta_rule(*a, method=method), arrays)
    assert all(np.isfinite(g).all() for g in found)
    if lowest < module.LEAST:
        assert np.all(np.asarray(found[4])[np.asarray(log_decay) == lowest] == 0)


def test_no_exponent_is_above_zero(monkeypatch):
    seen, exp = [], jnp.exp

    def record(x):
        jax.debug.callback(lambda top: seen.append(float(top)), x.max())
        return exp(x)

    arrays = given(135, decay=100.0)
    monkeypatch.setattr(jnp, "exp", record)
    jax.block_until_ready(delta_rule(*arrays, method="loop"))
    jax.effects_barrier()
    assert seen and max(seen) <= 0


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_inverse_of_a_unit_triangular_matrix(size):
    a = np.tril(np.random.default_rng(0).normal(size=(3, size, size)), -1) / 4
    expected = np.linalg.inv(np.eye(size) + a)
    assert error(jit(unit_inverse)(jnp.asarray(a, jnp.float32)), expected) < 1e-5


def test_the_inverse_s_gradient():
    a = jnp.tril(normal(3, 16, 16) / 4, -1)
    weight = normal(3, 16, 16, seed=1)
    actual = jit(jax.grad(lambda a: (unit_inverse(a) * weight).sum()))(a)

    def by_lapack(a):
        return (jnp.linalg.inv(jnp.eye(16)[None] + jnp.tril(a, -1)) * weight).sum()

    assert error(actual, jit(jax.grad(by_lapack))(a)) < 1e-5


def small_and_single(arrays):
    """q, k and v in bfloat16; and the same rounded numbers in single precision."""
    *qkv, beta, log_decay = arrays
    small = [x.astype(jnp.bfloat16) for x in qkv]
    return (*small, beta, log_decay), (*(x.astype(jnp.float32) for x in small), beta, log_decay)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_rounds_inputs_of_products_only(method):
    small, single = small_and_single(given(100, decay=0.05))
    o = compute(*small, method=method)
    assert o.dtype == jnp.float32
    assert error(o, recurrent(*single)) < 0.02
    actual = gradients(lambda *a: delta_rule(*a, method=method), small)
    assert [g.dtype for g in actual] == [jnp.bfloat16] * 3 + [jnp.float32] * 2
    for a, e in zip(actual, gradients(scanned, single), strict=True):
        assert error(a.astype(jnp.float32), e) < 0.03


def test_memory_of_a_step_is_linear_and_holds_no_state_of_each_position():
    def temporaries(length):
        arrays = given(length)
        step = jit(jax.grad(lambda *a: delta_rule(*a, method="loop").sum(), argnums=(0, 1, 2, 3, 4)))
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    small, large = temporaries(1024), temporaries(4096)
    assert large < 4.3 * small
    assert large < 24 * 4 * BATCH * 4096 * HEADS * KEYS
