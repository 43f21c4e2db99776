import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.approximate.nystromformer import convolve, initial_inverse, pseudo_inverse, segment_means
from tests.helpers.mixing import (
    assert_equals,
    assert_limit,
    attention,
    build,
    error,
    heads_of,
    inputs,
    joined,
    normal,
    padding_changes,
    parameter_count,
)

LENGTHS = (13, 3)


def naive(mixer, x, mask):
    """Each example's real part by itself: landmarks are means of stretches, the inverse the iteration's."""
    outputs = []
    for row, length in zip(x, LENGTHS, strict=True):
        q, k, v = heads_of(mixer, row[None, :length])
        count = min(mixer.landmarks, length)
        stretch = np.arange(length) * mixer.landmarks // length
        means = np.stack([(stretch == s) / (stretch == s).sum() for s in np.unique(stretch)])
        assert len(means) == count
        scale = q.shape[-1] ** -0.5
        f, a, b = (
            jax.nn.softmax(queries @ keys.swapaxes(-1, -2) * scale)
            for queries, keys in ((q, means @ k), (means @ q, means @ k), (means @ q, k))
        )
        z = a.swapaxes(-1, -2) / (a.sum(-2).max(-1) * a.sum(-1).max(-1))[..., None, None]
        eye = np.eye(count, dtype=np.float32)
        for _ in range(mixer.iterations):
            z = z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z))) / 4
        y = f @ z @ b @ v
        if mixer.filters is not None:
            filters = mixer.filters[...]
            half = filters.shape[1] // 2
            for w in range(filters.shape[1]):
                inside = np.eye(length, k=w - half, dtype=np.float32)  # moves position l + w − W//2 to l
                y = y + filters[:, w, None, None] * (inside @ v)
        outputs.append(jnp.pad(joined(mixer, y)[0], ((0, x.shape[1] - length), (0, 0))))
    return jnp.stack(outputs)


@pytest.mark.parametrize("landmarks", [4, 50])
def test_equals_its_equation(landmarks):
    x, mask = inputs(lengths=LENGTHS)
    # Landmarks of near-equal rows make A near-singular, and its inverse enlarges rounding: hence 1e-4.
    mixer = build("nystromformer", landmarks=landmarks, kernel=5)
    assert_equals(mixer, naive, x, mask, tolerance=1e-4, rounded=0.05)


def test_landmarks_beyond_the_length_cost_nothing():
    """A window of one token needs no matrices of 64 × 64, which measuring how far it looks would pay for."""
    x, mask = inputs(lengths=LENGTHS)
    needed, given = (
        jax.jit(build("nystromformer", landmarks=landmarks)).lower(x, mask).cost_analysis()["flops"]
        for landmarks in (x.shape[1], 64)
    )
    assert given == needed


def exact(mixer, x, mask):
    return joined(mixer, attention(*heads_of(mixer, x), mask))


def test_landmarks_of_every_position_are_attention():
    # A A⁺ A = A, up to rounding enlarged by A's condition; equal queries and keys keep that below 20.
    x, mask = inputs(dim=32, lengths=(13, 9))
    mixer = build("nystromformer", dim=32, landmarks=13, kernel=0)
    p = mixer.projections
    p.key.kernel[...] = p.query.kernel[...]
    q, k, _ = heads_of(mixer, x)
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / 4)
    assert 3 < np.linalg.cond(np.asarray(weights)).max() < 20
    assert_limit(mixer, exact, x, mask)


def test_pseudo_inverse_converges():
    a = jax.nn.softmax(3 * normal(2, 3, 6, 6))
    a = a.at[0, :, 4].set(0).at[0, :, :, 4].set(0)  # an empty landmark
    want = np.linalg.pinv(np.asarray(a, np.float64))
    errors = [error(pseudo_inverse(a, initial_inverse(a), n), want) for n in (2, 6, 20)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4


def test_segments_are_of_the_real_positions():
    x = jnp.arange(10.0)[None, :, None]
    mask = (jnp.arange(10) < 6)[None]
    means, real = segment_means(x, mask, 3)
    np.testing.assert_allclose(means[0, :, 0], [0.5, 2.5, 4.5])
    assert real.all()
    means, real = segment_means(x, jnp.arange(10)[None] % 5 == 1, 4)  # positions 1 and 6 of ten, four stretches
    np.testing.assert_allclose(means[0, :, 0][real[0]], [1, 6])
    assert real.sum() == 2


@pytest.mark.parametrize("length, size", [(200, 33), (64, 5), (7, 101)])
def test_convolution_equals_the_sum(length, size):
    v, weights = normal(2, length, 3, 2), normal(3, size, seed=1)
    want = np.zeros(v.shape)
    for head in range(3):
        for channel in range(2):
            for example in range(2):
                full = np.convolve(v[example, :, head, channel], weights[head, ::-1])
                want[example, :, head, channel] = full[size // 2 :][:length]
    assert error(jax.jit(convolve)(v, weights), want) < 1e-6


def test_parameters_and_options():
    assert parameter_count("nystromformer") == 3_487_490 + 4 * 4 * 33
    assert parameter_count("nystromformer", kernel=0) == 3_487_490
    for wrong in ({"kernel": 4}, {"landmarks": 0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="must be"):
            build("nystromformer", **wrong)


def test_padding_changes_nothing():
    assert padding_changes("nystromformer", landmarks=4, kernel=5) < 1e-5
