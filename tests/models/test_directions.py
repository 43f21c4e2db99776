import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.directions import backward_gain, read, reverse
from tests.helpers.mixing import inputs

MASK = jnp.asarray([[True] * 5, [True, True, True, False, False], [False] * 5, [True, False, True, True, False]])


def test_the_real_part_is_reversed():
    x = jnp.asarray(np.arange(40.0).reshape(4, 5, 2), jnp.float32)
    order = np.array([[4, 3, 2, 1, 0], [2, 1, 0, 3, 4], [0, 1, 2, 3, 4], [3, 2, 1, 0, 4]])
    np.testing.assert_array_equal(reverse(x, MASK), np.take_along_axis(np.asarray(x), order[:, :, None], 1))
    np.testing.assert_array_equal(reverse(MASK, MASK)[3], [True, True, False, True, False])
    np.testing.assert_array_equal(reverse(reverse(x, MASK), MASK), x)


def test_the_gradient_is_that_of_the_permutation():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 2)), jnp.float32)
    gradient = jax.grad(lambda x: (weight * reverse(x, MASK)).sum())(x)
    np.testing.assert_array_equal(gradient, reverse(weight, MASK))


def test_what_is_before_and_what_is_after_are_weighed_and_added():
    """A cumulative sum, of which a position itself is part in both directions."""
    x, mask = inputs(9, 3, (9, 4))

    def f(x: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.cumsum(jnp.where(mask[..., None], x, 0), axis=1)

    gain, real = nnx.Param(jnp.asarray([1.0, -1.0, 0.25])), np.where(np.asarray(mask)[..., None], np.asarray(x), 0)
    before = np.array([[row[: t + 1].sum(0) for t in range(9)] for row in real])
    after = np.array([[row[t:].sum(0) for t in range(9)] for row in real])
    for backward, expected in ((gain, before + np.asarray(gain[...]) * after), (None, before)):
        y = np.asarray(read(f, x, mask, backward))
        np.testing.assert_allclose(y[np.asarray(mask)], expected[np.asarray(mask)], atol=1e-5)


def test_half_of_the_features_are_added_and_half_subtracted_at_first():
    np.testing.assert_array_equal(backward_gain(5)[...], [1, -1, 1, -1, 1])
