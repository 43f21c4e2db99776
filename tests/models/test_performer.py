from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.approximate.performer import attend, orthogonal_features, softmax_features
from tests.helpers.mixing import (
    assert_equals,
    attention,
    build,
    error,
    heads_of,
    inputs,
    jit,
    joined,
    normal,
    padding_changes,
    parameter_count,
    run,
)


def estimate(q, k, v, mask, directions):
    """Softmax attention [B, L, H, K] estimated with features of the given directions."""
    maps = partial(softmax_features, directions=directions)
    return attend(q, k, v, mask, len(directions), maps)


def naive(mixer, x, mask):
    """The explicit quadratic form with the features' plain formulas: nothing subtracted in an exponent."""
    q, k, v = heads_of(mixer, x)
    if mixer.kernel == "softmax":
        q, k = (a * q.shape[-1] ** -0.25 for a in (q, k))
    directions = mixer.directions[...].T if mixer.directions is not None else None
    features = {
        "softmax": lambda a: jnp.exp(a @ directions - (a**2).sum(-1, keepdims=True) / 2),
        "relu": lambda a: jax.nn.relu(a @ directions) + 1e-3,
        "plain_relu": lambda a: jax.nn.relu(a) + 1e-3,
    }[mixer.kernel]
    weights = features(q) @ features(k).swapaxes(-1, -2) * mask[:, None, None, :]
    return joined(mixer, weights / weights.sum(-1, keepdims=True) @ v)


@pytest.mark.parametrize("kernel", ["softmax", "relu", "plain_relu"])
def test_equals_the_quadratic_form(kernel):
    x, mask = inputs()
    mixer = build("performer", kernel=kernel, features=10)
    # With ε = 0.001 under the ReLU some rows are quotients of small sums, so rounding weighs more there.
    assert_equals(mixer, naive, x, mask, rounded=0.03 if kernel == "softmax" else 0.06)


def test_estimate_converges_to_softmax_attention_with_the_root_of_the_features():
    # Products q·k of this size leave the estimate so little variance that the rate shows from 64 features on.
    q, k, v = (normal(1, 24, 2, 8, seed=seed) * scale for seed, scale in enumerate((0.5, 0.5, 1.0)))
    mask = jnp.arange(24)[None] < 20
    want = attention(*(a.swapaxes(1, 2) for a in (q, k, v)), mask).swapaxes(1, 2)
    counts, draws = [64, 256, 1024, 4096], 8
    directions = orthogonal_features(jax.random.key(0), draws * 4096, 8).reshape(draws, 4096, 8)

    def squared_error(directions):
        return jnp.square(estimate(q * 8**-0.25, k * 8**-0.25, v, mask, directions) - want).mean()

    each = jit(lambda directions: jax.lax.map(squared_error, directions))
    errors = [np.sqrt(each(directions[:, :count]).mean()) for count in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    assert errors[-1] < 0.01


def test_directions_are_orthogonal_normal_vectors():
    directions = np.asarray(orthogonal_features(jax.random.key(0), 2048 + 3, 8), np.float64)
    assert directions.shape == (2051, 8)
    for block in directions[:32].reshape(4, 8, 8):
        products = block @ block.T
        assert np.abs(products - np.diag(np.diag(products))).max() < 1e-5
    assert np.abs(directions.T @ directions / 2051 - np.eye(8)).max() < 0.1
    assert abs((directions**2).sum(1).mean() - 8) < 0.5


def test_large_inputs_are_stable():
    x, mask = inputs()
    assert np.isfinite(run(build("performer", features=10), 300 * x, mask)).all()
    # Features far beyond what exp can hold in float32: the weights are still their quotients, as in float64.
    q = jnp.full((1, 2, 1, 4), 30.0)
    k = jnp.stack([q[:, 0], q[:, 0] * 0.9], axis=1)
    directions = orthogonal_features(jax.random.key(0), 8, 4)
    weights = estimate(q, k, jnp.eye(2)[None, :, None], jnp.ones((1, 2), bool), directions)[0, :, 0]
    q, k = (np.asarray(a, np.float64) for a in (q, k))
    exponents = (a @ np.asarray(directions).T - (a**2).sum(-1, keepdims=True) / 2 for a in (q, k))
    want = np.einsum("blhm,bnhm->ln", *(np.exp(a + 1700) for a in exponents))
    assert error(weights, want / want.sum(1, keepdims=True)) < 1e-3


def test_redrawing_gives_other_directions_of_the_same_law():
    mixer = build("performer", features=2048, redraw=3)
    assert mixer.redraw_every == 3
    drawn = []
    for seed in (5, 5, 6):
        mixer.redraw(jax.random.key(seed))
        drawn.append(np.asarray(mixer.directions[...], np.float64))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1
    for directions in drawn[1:]:
        assert np.abs(directions.T @ directions / 2048 - np.eye(4)).max() < 0.1
    assert build("performer", redraw=0).redraw_every == build("performer", kernel="plain_relu").redraw_every == 0


def test_parameters_and_options():
    assert parameter_count("performer") == parameter_count("performer", kernel="plain_relu") == 3_487_490
    with pytest.raises(ValueError, match="kernel must be"):
        build("performer", kernel="elu")
    with pytest.raises(ValueError, match="features must be"):
        build("performer", features=0)
    with pytest.raises(ValueError, match="redraw must be"):
        build("performer", redraw=-1)


def test_padding_changes_nothing():
    assert padding_changes("performer", features=16) < 1e-5
