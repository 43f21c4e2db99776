import jax
import jax.numpy as jnp
import numpy as np

from models.core.directions import both_ways, reverse
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


def test_both_ways_sums_over_what_is_before_and_after():
    """A cumulative sum, which counts a position itself twice."""
    x, mask = inputs(9, 3, (9, 4))

    def f(x: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.cumsum(jnp.where(mask[..., None], x, 0), axis=1)

    y, real = np.asarray(both_ways(f, x, mask)), np.where(np.asarray(mask)[..., None], np.asarray(x), 0)
    expected = np.array([[row[: t + 1].sum(0) + row[t:].sum(0) for t in range(9)] for row in real])
    np.testing.assert_allclose(y[np.asarray(mask)], expected[np.asarray(mask)], atol=1e-5)
