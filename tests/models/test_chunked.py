import jax
import numpy as np
import pytest
from flax import nnx

from models.core import chunked
from tests.helpers.mixing import HEADS, build, call_itself, differentiated, error, inputs, jit, run

OPTIONS = {
    "performer": {"features": 10},
    "performer:relu": {"features": 10, "kernel": "relu"},
    "nystromformer": {"landmarks": 4, "kernel": 5},
    "skyformer": {"landmarks": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_chunks_change_nothing(name, monkeypatch):
    """Thirteen positions in chunks of four, one or two of the six problems at once: outputs and gradients."""
    x, mask = inputs()
    mixer = build(name.split(":")[0], **OPTIONS[name])
    results = []
    for plan in (None, (1, 4), (2, 4)):
        if plan:
            monkeypatch.setattr(chunked, "plan_tiles", lambda *_, plan=plan: plan)
        results.append(differentiated(mixer, call_itself)(x, nnx.state(mixer, nnx.Param), mask, mask))
    (expected, expected_gradients), *others = results
    scale = max(np.abs(g).max() for g in expected_gradients)
    for actual, gradients in others:
        assert error(actual, expected) < 1e-5
        for g, e in zip(gradients, expected_gradients, strict=True):
            assert np.abs(g - e).max() < 1e-5 * scale


def test_chunks_under_vmap(monkeypatch):
    monkeypatch.setattr(chunked, "plan_tiles", lambda *_: (1, 4))
    x, mask = inputs()
    mixer = build("performer", features=10)
    each = jit(jax.vmap(lambda x, mask: mixer(x[None], mask[None])[0]))
    assert error(each(x, mask), run(mixer, x, mask)) < 1e-6


@pytest.mark.parametrize("name", ["performer", "nystromformer", "skyformer"])
def test_no_array_of_all_features(name):
    # Not even the backward pass keeps one float32 array of all positions' features.
    length, features = 16384, 128
    mixer = build(name, length=length, **{"features" if name == "performer" else "landmarks": features})
    x, mask = inputs(length, lengths=(length,))
    step = jax.jit(jax.grad(lambda x: (mixer(x, mask) ** 2).sum())).lower(x).compile()
    assert step.memory_analysis().temp_size_in_bytes < length * HEADS * features * 4
