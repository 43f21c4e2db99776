"""A batch in parts, and blocks computed twice: the same draws and the same gradients as in one go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import BatchRngs
from tests.helpers.mixing import QUICK, build_encoder

DOCUMENTS, LENGTH = 4, 24
DRAWING = ("transformer", "transformer_naive", "local", "sparse", "longformer", "bigbird", "linformer", "reformer")
DRAWING += ("sinkhorn", "synthesizer", "luna", "fnet", "long_conv", "chordmixer", "mega", "mega_chunk")
"""Mixers that draw something for each document, and one that leaves that to the blocks."""
OPTIONS = {
    "bigbird": {"block": 4},
    "local": {"block": 8},
    "longformer": {"window": 8},
    "reformer": {"chunk": 8},
    "mega_chunk": {"chunk": 8},
}


@functools.cache
def program(name, documents, rate=0.2, **shape):
    """(first document, tokens of `documents`) → gradients of a loss that sums over documents."""
    options = OPTIONS.get(name, {})
    model = build_encoder(name, LENGTH, rate=rate, mixer=options, vocab=20, **({"layers": 1} | shape))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, tokens, first):
        rngs = BatchRngs(jax.random.key(3), first)
        return (nnx.merge(graph, params, rest)(tokens, tokens > 0, rngs) ** 2).sum()

    tokens, first = jax.ShapeDtypeStruct((documents, 1, LENGTH), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    compiled = jax.jit(jax.grad(loss)).lower(params, tokens, first).compile(QUICK)
    return lambda tokens, first: jax.tree.leaves(compiled(params, tokens, np.int32(first)))


def gradients(name, parts, step=1, **options):
    """Gradients of a loss that sums over documents, as the sum over `parts` of the batch, numbered by `step`s."""
    tokens = np.random.default_rng(0).integers(1, 20, (DOCUMENTS, 1, LENGTH), np.int32)
    tokens *= np.arange(LENGTH) < np.array([24, 5, 17, 1])[:, None, None]
    size = DOCUMENTS // parts
    differentiate = program(name, size, **options)
    results = [differentiate(tokens[i : i + size], i * step) for i in range(0, DOCUMENTS, size)]
    return [np.sum([np.asarray(leaf) for leaf in leaves], axis=0) for leaves in zip(*results, strict=True)]


def assert_close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * max(1, np.abs(e).max()))


@pytest.mark.parametrize("name", DRAWING)
def test_a_batch_in_parts_meets_the_draws_of_the_whole(name):
    assert_close(gradients(name, 2), gradients(name, 1))


def test_documents_draw_differently():
    """Else the test above would hold without any numbering."""
    whole, without = gradients("transformer", 1), gradients("transformer", 1, rate=0.0)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(whole, without, strict=True))
    same_draws = gradients("transformer", 2, step=0)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(whole, same_draws, strict=True))


@pytest.mark.parametrize("name", ["transformer", "luna", "reformer", "fnet", "mega"])
def test_recomputed_blocks_draw_the_same(name):
    assert_close(gradients(name, 1, layers=2, remat=True), gradients(name, 1, layers=2))


def test_reversible_blocks_in_parts_too():
    shape = {"layers": 2, "reversible": True}
    assert_close(gradients("transformer", 2, **shape), gradients("transformer", 1, **shape))
