"""Dropout's masks: the right rate, and independent between elements, sites and steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import dropout, embed, random_bits


def masks(draws: int, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """`draws` masks as the training loop draws them: a key a step, two sites a step."""
    ones = jnp.ones(shape)

    def at(step):
        rngs = nnx.Rngs(dropout=jax.random.fold_in(jax.random.key(0), step))
        return jnp.stack([dropout(ones, rate, rngs), dropout(ones, rate, rngs)])

    return np.concatenate([np.asarray(jax.jit(at)(step)) for step in range(draws // 2)]) > 0


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_rate_holds_everywhere_and_elements_are_independent(rate):
    kept = masks(400, (30, 41), rate).reshape(400, -1)
    n = kept.size
    assert abs(kept.mean() - (1 - rate)) < 4 * (rate * (1 - rate) / n) ** 0.5
    # Each element over draws, and each draw over elements, scatter as coin tosses do.
    for axis in (0, 1):
        count = kept.shape[axis]
        z = (kept.mean(axis) - (1 - rate)) / (rate * (1 - rate) / count) ** 0.5
        assert abs(z.std() - 1) < 5 / (2 * len(z)) ** 0.5
    centred = kept - (1 - rate)
    bound = 5 * rate * (1 - rate) / n**0.5
    for lag in (1, 2, 3, 4, 8, 16, 32, 41, 64, 256, 1024):
        assert abs((centred[:, lag:] * centred[:, :-lag]).mean()) < bound * (1230 / (1230 - lag)) ** 0.5
    assert abs((centred[1:] * centred[:-1]).mean()) < 1.1 * bound


def test_every_bit_is_fair():
    bits = np.asarray(random_bits(jax.random.key(3), (1 << 16,)))
    for bit in range(32):
        assert abs(((bits >> bit) & 1).mean() - 0.5) < 5 * 0.5 / 2**8


def test_what_is_kept_is_scaled_and_evaluation_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (50, 40))
    out = dropout(x, 0.25, nnx.Rngs(dropout=0))
    np.testing.assert_allclose(out[out != 0], x[out != 0] / 0.75, rtol=1e-6)
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, nnx.Rngs(dropout=0)) is x
    assert dropout(x.astype(jnp.bfloat16), 0.25, nnx.Rngs(dropout=0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_embedding_and_its_gradient_on_accelerators(monkeypatch, dtype):
    """The gradient of a row is the sum over its tokens: in bfloat16 too, where adding one by one would stop at 256."""
    tokens = np.concatenate([np.zeros(3_000, np.int32), np.arange(5), [2, 2]]).reshape(1, -1)
    table, g = (
        jnp.asarray(np.random.default_rng(i).standard_normal(s), dtype) for i, s in enumerate([(7, 4), (1, 3_007, 4)])
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    out, back = jax.vjp(lambda t: embed(t, tokens), table)
    np.testing.assert_array_equal(out, np.asarray(table)[tokens])
    want = np.zeros((7, 4))
    np.add.at(want, tokens, np.asarray(g, np.float64))
    np.testing.assert_allclose(
        np.asarray(back(g)[0], np.float64), want, rtol=1e-5 if dtype == jnp.float32 else 1e-2, atol=1e-5
    )
    assert not np.asarray(back(g)[0])[5:].any()
