import jax
import jax.numpy as jnp
import numpy as np

from models.approximate.cosformer import cos_features
from models.approximate.linear_transformer import kernel_attend
from tests.helpers.mixing import (
    assert_equals,
    build,
    error,
    heads_of,
    inputs,
    joined,
    normal,
    padding_changes,
    parameter_count,
)


def naive(mixer, x, mask):
    """The explicit quadratic form: relu(q_l)·relu(k_m) cos(π(l − m) / 2N), each row divided by its sum."""
    q, k, v = heads_of(mixer, x)
    position = np.arange(x.shape[1])
    length = jnp.sum(mask, axis=1)[:, None, None, None]
    weights = jax.nn.relu(q) @ jax.nn.relu(k).swapaxes(-1, -2)
    weights = weights * jnp.cos(np.pi / 2 * (position[:, None] - position) / length) * mask[:, None, None, :]
    below = weights.sum(-1, keepdims=True)
    return joined(mixer, jnp.where(below > 0, weights / jnp.where(below > 0, below, 1), 0) @ v)


def test_equals_the_quadratic_form():
    x, mask = inputs(dim=16)
    mixer = build("cosformer", dim=16)
    assert_equals(mixer, naive, x, mask, rounded=0.05)  # a row with few positive products divides by a small sum


def test_weights_fall_with_distance():
    # With equal queries and keys everywhere the output is the cosine-weighted mean of the values.
    _, mask = inputs(lengths=(13,))
    features = cos_features(jnp.ones((1, 13, 1, 4)), mask)
    values = normal(1, 13, 1, 4)
    position = np.arange(13)
    weights = np.cos(np.pi / 2 * (position[:, None] - position) / 13)
    want = weights / weights.sum(1, keepdims=True) @ np.asarray(values[0, :, 0])
    assert error(kernel_attend(features, features, values, mask)[0, :, 0], want) < 1e-6


def test_parameters():
    assert parameter_count("cosformer") == 3_487_490


def test_padding_changes_nothing():
    assert padding_changes("cosformer", pool="mean") < 1e-5
