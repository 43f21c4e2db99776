"""Reversible blocks: the same gradients as automatic differentiation, in memory that depth does not raise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core import reversible
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tests.helpers.mixing import QUICK, randomised


def gradient(name, layers, length, dropping=False, mixed=False, **shape):
    """A function of nothing, compiled: loss and gradients of a small encoder; and its compiled form."""
    first, last = (mixer_factory(n, {}, heads=2, dropout=0.2) for n in (name, "local"))

    def make(layer, *rest):
        return (last if mixed and layer == layers - 1 else first)(layer, *rest)

    sizes = {"vocab": 20, "classes": 3, "dim": 16, "mlp": 32, "layers": layers, "length": length} | shape
    model = randomised(lambda: Encoder(make, **sizes, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    tokens = np.random.default_rng(0).integers(1, 20, (2, 1, length), np.int32) * (np.arange(length) < length - 3)

    def loss(params, tokens):
        rngs = nnx.Rngs(dropout=3) if dropping else None
        return (nnx.merge(graph, params, rest)(tokens, tokens > 0, rngs) ** 2).sum()

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, tokens).compile(QUICK)
    return compiled(params, tokens), compiled


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dropping"), [("transformer", False), ("reformer", True)])
def test_gradients_are_those_of_automatic_differentiation(monkeypatch, name, dropping):
    """Also where the last block has another mixer than the others."""
    actual, _ = gradient(name, 3, 24, dropping, mixed=True, reversible=True)
    monkeypatch.setattr(reversible, "_run", reversible._run.fun)  # the same streams, without the custom rule
    expected, _ = gradient(name, 3, 24, dropping, mixed=True, reversible=True)
    assert actual[0] == pytest.approx(float(expected[0]), rel=1e-6)
    for a, e in zip(jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-4 * max(1, float(jnp.abs(e).max())))


@pytest.mark.slow
def test_activations_do_not_grow_with_depth():
    def temporaries(layers, reversible):
        _, compiled = gradient("local", layers, 512, reversible=reversible)
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8, True) < 1.2 * temporaries(2, True)
    assert temporaries(8, False) > 2.5 * temporaries(2, False)
