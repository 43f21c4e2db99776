import jax
import numpy as np
from flax import nnx

from models.core.layers import Constant
from models.mixing.random_mixing import RandomMixing
from tests.helpers.mixing import (
    assert_equals,
    build,
    build_encoder,
    error,
    inputs,
    padding_changes,
    padding_is_mixed_in,
    parameter_count,
    run,
)


def naive(mixer, x, mask):
    """out[l, d] = Σ_m Σ_e S[l, m] x[m, e] W[e, d], all terms at once."""
    sequence, hidden = mixer.sequence[...], mixer.hidden[...]
    terms = sequence[:, :, None, None] * x[:, None, :, :, None] * hidden  # [B, l, m, e, d]
    return terms.sum((2, 3))


def test_linear_equals_the_double_sum():
    x, mask = inputs(length=7, lengths=(7, 4))
    mixer = build("linear_mixing", length=7)
    assert_equals(mixer, naive, x, mask)


def test_random_equals_the_double_sum_and_is_never_trained():
    x, mask = inputs(length=7, lengths=(7, 4))
    mixer = build("random_mixing", length=7)
    assert_equals(mixer, naive, x, mask)
    assert not jax.tree.leaves(nnx.state(mixer, nnx.Param))
    assert len(jax.tree.leaves(nnx.state(mixer, Constant))) == 2
    assert error(build("random_mixing", seed=1, length=7)(x, mask), mixer(x, mask)) > 0.1


def test_scale_is_kept():
    x, mask = inputs(length=400, dim=64, lengths=(400,))
    assert 0.8 < float(run(RandomMixing(64, 400, rngs=nnx.Rngs(0)), x, mask).std()) < 1.25


def test_ff_only_mixes_nothing():
    x, mask = inputs()
    np.testing.assert_array_equal(build("ff_only")(x, mask), np.zeros_like(x))
    tokens = np.array([[[1, 2, 3]], [[4, 5, 6]]])
    seen = run(build_encoder("ff_only", 3), tokens, np.ones(tokens.shape, bool))
    np.testing.assert_array_equal(seen[0], seen[1])  # CLS pooling: the document is not seen


def test_parameters():
    base = 3_487_490 - 4 * 4 * 256**2
    assert parameter_count("linear_mixing") == base + 4 * (1001**2 + 256**2) == 6_709_062
    assert parameter_count("random_mixing") == parameter_count("ff_only") == base


def test_padding():
    assert padding_is_mixed_in("linear_mixing")
    assert padding_is_mixed_in("random_mixing")
    assert padding_changes("ff_only", pool="mean") < 1e-5
