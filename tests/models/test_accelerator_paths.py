"""Paths that mixers take on accelerators alone compute the same function; here on a CPU."""

import jax
import numpy as np
import pytest
from flax import nnx

from configs.quick import recipe
from models import attention
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tests.helpers.mixers import QUICK

LENGTH = 77
BY_BACKEND = (
    "transformer", "local", "sparse", "longformer", "bigbird", "reformer", "fnet", "performer", "nystromformer",
    "skyformer",
)  # fmt: skip
"""Mixers that ask which backend they are on: for their tiles, sums over blocks, chunks or transforms."""


@pytest.mark.parametrize("name", BY_BACKEND)
def test_an_accelerator_s_way_gives_a_cpu_s_numbers(name, monkeypatch):
    make = mixer_factory(name, dict(recipe("listops_short", name).mixer), heads=2, qkv=16, dropout=0.1, layers=1)
    module = Encoder(make, vocab=12, classes=3, length=LENGTH, dim=16, layers=1, mlp=16, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    tokens = np.random.default_rng(0).integers(1, 12, (3, 1, LENGTH), np.int32)
    tokens *= np.arange(LENGTH) < np.array([LENGTH, 40, 3])[:, None, None]

    def loss(params, tokens):
        logits = nnx.merge(graph, params, rest)(tokens, tokens > 0, nnx.Rngs(dropout=1))
        return (logits * logits).sum(), logits

    def compute():
        both = jax.jit(jax.value_and_grad(lambda *a: loss(*a), has_aux=True), compiler_options=QUICK)
        return jax.tree.leaves(both(params, tokens))

    want = compute()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "capability", lambda: 0.0)  # no NVIDIA GPU: no kernel of its own
    for a, b in zip(compute(), want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))
