"""Every mixer of the zoo in the encoder, on every kind of task: padded text, a pair, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.quick import recipe
from models import MIXERS
from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory
from tests.helpers.mixers_b import QUICK

KINDS = {
    "text": {"length": 21, "pool": "cls", "layers": 2},
    "pair": {"length": 21, "pool": "cls", "pair": True, "layers": 1},
    "picture": {"length": 36, "pool": "mean", "positions": "learned", "layers": 1},
}
OFFICIAL = 3_487_490
LARGER = {
    "linformer": 3_551_554,
    "longformer": None,
    "synthesizer": None,
    "linear_mixing": None,
}
"""Mixers whose paper asks for more than the Transformer's parameters; None where more than 10 % more."""


def encoder(model: str, **shape) -> Encoder:
    options = dict(recipe("listops_short", model).mixer)
    make = mixer_factory(model, options, heads=2, qkv=16, dropout=0.1, layers=shape["layers"])
    return Encoder(make, vocab=12, classes=3, dim=16, mlp=16, rate=0.1, rngs=nnx.Rngs(0), **shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MIXERS)
def test_a_training_step_is_finite_and_reaches_every_parameter_s_loss(model, kind):
    shape = KINDS[kind]
    module = encoder(model, **shape)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    documents = 2 if shape.get("pair") else 1
    tokens = jax.random.randint(jax.random.key(0), (4, documents, shape["length"]), 1, 12)
    real = jnp.array([21, 5, 1, 13])[:, None, None] if kind != "picture" else shape["length"]
    mask = jnp.broadcast_to(jnp.arange(shape["length"]) < real, tokens.shape)
    tokens = jnp.where(mask, tokens, 0)
    labels = jnp.array([0, 1, 2, 0])

    def step(params):
        def loss(params):
            logits = nnx.merge(graph, params, rest)(tokens, mask, nnx.Rngs(dropout=1))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    run = jax.jit(step, compiler_options=QUICK)
    value, gradient, moved = run(params)
    after, _, _ = run(moved)
    assert np.isfinite(value) and np.isfinite(after)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert after < value


@pytest.mark.parametrize("model", MIXERS)
def test_parameters_stay_within_ten_percent_of_the_transformer(model):
    make = mixer_factory(model, {}, heads=4, qkv=256, dropout=0.1, layers=4)
    shape = {"vocab": 260, "classes": 2, "length": 1000, "dim": 256, "layers": 4, "mlp": 1024}
    module = nnx.eval_shape(lambda: Encoder(make, **shape, rngs=nnx.Rngs(0)))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
    if model in ("transformer", "local", "sparse", "bigbird", "linear_transformer", "performer"):
        assert count == OFFICIAL
    elif model not in LARGER:
        assert count <= 1.1 * OFFICIAL
    elif LARGER[model] is not None:
        assert count == LARGER[model]
    else:
        assert count > 1.1 * OFFICIAL
        assert "parameter" in (load_mixer(model).__doc__ or "")
