"""What the state-space mixers and plain convolutions have in common, and the pieces that they share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.factory import load_mixer
from models.core.state_space import exponential_kernel, hippo, to_complex, to_pairs
from tests.helpers.mixing import error, inputs, normal, run
from tests.helpers.recurrences import build_stable

NAMES = ("s4d", "s5", "lru", "short_conv", "long_conv")


@pytest.mark.parametrize("name", NAMES)
def test_a_hole_in_the_mask_is_read_as_a_zero(name):
    """In both directions; and what it holds is not read at all."""
    x, _ = inputs(lengths=(13,))
    mask = jnp.ones((1, 13), bool).at[0, 4].set(False)
    mixer = build_stable(name)
    changed = run(mixer, x.at[0, 4].set(100.0), mask)
    assert error(changed, run(mixer, x.at[0, 4].set(0.0), jnp.ones_like(mask))) < 1e-6
    assert error(changed, run(mixer, x, jnp.ones_like(mask))) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_are_rounded_at_the_end_alone(name):
    """With parameters in float32, as those of a recurrence stay: kernels, transforms, states and sums are float32."""
    x, mask = inputs()
    mixer = build_stable(name)
    half = x.astype(jnp.bfloat16)
    graph, state = nnx.split(mixer)
    y = nnx.merge(graph, state)(half, mask)
    single = nnx.merge(graph, state)(half.astype(jnp.float32), mask)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, single.astype(jnp.bfloat16))


@pytest.mark.parametrize("name", NAMES)
def test_who_sees_whom(name):
    """All that follows and precedes in both directions; nothing that follows if there is one."""
    x, mask = inputs(lengths=(13,))
    options = {} if name == "short_conv" else {"bidirectional": False}
    for bidirectional in (True, False):
        mixer = build_stable(name, **({} if bidirectional else options))
        moved = np.abs(run(mixer, x.at[0, 6].add(1.0), mask) - run(mixer, x, mask)).max((0, 2)) > 1e-6
        if name == "short_conv":
            assert list(np.flatnonzero(moved)) == [4, 5, 6, 7, 8]
        else:
            assert moved[6:].all() and (moved[:6].all() if bidirectional else not moved[:6].any())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_real_and_in_single_precision(name):
    mixer = load_mixer(name)(8, 13, rngs=nnx.Rngs(0))
    leaves = jax.tree.leaves(nnx.state(mixer))
    assert leaves and {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len(leaves) == len(jax.tree.leaves(nnx.state(mixer, nnx.Param)))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_s_memory_is_linear_in_length(name):
    def temporaries(length):
        mixer = nnx.eval_shape(lambda: load_mixer(name)(16, length, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(mixer)
        x = jax.ShapeDtypeStruct((2, length, 16), jnp.float32)

        def loss(state, x):
            return (nnx.merge(graph, state)(x, jnp.ones(x.shape[:2], bool)) ** 2).sum()

        return jax.jit(jax.grad(loss, (0, 1))).lower(state, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.2 * temporaries(2048)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 31, 100])
def test_a_kernel_of_exponentials(length):
    """Against every power in double precision."""
    weight = np.asarray(normal(2, 3, 4, 2), np.float64) @ np.array([1, 1j])
    rate = -np.abs(np.asarray(normal(3, 4, seed=1))) + 2j * np.asarray(normal(3, 4, seed=2), np.float64)
    powers = np.exp(rate[..., None] * np.arange(length))
    expected = np.einsum("khn,hnl->khl", weight, powers).real
    actual = exponential_kernel(*(jnp.asarray(array, jnp.complex64) for array in (weight, rate)), length)
    assert actual.shape == (2, 3, length)
    assert error(actual, expected) < 2e-6


@pytest.mark.parametrize("size", [1, 4, 7, 16, 64])
def test_hippo_n(size):
    """A_nk of HiPPO-LegS plus the rank-one term that makes it normal, and the figures of its eigenvalues."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    legs = -np.where(n[:, None] > n, np.outer(root, root), np.diag(n + 1.0))
    normal_part = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    a, v, b = hippo(size)
    np.testing.assert_allclose(v @ np.diag(a) @ v.conj().T, normal_part, atol=1e-9 * size)
    np.testing.assert_allclose(v @ b, root, atol=1e-9 * size)
    np.testing.assert_allclose(v.conj().T @ v, np.eye(size), atol=1e-10)
    assert (v[0].real > 0).all() and np.abs(v[0].imag).max() < 1e-12
    figures = {4: (0.56, 4.6), 16: (0.35, 81), 64: (0.26, 1303)}
    if size in figures:
        frequencies = a.imag[size // 2 :]
        assert (frequencies.min(), frequencies.max()) == pytest.approx(figures[size], rel=0.02)
        np.testing.assert_allclose(a[: size // 2], a[size // 2 :].conj()[::-1])


def test_pairs():
    numbers = np.array([[1 + 2j, -3j]])
    np.testing.assert_array_equal(to_pairs(numbers), [[[1, 2], [0, -3]]])
    np.testing.assert_array_equal(to_complex(to_pairs(numbers)), numbers.astype(np.complex64))
    assert to_complex(to_pairs(numbers).astype(jnp.bfloat16)).dtype == jnp.complex64
