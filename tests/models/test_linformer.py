import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.mixing import (
    assert_equals,
    assert_limit,
    attention,
    build,
    error,
    heads_of,
    inputs,
    jit,
    joined,
    padding_changes,
    parameter_count,
    run,
)


def naive(mixer, x, mask):
    """softmax(Q (Eᵀ K)ᵀ / √K) Eᵀ V with keys and values of all L positions, those of padding zeroed."""
    q, k, v = heads_of(mixer, x)
    e = mixer.shortening[...][: x.shape[1]]
    k, v = (e.T @ (a * mask[:, None, :, None]) for a in (k, v))
    return joined(mixer, jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v)


def test_equals_its_equation():
    x, mask = inputs()
    mixer = build("linformer", rank=5)
    assert_equals(mixer, naive, x, mask)


def test_rank_of_the_length_and_identity_is_attention():
    x, mask = inputs(lengths=(13, 13))
    mixer = build("linformer", rank=13)
    mixer.shortening[...] = jnp.eye(13)
    assert_limit(mixer, lambda m, x, mask: joined(m, attention(*heads_of(m, x), mask)), x, mask)


def test_dropout_is_of_the_weights():
    x, mask = inputs()
    mixer = build("linformer", dropout=0.5)
    dropped = jit(lambda key: mixer(x, mask, nnx.Rngs(dropout=key)))
    many = np.stack([dropped(jax.random.key(seed)) for seed in range(64)])
    np.testing.assert_array_equal(many[0], dropped(jax.random.key(0)))
    exact = run(mixer, x, mask)
    assert error(many[0], exact) > 0.1
    assert error(many.mean(0), exact) < 0.4 * error(many[0], exact)


def test_parameters_and_options():
    assert parameter_count("linformer") == 3_551_554
    assert parameter_count("linformer", rank=32) == 3_551_554 + 4 * 16 * 1001
    with pytest.raises(ValueError, match="rank must be"):
        build("linformer", rank=0)
    with pytest.raises(ValueError, match="multiple of heads"):
        build("linformer", heads=3)


def test_padding_changes_nothing():
    assert padding_changes("linformer") < 1e-5
