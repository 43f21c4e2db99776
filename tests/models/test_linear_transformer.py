import jax
import jax.numpy as jnp

from tests.helpers.mixing import assert_equals, build, heads_of, inputs, joined, padding_changes, parameter_count


def naive(mixer, x, mask):
    """The explicit quadratic form: weights φ(q_l)·φ(k_m) over the real keys, each row divided by its sum."""
    q, k, v = heads_of(mixer, x)
    q, k = (jnp.where(a > 0, a + 1, jnp.exp(a)) for a in (q, k))
    weights = (q @ k.swapaxes(-1, -2)) * mask[:, None, None, :]
    return joined(mixer, weights / weights.sum(-1, keepdims=True) @ v)


def test_equals_the_quadratic_form():
    x, mask = inputs()
    mixer = build("linear_transformer")
    assert_equals(mixer, naive, x, mask)


def test_a_hole_in_the_mask_is_honoured():
    x, _ = inputs(lengths=(13,))
    mask = jnp.ones((1, 13), bool).at[0, 4].set(False)
    mixer = build("linear_transformer")
    changed = mixer(x.at[0, 4].set(100.0), mask)
    kept = jnp.where(mask[..., None], mixer(x, mask) - changed, 0)
    assert float(jnp.abs(kept).max()) < 1e-6


def test_parameters():
    assert parameter_count("linear_transformer") == 3_487_490


def test_padding_changes_nothing():
    assert padding_changes("linear_transformer") < 1e-5


def test_no_square_array():
    # The compiled program's temporary memory stays far below one L×L array.
    mixer = build("linear_transformer", length=2048)
    x, mask = inputs(2048, lengths=(2048,))
    temporary = jax.jit(mixer.__call__).lower(x, mask).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 2048 * 2048 * 4 / 8
