"""Every mixer of the zoo in the encoder, on every kind of task: padded text, a pair, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.quick import recipe
from models import MIXERS
from models.core.factory import load_mixer, mixer_parameters
from tests.helpers.mixing import build, build_encoder, inputs, jit, parameter_count, run

KINDS = {
    "text": {"length": 21, "pool": "cls"},
    "pair": {"length": 21, "pool": "cls", "pair": True},
    "picture": {"length": 36, "pool": "mean", "positions": "learned"},
}
OFFICIAL = 3_487_490
LARGER = {
    "linformer": 3_551_554,
    "longformer": None,
    "synthesizer": None,
    "linear_mixing": None,
    "long_conv": None,
}
"""Mixers whose paper asks for more than the Transformer's parameters; None where more than 10 % more."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MIXERS)
def test_a_training_step_is_finite_and_reaches_every_parameter_s_loss(model, kind):
    shape, options = KINDS[kind], dict(recipe("listops_short", model).mixer)
    layers = 2 if kind == "text" and "layer" in mixer_parameters(load_mixer(model)) else 1
    module = build_encoder(model, dim=16, vocab=12, mlp=16, mixer=options, layers=layers, **shape)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    length, documents = shape["length"], 2 if shape.get("pair") else 1
    tokens = np.random.default_rng(0).integers(1, 12, (4, documents, length), np.int32)
    real = np.array([21, 5, 1, 13])[:, None, None] if kind != "picture" else length
    mask = np.broadcast_to(np.arange(length) < real, tokens.shape)
    tokens, mask, labels = map(jnp.asarray, (np.where(mask, tokens, 0), mask, [0, 1, 2, 0]))

    def step(params):
        def loss(params):
            logits = nnx.merge(graph, params, rest)(tokens, mask, nnx.Rngs(dropout=1))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    compiled = jit(step)
    value, gradient, moved = compiled(params)
    after, _, _ = compiled(moved)
    assert np.isfinite(value) and np.isfinite(after)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert after < value


@pytest.mark.parametrize("model", MIXERS)
def test_what_comes_out_at_padding_is_moderate(model):
    """Nothing reads it, but a norm, a mean with weight zero or a type of 16 bits would make NaN of what is huge."""
    options = dict(recipe("listops_short", model).mixer)
    x, mask = inputs(40, lengths=(40, 7, 1, 0, 23, 12, 30, 3))
    out = np.abs(run(build(model, 40, **options), 3 * x, mask))
    assert np.isfinite(out).all() and out.max() <= 5 * out[np.asarray(mask)].max()


@pytest.mark.parametrize("model", MIXERS)
def test_parameters_stay_within_ten_percent_of_the_transformer(model):
    count = parameter_count(model)
    if model in ("transformer", "local", "sparse", "bigbird", "linear_transformer", "performer"):
        assert count == OFFICIAL
    elif model not in LARGER:
        assert count <= 1.1 * OFFICIAL
    elif LARGER[model] is not None:
        assert count == LARGER[model]
    else:
        assert count > 1.1 * OFFICIAL
        assert "parameter" in (load_mixer(model).__doc__ or "")
