import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core import decayed_attention as module
from models.core.decayed_attention import decayed_attention, with_ones
from tests.helpers.mixing import error, jit, normal

BATCH, HEADS, KEYS, VALUES = 2, 2, 5, 3
SHAPES = {"head": lambda length: (HEADS,), "position": lambda length: (BATCH, length, HEADS),
          "feature": lambda length: (BATCH, length, HEADS, KEYS)}  # fmt: skip
"""The shapes of ln a."""


compute = jit(decayed_attention, static_argnames=("reverse", "diagonal", "method"))


def given(kind: str, length: int, scale: float = 0.3, seed: int = 0) -> tuple[jax.Array, ...]:
    q, k, v = (normal(BATCH, length, HEADS, width, seed=seed + i) for i, width in enumerate((KEYS, KEYS, VALUES)))
    return q, k, v, -scale * jnp.abs(normal(*SHAPES[kind](length), seed=seed + 3))


def over_positions(log_decay, shape):
    if log_decay.ndim < 4:
        log_decay = log_decay[..., None]
    return np.broadcast_to(np.asarray(log_decay, np.float64), shape)


def recurrent(q, k, v, log_decay):
    """S_t = diag(a_t) S_{t−1} + k_t v_tᵀ and o_t = S_tᵀ q_t, in double precision."""
    decay = np.exp(over_positions(log_decay, q.shape))
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    state, out = np.zeros((*k[:, 0].shape, v.shape[-1])), []
    for t in range(q.shape[1]):
        state = decay[:, t][..., None] * state + k[:, t][..., None] * v[:, t][..., None, :]
        out.append(np.einsum("bhk,bhkv->bhv", q[:, t], state))
    return np.stack(out, 1)


def dense(q, k, v, log_decay, diagonal=True, xp=np):
    """Σ_m (q_t ⊙ a_{m+1} ⊙ … ⊙ a_t)·k_m v_m, each product of decays from its own logarithms alone."""
    length = q.shape[1]
    t, m, r = np.ogrid[:length, :length, :length]
    between = ((m < r) & (r <= t)).astype(float)
    a = log_decay[..., None] if log_decay.ndim < 4 else log_decay
    a = xp.broadcast_to(a if xp is jnp else np.asarray(a, np.float64), q.shape)
    total = xp.einsum("tmr,brhk->btmhk", between if xp is np else jnp.asarray(between, jnp.float32), a)
    allowed = (m <= t - (not diagonal))[:, :, 0][None, :, :, None, None]
    weight = xp.where(allowed, xp.exp(xp.where(allowed, total, 0)), 0)
    return xp.einsum("bthk,bmhk,btmhk,bmhv->bthv", q, k, weight, v)


@pytest.mark.parametrize("method", ["loop", "at_once"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("length", [1, 7, 64, 131])
def test_chunks_equal_the_recurrence(kind, length, method):
    arrays = given(kind, length)
    assert error(compute(*arrays, method=method), recurrent(*arrays)) < 1e-6


@pytest.mark.parametrize("kind", SHAPES)
def test_the_recurrence_equals_the_dense_form(kind):
    arrays = given(kind, 19)
    assert error(recurrent(*arrays), dense(*arrays)) < 1e-12


@pytest.mark.parametrize("kind", SHAPES)
def test_reversed_and_without_the_diagonal(kind):
    q, k, v, log_decay = given(kind, 83)
    flipped = tuple(x if x.ndim == 1 else jnp.flip(x, 1) for x in (q, k, v, log_decay))
    for diagonal in (True, False):
        expected = dense(*flipped, diagonal=diagonal)[:, ::-1]
        actual = compute(q, k, v, log_decay, reverse=True, diagonal=diagonal)
        assert error(actual, expected) < 1e-6
    assert np.all(np.asarray(actual)[:, -1] == 0)


def gradients(function, arrays, weight):
    return jit(jax.grad(lambda *a: (function(*a) * weight).sum(), argnums=(0, 1, 2, 3)))(*arrays)


@pytest.mark.parametrize("method, length", [("loop", 71), ("at_once", 71), ("loop", 7)])
@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_equal_those_of_the_dense_form(kind, method, length):
    arrays = given(kind, length)
    weight = normal(BATCH, length, HEADS, VALUES, seed=9)
    actual = gradients(lambda *a: decayed_attention(*a, diagonal=False, method=method), arrays, weight)

    def reference(*a):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return dense(*a, diagonal=False, xp=jnp)

    for a, e in zip(actual, gradients(reference, arrays, weight), strict=True):
        assert error(a, e) < 2e-5


def extreme(kind: str, length: int, lowest: float) -> tuple[jax.Array, ...]:
    """Decays of 1, decays near 1, and some of e^lowest, so that their logarithms add up to thousands in a chunk."""
    q, k, v, log_decay = given(kind, length)
    drawn = np.random.default_rng(5).random(log_decay.shape)
    return q, k, v, jnp.where(drawn < 0.2, lowest, jnp.where(drawn < 0.6, 0, 0.1 * log_decay))


@pytest.mark.parametrize("lowest", [-1e4, -1e30, -300.0, -20.0])
@pytest.mark.parametrize("method", ["loop", "at_once"])
@pytest.mark.parametrize("kind", ["position", "feature"])
def test_extreme_decays_are_exact_and_finite(kind, method, lowest):
    """What follows a gate that is shut is as exact as before it: sums of −10⁴ would leave three digits."""
    arrays = extreme(kind, 135, lowest)
    weight = normal(BATCH, 135, HEADS, VALUES, seed=9)
    assert error(compute(*arrays, method=method), recurrent(*arrays)) < 1e-6
    found = gradients(lambda *a: decayed_attention(*a, method=method), arrays, weight)
    assert all(np.isfinite(g).all() for g in found)
    if lowest < module.LEAST:
        assert np.all(np.asarray(found[3])[np.asarray(arrays[3]) == lowest] == 0)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("log_decay", "remembered"), [(0.0, True), (-1e4, False)])
def test_memory_without_end_and_none(kind, log_decay, remembered):
    q, k, v, _ = given(kind, 150)
    o = compute(q, k, v, jnp.full(SHAPES[kind](150), log_decay))
    scores = np.einsum("bthk,bmhk->bhtm", *(np.asarray(x, np.float64) for x in (q, k)))
    expected = np.einsum("bhtm,bmhv->bthv", np.tril(scores) if remembered else scores * np.eye(150), v)
    assert error(o, expected) < 1e-6


def test_no_exponent_is_above_zero(monkeypatch):
    seen = []
    exp = jnp.exp

    def record(x):
        jax.debug.callback(lambda top: seen.append(float(top)), x.max())
        return exp(x)

    monkeypatch.setattr(jnp, "exp", record)
    for kind in ("position", "feature"):
        jax.block_until_ready(decayed_attention(*given(kind, 135, scale=100.0), method="loop"))
    jax.effects_barrier()
    assert seen and max(seen) <= 0


@pytest.mark.parametrize("method", ["loop", "at_once"])
@pytest.mark.parametrize("kind", ["head", "position"])
def test_heads_may_share_queries_and_keys(kind, method):
    q, k, v, log_decay = given(kind, 131)
    arrays = (q[:, :, :1], k[:, :, :1], v, log_decay)

    def repeated(q, k, v, log_decay):
        q, k = (jnp.broadcast_to(x, (BATCH, 131, HEADS, KEYS)) for x in (q, k))
        return decayed_attention(q, k, v, log_decay, method="loop")

    expected = recurrent(*(np.broadcast_to(x, q.shape) for x in arrays[:2]), v, log_decay)
    assert error(compute(*arrays, method=method), expected) < 1e-6
    weight = normal(BATCH, 131, HEADS, VALUES, seed=9)
    found = gradients(lambda *a: decayed_attention(*a, method=method), arrays, weight)
    # A head's one decay sums over all positions, with cancellations: against float64 the loop's own error is 2e-5.
    for a, e in zip(found, gradients(repeated, arrays, weight), strict=True):
        assert error(a, e) < 3e-5


def test_rows_sum_to_the_column_of_ones():
    q, k, v, log_decay = given("position", 40)
    o = compute(q, k, with_ones(v), log_decay)
    assert o.shape[-1] == VALUES + 1
    assert error(o[..., :-1], compute(q, k, v, log_decay)) < 1e-6
    assert error(o[..., -1:], recurrent(q, k, np.ones((BATCH, 40, HEADS, 1)), log_decay)) < 1e-6


@pytest.mark.parametrize("kind", SHAPES)
def test_bfloat16_rounds_inputs_of_products_only(kind):
    q, k, v, log_decay = given(kind, 100)
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    o = compute(q, k, v, log_decay)
    assert o.dtype == jnp.float32
    assert error(o, recurrent(*(x.astype(jnp.float32) for x in (q, k, v)), log_decay)) < 0.01


@pytest.mark.parametrize("method", ["loop", "at_once"])
@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_in_bfloat16(kind, method):
    """Within a few roundings of those at the same rounded numbers in single precision, the decays' too."""
    *qkv, log_decay = given(kind, 100)
    small = [x.astype(jnp.bfloat16) for x in qkv]
    weight = normal(BATCH, 100, HEADS, VALUES, seed=9)
    actual = gradients(lambda *a: decayed_attention(*a, method=method), (*small, log_decay), weight)
    assert [g.dtype for g in actual] == [jnp.bfloat16] * 3 + [jnp.float32]
    single = (*(x.astype(jnp.float32) for x in small), log_decay)
    expected = gradients(lambda *a: decayed_attention(*a, method="loop"), single, weight)
    assert all(error(a.astype(jnp.float32), e) < 0.01 for a, e in zip(actual, expected, strict=True))


def test_memory_of_a_step_is_linear_and_holds_no_state_of_each_position():
    def temporaries(length, kind):
        arrays = given(kind, length)
        weight = jnp.ones((BATCH, length, HEADS, VALUES))
        step = jit(jax.grad(lambda *a: (decayed_attention(*a, method="loop") * weight).sum(), argnums=(0, 1, 2, 3)))
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    for kind in ("position", "feature"):
        small, large = temporaries(1024, kind), temporaries(4096, kind)
        assert large < 4.3 * small
        assert large < 24 * 4 * BATCH * 4096 * HEADS * KEYS
