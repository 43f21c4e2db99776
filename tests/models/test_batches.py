"""A batch in parts, and blocks computed twice: the same draws and the same gradients as in one go."""

import jax
import numpy as np
import pytest
from flax import nnx

from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from models.core.layers import BatchRngs
from tests.helpers.mixers import QUICK

DOCUMENTS, LENGTH = 4, 24
DRAWING = ("transformer", "transformer_naive", "local", "sparse", "longformer", "bigbird", "linformer", "reformer")
DRAWING += ("sinkhorn", "synthesizer", "luna", "fnet")
"""Mixers that draw something for each document, and one that leaves that to the blocks."""
OPTIONS = {"bigbird": {"block": 4}, "local": {"block": 8}, "longformer": {"window": 8}, "reformer": {"chunk": 8}}


def gradients(name, parts, rate=0.2, step=1, **shape):
    """Gradients of a loss that sums over documents, as the sum over `parts` of the batch, numbered by `step`s."""
    make = mixer_factory(name, OPTIONS.get(name, {}), heads=2, dropout=rate)
    sizes = {"vocab": 20, "classes": 3, "dim": 16, "mlp": 32, "layers": 2, "length": LENGTH, "rate": rate}
    graph, params, rest = nnx.split(Encoder(make, **sizes, **shape, rngs=nnx.Rngs(0)), nnx.Param, ...)
    tokens = np.random.default_rng(0).integers(1, 20, (DOCUMENTS, 1, LENGTH))
    tokens *= np.arange(LENGTH) < np.array([24, 5, 17, 1])[:, None, None]

    def loss(params, tokens, first):
        rngs = BatchRngs(jax.random.key(3), first)
        return (nnx.merge(graph, params, rest)(tokens, tokens > 0, rngs) ** 2).sum()

    size = DOCUMENTS // parts
    compiled = jax.jit(jax.grad(loss)).lower(params, tokens[:size], 0).compile(QUICK)
    found = [compiled(params, tokens[i : i + size], i * step) for i in range(0, DOCUMENTS, size)]
    return [
        np.sum([np.asarray(leaf) for leaf in leaves], axis=0)
        for leaves in zip(*map(jax.tree.leaves, found), strict=True)
    ]


def assert_close(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", DRAWING)
def test_a_batch_in_parts_meets_the_draws_of_the_whole(name):
    assert_close(gradients(name, 2), gradients(name, 1))


def test_documents_draw_differently():
    """Else the test above would hold without any numbering."""
    whole, without = gradients("transformer", 1), gradients("transformer", 1, rate=0.0)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(whole, without, strict=True))
    same_draws = gradients("transformer", 2, step=0)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(whole, same_draws, strict=True))


@pytest.mark.parametrize("name", ["transformer", "luna", "reformer", "fnet"])
def test_recomputed_blocks_draw_the_same(name):
    assert_close(gradients(name, 1, remat=True), gradients(name, 1))


def test_reversible_blocks_in_parts_too():
    assert_close(gradients("transformer", 2, reversible=True), gradients("transformer", 1, reversible=True))
