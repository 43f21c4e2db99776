import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.convolution.chordmixer import ChordMixer, rotate
from models.core.factory import mixer_factory
from tests.helpers.mixing import (
    assert_equals,
    build,
    error,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    permissively,
    run,
)

TRACKS = ((0, 2, 0), (2, 4, 1), (4, 6, 2), (6, 7, 4), (7, 8, 8))
"""First feature, end and shift of each of ⌈log₂ 13⌉ + 1 = 5 tracks of 8 features."""


def network(mixer, x, mask):
    """What is rotated."""
    into, out = mixer.into, mixer.out
    z = jax.nn.gelu(x @ into.kernel[...] + into.bias[...], approximate=False) @ out.kernel[...] + out.bias[...]
    return jnp.where(mask[..., None], z, 0)


def naive(mixer, x, mask):
    """Section 3 of the paper, each rotation as a matrix of zeros and ones for each document's length."""
    z, at = network(mixer, x, mask), np.arange(x.shape[1])
    length = (mask * (at + 1)).max(-1)[:, None, None]
    tracks = [
        ((at == (at[:, None] + shift) % length) & (at[:, None] < length)).astype(z.dtype) @ z[..., start:end]
        for start, end, shift in TRACKS
    ]
    return jnp.concatenate(tracks, -1)


@pytest.mark.parametrize("hidden", [0, 5])
def test_equals_the_rotations(hidden):
    x, mask = inputs()
    mixer = build("chordmixer", hidden=hidden)
    assert mixer.into.kernel.shape == (8, hidden or 16)
    assert_equals(mixer, naive, x, mask, at_padding=True)


def test_each_document_is_rolled_by_itself():
    x, mask = inputs()
    mixer = build("chordmixer")
    y, z = run(mixer, x, mask), np.asarray(permissively(network)(mixer, x, mask))
    for document, length in enumerate((13, 7, 1)):
        for start, end, shift in TRACKS:
            expected = np.roll(z[document, :length, start:end], -shift, axis=0)
            np.testing.assert_allclose(y[document, :length, start:end], expected, atol=1e-5)
        assert not y[document, length:].any()


def test_a_hole_in_the_mask_is_a_zero_that_others_rotate_over():
    x, _ = inputs(lengths=(13,))
    mask = jnp.ones((1, 13), bool).at[0, 4].set(False)
    mixer = build("chordmixer")
    assert_equals(mixer, naive, x, mask, at_padding=True)
    assert error(run(mixer, x.at[0, 4].set(100.0), mask), run(mixer, x, mask)) < 1e-6


@pytest.mark.parametrize("shift", [1, 4, 6, 64])
def test_rotations_and_their_gradients_in_several_at_once(shift):
    """As when seeds train together. The gradient rolls back."""
    x, g, lengths = normal(2, 3, 9, 2), normal(2, 3, 9, 2, seed=1), np.array([9, 6, 0])

    def both(x, g):
        y, back = jax.vjp(lambda x: rotate(x, jnp.asarray(lengths), shift), x)
        return y, back(g)[0]

    for given, actual, step in zip((x, g), jit(jax.vmap(both))(x, g), (-shift, shift), strict=True):
        expected = np.array(given)
        for document, length in enumerate(lengths):
            expected[:, document, :length] = np.roll(expected[:, document, :length], step, axis=1)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("length", [16, 13])
def test_as_many_layers_as_doublings_reach_everything(length):
    """⌈log₂ L⌉ layers without feed-forward, as the paper shows; few layers don't: one reaches a place a track."""

    def reached(layers):
        mixers = [build("chordmixer", length, 16, seed=seed) for seed in range(layers)]
        mask = jnp.ones((1, length), bool)

        def call(x):
            for mixer in mixers:
                x = x + mixer(x, mask)
            return x[0, 0]

        jacobian = jit(jax.jacobian(call))(normal(1, length, 16))
        return (np.abs(np.asarray(jacobian)[:, 0]).max((0, 2)) > 0).sum()

    assert reached(4) == length
    assert reached(1) == 5 and reached(2) < length


@pytest.mark.parametrize(
    ("dim", "length", "widths"), [(256, 1001, [24] * 3 + [23] * 8), (8, 1, [8]), (8, 2, [4, 4]), (5, 16, [1] * 5)]
)
def test_tracks_share_the_width(dim, length, widths):
    mixer = nnx.eval_shape(lambda: ChordMixer(dim, length, rngs=nnx.Rngs(0)))
    assert list(np.diff(mixer.ends)) == widths and sum(widths) == dim


def test_dropout_is_inside_the_network_at_the_encoder_s_rate():
    x, mask = inputs(40, 64, (40,))
    mixer = build("chordmixer", 40, 64, residual_dropout=0.5)
    mixer.into.kernel[...], mixer.into.bias[...] = jnp.zeros((64, 128)), jnp.ones(128)
    mixer.out.kernel[...], mixer.out.bias[...] = jnp.eye(128, 64), jnp.zeros(64)
    one = float(jax.nn.gelu(1.0, approximate=False))
    y = run(mixer, x, mask, seed=0)
    kept = y > one
    np.testing.assert_allclose(y, np.where(kept, 2 * one, 0), rtol=1e-5)
    assert kept.mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(run(mixer, x, mask), one, rtol=1e-5)
    make = mixer_factory("chordmixer", {}, dropout=0.1, residual_dropout=0.3)
    assert nnx.eval_shape(lambda: make(0, 8, 13, nnx.Rngs(0))).rate == 0.3


def test_scale_of_what_comes_out_for_white_noise():
    """With kernels N(0, 1 / n) that of a network with GELU: √E[GELU(z)²] = 0.652 for z ~ N(0, 1)."""
    x, mask = inputs(200, 128, (200,))
    y = run(ChordMixer(128, 200, rngs=nnx.Rngs(0)), x, mask)
    assert y.std() == pytest.approx(0.652, rel=0.05)


def test_parameters():
    assert parameter_count("chordmixer") == parameter_count("ff_only") + 4 * (4 * 256**2 + 3 * 256)
    assert parameter_count("chordmixer", hidden=256) == parameter_count("ff_only") + 4 * (2 * 256**2 + 2 * 256)


def test_padding_changes_nothing():
    assert padding_changes("chordmixer") < 1e-5
    assert padding_changes("chordmixer", pool="mean", layers=2) < 1e-5


def test_errors():
    with pytest.raises(ValueError, match="hidden"):
        build("chordmixer", hidden=-1)
    with pytest.raises(ValueError, match="17 positions need 6 tracks: too many for 5 features"):
        build("chordmixer", 17, 5)
