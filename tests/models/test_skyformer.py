import jax.numpy as jnp
import numpy as np
import pytest

from models.approximate.skyformer import inverse, sample
from tests.helpers.mixing import (
    assert_equals,
    assert_limit,
    build,
    error,
    heads_of,
    inputs,
    joined,
    normal,
    padding_changes,
    parameter_count,
    run,
)

LENGTHS = (13, 5)


def kernel(x, y):
    """exp(−|x − y|² / 2√K) from the differences themselves, [B, H, L, M]."""
    difference = x[..., :, None, :] - y[..., None, :, :]
    return jnp.exp(-(difference**2).sum(-1) / 2 / np.sqrt(x.shape[-1]))


def naive(mixer, x, mask):
    """Each example's real part by itself, with an exact inverse; landmarks by the stored places."""
    outputs = []
    for row, length in zip(x, LENGTHS, strict=True):
        q, k, v = heads_of(mixer, row[None, :length])
        half = mixer.offsets.shape[1]
        places = np.floor((np.arange(half) + np.asarray(mixer.offsets[...])) / half * length).astype(int)
        z = jnp.concatenate([q[:, :, places[0]], k[:, :, places[1]]], axis=2)
        middle = jnp.linalg.inv(kernel(z, z) + mixer.gamma * jnp.eye(2 * half))
        y = kernel(q, z) @ middle @ kernel(z, k) @ v
        outputs.append(jnp.pad(joined(mixer, y)[0], ((0, x.shape[1] - length), (0, 0))))
    return jnp.stack(outputs)


def test_equals_its_equation():
    x, mask = inputs(lengths=LENGTHS)
    # Against the exact inverse: six steps of the iteration have converged.
    assert_equals(build("skyformer", landmarks=6), naive, x, mask, tolerance=2e-5, rounded=0.05)


def test_landmarks_of_every_position_are_the_exact_gaussian_kernel():
    # Z holds all 2L rows of Q and K. Rows far apart keep the Gram matrix's condition, so the rounding, small.
    x, mask = inputs(dim=16, lengths=(13, 13))
    mixer = build("skyformer", dim=16, landmarks=26, gamma=1e-5, iterations=25)
    p = mixer.projections
    p.query.kernel[...], p.key.kernel[...] = 2 * p.query.kernel[...], 2 * p.key.kernel[...]

    def exact(mixer, x, mask):
        q, k, v = heads_of(mixer, x)
        return joined(mixer, kernel(q, k) @ v)

    assert_limit(mixer, exact, x, mask, tolerance=1e-3)


def test_inverse_converges_in_six_steps_at_the_default_gamma():
    z = normal(2, 3, 20, 4)
    gram = kernel(z, z)
    want = np.linalg.inv(np.asarray(gram, np.float64) + 0.1 * np.eye(20))
    assert error(inverse(gram, 0.1, 3), want) > 0.05
    assert error(inverse(gram, 0.1, 6), want) < 1e-4


def test_samples_are_real_positions_spread_evenly():
    mask = jnp.stack([jnp.arange(100) < 40, jnp.arange(100) % 2 == 1, jnp.zeros(100, bool)])
    places = np.asarray(sample(normal(10) % 1, mask))
    assert ((places >= 0) & (places < 100)).all()
    np.testing.assert_array_equal(places[0] // 4, np.arange(10))
    assert (places[1] % 2 == 1).all() and len(set(places[1])) == 10


def test_training_draws_landmarks_anew():
    x, mask = inputs()
    mixer = build("skyformer", landmarks=4)
    first, same, other = (run(mixer, x, mask, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert error(first[0], other[0]) > 1e-3


def test_parameters_and_options():
    assert parameter_count("skyformer") == 3_487_490
    for wrong in ({"landmarks": 5}, {"gamma": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="must be"):
            build("skyformer", **wrong)


def test_padding_changes_nothing():
    assert padding_changes("skyformer", landmarks=4) < 1e-5
