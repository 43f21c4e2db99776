import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.convolution.short_conv import ShortConv
from models.core.initial import InitialRngs
from tests.helpers.mixing import assert_equals, build, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed


def naive(mixer, x, mask):
    """The sum of the docstring, position by position."""
    u, length = zeroed(x, mask), x.shape[1]
    kernel = mixer.taps.kernel[...]
    rows = []
    for t in range(length):
        sees = [(j, t + j - len(kernel) // 2) for j in range(len(kernel))]
        rows.append(sum(kernel[j] * u[:, s] for j, s in sees if 0 <= s < length) + mixer.taps.bias[...])
    return jnp.stack(rows, 1).astype(x.dtype)


@pytest.mark.parametrize("width", [1, 3, 5, 33])
def test_equals_the_sum(width):
    x, mask = inputs()
    assert_equals(build("short_conv", width=width), naive, x, mask, rounded=0.01)


def test_sees_its_window_and_no_more():
    x, mask = inputs(lengths=(13,))
    mixer = build("short_conv", width=5)
    moved = np.abs(run(mixer, x.at[0, 6].add(1.0), mask) - run(mixer, x, mask)).max((0, 2))
    assert list(np.flatnonzero(moved > 1e-6)) == [4, 5, 6, 7, 8]


def test_starts_as_a_convolution_of_flax_and_of_pytorch():
    """With fan-in `width`: N(0, 1 / width), truncated, and no bias; or both uniform in ±1 / √width."""
    flax = ShortConv(4096, 8, width=5, rngs=nnx.Rngs(0)).taps
    conv = nnx.Conv(4096, 4096, 5, feature_group_count=4096, rngs=nnx.Rngs(1))
    assert np.asarray(flax.kernel[...]).std() == pytest.approx(5**-0.5, rel=0.02)
    assert np.asarray(conv.kernel[...]).std() == pytest.approx(5**-0.5, rel=0.02)
    assert not flax.bias[...].any()
    torch = ShortConv(4096, 8, width=5, rngs=InitialRngs(jax.random.key(0), "torch")).taps
    for array in (torch.kernel[...], torch.bias[...]):
        np.testing.assert_allclose(np.quantile(array, [0, 0.5, 1]), [-(5**-0.5), 0, 5**-0.5], atol=0.02)


def test_parameters():
    assert parameter_count("short_conv") == parameter_count("ff_only") + 4 * (5 * 256 + 256)


def test_padding_changes_nothing():
    assert padding_changes("short_conv") < 1e-5


def test_errors():
    for width in (0, 4):
        with pytest.raises(ValueError, match="width must be"):
            build("short_conv", width=width)
