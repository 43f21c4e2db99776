"""Norms against their equations, and batch norm's running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import BatchRngs
from models.core.norms import make_norm
from tests.helpers.mixing import inputs, jit

X, MASK = inputs(13, 8, (13, 7, 1))
x, mask = np.asarray(3 * X + 2, np.float64), np.asarray(MASK)
rng = np.random.default_rng(3)


def norm(kind, momentum=0.9):
    """A norm with random gains and biases."""
    module = make_norm(kind, 8, momentum, nnx.Rngs(0))
    for parameter in jax.tree.leaves(nnx.state(module, nnx.Param), is_leaf=lambda v: isinstance(v, nnx.Variable)):
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape), jnp.float32)
    return module


def features(kind, module):
    """The norms of a position's own features."""
    gain = np.asarray(module.scale[...], np.float64)
    if kind == "layer":
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * gain + np.asarray(module.bias[...])
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain


@pytest.mark.parametrize(("kind", "count"), [("layer", 16), ("rms", 8), ("scale", 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norms_of_a_position(kind, count, dtype):
    module = norm(kind)
    assert sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param))) == count
    graph, state = nnx.split(module)
    cast = nnx.merge(graph, jax.tree.map(lambda p: p.astype(dtype), state))
    got = jit(lambda x: cast(x, MASK, None))(jnp.asarray(x, dtype))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(np.asarray(got, np.float64), features(kind, module), rtol=tolerance, atol=tolerance)


def moments():
    real = x[mask]
    return real.mean(0), real.var(0)


def test_batch_norm_is_that_of_the_real_positions():
    module = norm("batch")
    mean, var = moments()
    gain, bias = (np.asarray(p[...], np.float64) for p in (module.scale, module.bias))
    got = module(jnp.asarray(x, jnp.float32), MASK, BatchRngs(jax.random.key(0)))
    want = (x - mean) / np.sqrt(var + 1e-5) * gain + bias
    np.testing.assert_allclose(np.asarray(got)[mask], want[mask], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(module.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(module.var[...], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_evaluates_with_what_it_has_seen():
    module = norm("batch", momentum=0.5)
    gain, bias = (np.asarray(p[...], np.float64) for p in (module.scale, module.bias))
    module.mean[...], module.var[...] = jnp.arange(8.0), 1 + jnp.arange(8.0)
    want = (x - np.arange(8)) / np.sqrt(1 + np.arange(8) + 1e-5) * gain + bias
    np.testing.assert_allclose(module(jnp.asarray(x, jnp.float32), MASK, None), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module.mean[...], np.arange(8))


@pytest.mark.parametrize("moved", [0.0, 1e4])
def test_batch_norm_s_gradient_and_output_do_not_see_padding(moved):
    module, weight = norm("batch"), jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    other = jnp.asarray(np.where(mask[..., None], x, moved), jnp.float32)

    graph, state = nnx.split(module)

    def total(x):
        y = nnx.merge(graph, jax.tree.map(lambda p: p, state))(x, MASK, BatchRngs(jax.random.key(0)))
        return jnp.where(MASK[..., None], y * weight, 0).sum()

    def naive(x):
        flat = x.reshape(-1, 8)[np.flatnonzero(mask)]
        mean = flat.mean(0, keepdims=True)
        var = ((flat - mean) ** 2).mean(0, keepdims=True)
        y = (flat - mean) / jnp.sqrt(var + 1e-5) * module.scale[...][None] + module.bias[...][None]
        return (y * weight.reshape(-1, 8)[np.flatnonzero(mask)]).sum()

    got, want = jax.grad(total)(other), jax.grad(naive)(other)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    assert np.abs(np.asarray(want)[mask]).max() > 0.1 and not np.asarray(got)[~mask].any()


def test_a_batch_of_padding_alone_is_no_error():
    module = norm("batch")
    y = module(jnp.asarray(x, jnp.float32), jnp.zeros_like(MASK), BatchRngs(jax.random.key(0)))
    assert np.isfinite(y).all() and np.isfinite(module.var[...]).all()
