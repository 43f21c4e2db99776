"""Sinkhorn attention against its equations, block by block; the normalisation; and what sorting does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention.sinkhorn import normalise, sorted_attention
from models.core.layers import split_heads
from tests.helpers.mixing import assert_equals, build, dense, full_attention, inputs, jit, normal, parameter_count, run


def reference(mixer, x, mask, lengths):
    """One example, head and block after the other; empty blocks are cut out of the sort."""
    block, (batch, length, _) = mixer.block, x.shape
    size = -(-length // block) * block
    real = np.arange(size) < np.array(lengths)[:, None]
    x, q, k, v = (jnp.pad(y, ((0, 0), (0, size - length)) + ((0, 0),) * (y.ndim - 2)) for y in (x, *mixer.project(x)))
    out = jnp.zeros_like(q)
    for b, h in np.ndindex(batch, mixer.heads):
        used = np.flatnonzero(real[b].reshape(-1, block).any(1))
        spans = used[:, None] * block + np.arange(block)  # [N, b]
        there = real[b][spans]
        pooled = (x[b, spans] * there[..., None]).sum(1)
        hidden = split_heads(jax.nn.relu(mixer.pooled(pooled)), mixer.heads)[:, h]
        logits = jax.nn.relu(hidden @ mixer.sort[h] + mixer.sort_bias[h])[:, used]
        sort = jnp.exp(logits / mixer.temperature)
        for _ in range(mixer.iterations):
            sort = sort / sort.sum(1, keepdims=True)
            sort = sort / sort.sum(0, keepdims=True)
        for n, span in enumerate(spans):
            some = there.any(0)
            share = (sort[n] @ there / sort[n].sum())[some]
            far = [
                sum(sort[n, m] * y[b, spans[m], h] * there[m][:, None] for m in range(len(used)))[some] / share[:, None]
                for y in (k, v)
            ]
            own = span[there[n]]
            keys, values = (jnp.concatenate([a, y[b, own, h]]) for a, y in zip(far, (k, v), strict=True))
            weights = jnp.exp(q[b, span, h] @ keys.T / np.sqrt(keys.shape[1]))
            weights = weights * jnp.concatenate([share, jnp.ones(len(own))])
            out = out.at[b, span, h].set(weights @ values / weights.sum(1, keepdims=True))
    return mixer.join(out[:, :length])


@pytest.mark.parametrize(("lengths", "rounded"), [((12, 6), None), ((7, 5), 6e-2)])
def test_equals_the_equations(lengths, rounded):
    x, mask = inputs(lengths[0], lengths=lengths)
    mixer = build("sinkhorn", lengths[0], block=4, iterations=3)
    expected = partial(reference, lengths=lengths)
    assert_equals(mixer, expected, x, mask, rounded=rounded, rounded_gradients=rounded, at_padding=True)


def test_one_block_is_full_attention():
    """The only block sorts to itself: every key counts twice, which no softmax notices."""
    mixer, (x, mask) = build("sinkhorn", 21, 16, block=50), inputs(21, 16, (21, 17))
    assert_equals(mixer, full_attention, x, mask, rounded=None, at_padding=True)


def test_normalisation_is_doubly_stochastic_and_sharp_logits_permute():
    real = np.arange(6) < np.array([[6], [4]])
    quick = jit(normalise, static_argnums=2)
    out = np.asarray(quick(normal(2, 3, 6, 6), real, 30))
    for axis in (-1, -2):
        np.testing.assert_allclose(out.sum(axis), np.broadcast_to(real[:, None], (2, 3, 6)), atol=1e-4)
    wanted = np.eye(6)[[3, 1, 0, 5, 4, 2]]
    np.testing.assert_allclose(quick(30 * wanted[None, None].astype(np.float32), real[:1], 5)[0, 0], wanted, atol=1e-5)


def test_a_permutation_brings_exactly_that_block():
    q, k, v = jax.random.normal(jax.random.key(1), (3, 1, 3, 4, 1, 8))
    real = jnp.arange(12).reshape(1, 3, 4) < 10
    order = jnp.eye(3)[jnp.array([2, 0, 1])][None, None]
    by_head = (x.transpose(0, 3, 1, 2, 4) for x in (q, k, v))
    actual = jit(sorted_attention)(*by_head, real, order).transpose(1, 2, 0, 3)[None]
    for block, other in enumerate([2, 0, 1]):
        keys, values = (jnp.concatenate([y[:, block], y[:, other]], 1) for y in (k, v))
        seen = jnp.concatenate([real[:, block], real[:, other]], 1)
        np.testing.assert_allclose(actual[:, block], dense(q[:, block], keys, values, seen[:, None, None]), atol=1e-6)


def test_what_is_padded_does_not_matter():
    mixer = build("sinkhorn", 30, 16, block=7)
    x, mask = inputs(30, 16, (30, 19))
    other = jnp.where(mask[..., None], x, 5.0)
    real = np.asarray(mask)[..., None]
    np.testing.assert_allclose(run(mixer, x, mask) * real, run(mixer, other, mask) * real, atol=1e-6)


def test_noise_in_training_only():
    x, mask = inputs(20, lengths=(20, 20))
    quiet = build("sinkhorn", 20, heads=1, block=5, noise=False)
    noisy = build("sinkhorn", 20, heads=1, block=5)
    evaluated = run(noisy, x, mask)
    np.testing.assert_allclose(run(quiet, x, mask, seed=1), evaluated, atol=1e-6)
    assert np.abs(run(noisy, x, mask, seed=1) - evaluated).max() > 1e-3


def test_parameters_and_options():
    assert parameter_count("sinkhorn") == 3_772_498 < 1.1 * 3_487_490
    for wrong in ({"block": 0}, {"iterations": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("sinkhorn", **wrong)
