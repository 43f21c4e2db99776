"""Paths that mixers take on accelerators alone compute the same function; here on a CPU."""

import jax
import numpy as np
import pytest
from flax import nnx

from configs.quick import recipe
from models.attention import transformer
from tests.helpers.mixing import build_encoder, jit

LENGTH = 77
BY_BACKEND = (
    "transformer", "local", "sparse", "longformer", "bigbird", "reformer", "fnet", "performer", "nystromformer",
    "skyformer", "s5", "lru", "short_conv", "hyena", "retnet", "gla", "lion_d", "lion_s", "mamba", "hgrn",
    "mega", "mega_chunk", "mamba2", "deltanet", "gated_deltanet",
)  # fmt: skip
"""Mixers that ask which backend they are on: for tiles, sums over blocks, chunks, transforms, scans or gradients."""


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_BACKEND)
def test_an_accelerator_s_way_gives_a_cpu_s_numbers(name, monkeypatch):
    options = dict(recipe("listops_short", name).mixer)
    graph, params, rest = nnx.split(build_encoder(name, LENGTH, 16, mixer=options), nnx.Param, ...)
    tokens = np.random.default_rng(0).integers(1, 11, (3, 1, LENGTH), np.int32)
    tokens *= np.arange(LENGTH) < np.array([LENGTH, 40, 3])[:, None, None]

    def loss(params, tokens):
        logits = nnx.merge(graph, params, rest)(tokens, tokens > 0, nnx.Rngs(dropout=1))
        return (logits * logits).sum(), logits

    def compute():
        return jax.tree.leaves(jit(jax.value_and_grad(lambda *a: loss(*a), has_aux=True))(params, tokens))

    expected = compute()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(transformer, "capability", lambda: 0.0)  # no NVIDIA GPU: no kernel of its own
    for a, e in zip(compute(), expected, strict=True):
        np.testing.assert_allclose(a, e, atol=2e-5 * max(1, np.abs(e).max()))
