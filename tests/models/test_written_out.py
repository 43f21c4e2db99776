"""The whole encoder against its equations in NumPy, and where it drops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core import blocks as module
from models.core.encoder import Encoder
from models.core.layers import BatchRngs
from tests.helpers.mixing import jit

LENGTH, DIM, HIDDEN, CLASSES = 5, 6, 8, 3


class Mean(nnx.Module):
    """Adds to every position, projected, the mean of the real ones times the position's own first feature."""

    def __init__(self, rngs):
        self.out = nnx.Linear(DIM, DIM, use_bias=False, rngs=rngs)

    def __call__(self, x, mask, rngs=None):
        weight = mask.astype(x.dtype)[..., None]
        mean = (x * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
        return self.out(mean * x[..., :1])


def encoder(**shape):
    """An encoder whose every parameter is random, zeros of biases and of the CLS token included."""
    sizes = {"vocab": 9, "classes": CLASSES, "length": LENGTH, "dim": DIM, "layers": 2, "mlp": HIDDEN, "rate": 0.0}

    def build():
        return Encoder(lambda layer, dim, length, rngs: Mean(rngs), **sizes | shape, rngs=nnx.Rngs(0))

    model = nnx.eval_shape(build)
    rng = np.random.default_rng(0)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p: jnp.asarray(rng.normal(0.2, 0.5, p.shape), jnp.float32), params))
    return model


def examples(documents):
    tokens = np.random.default_rng(1).integers(1, 9, (2, documents, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([5, 3, 4, 2][: 2 * documents]).reshape(2, documents, 1)
    return np.where(mask, tokens, 0), mask


def value(variable):
    return np.asarray(variable[...], np.float64)


def linear(layer, x):
    return x @ value(layer.kernel) + (0 if layer.bias is None else value(layer.bias))


def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return unit * value(layer.scale) + value(layer.bias)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def encode(model, tokens, real):
    """One document [L] to its vector [D]."""
    x = value(model.embedding.embedding)[tokens]
    if model.pool == "cls":
        x, real = np.concatenate([value(model.cls)[None], x]), np.concatenate([[True], real])
    for place in range(len(x)):
        for i in range(DIM):
            angle = place / 10_000 ** (i // 2 * 2 / DIM)
            sinusoid = math.cos(angle) if i % 2 else math.sin(angle)
            x[place, i] += sinusoid if model.positions is None else value(model.positions)[place, i]
    for block in model.blocks:
        h = norm(block.norm_mixer, x)
        x = x + linear(block.mixer.out, h[real].mean(0) * h[:, :1])
        x = x + linear(block.mlp.out, gelu(linear(block.mlp.into, norm(block.norm_mlp, x))))
    x = norm(model.norm, x)
    return x[0] if model.pool == "cls" else x[real].mean(0)


@pytest.mark.parametrize(
    "shape",
    [
        {"pool": "cls"},
        {"pool": "mean", "positions": "learned"},
        {"pool": "cls", "positions": "learned", "pair": True},
        {"pool": "mean", "pair": True, "pair_head": "nli"},
    ],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_the_logits_are_those_of_the_equations(shape):
    model, pair = encoder(**shape), shape.get("pair", False)
    tokens, mask = examples(1 + pair)
    logits = jit(lambda tokens, mask: model(tokens, mask))(tokens, mask)
    for ids, real, got in zip(tokens, mask, logits, strict=True):
        e = [encode(model, *document) for document in zip(ids, real, strict=True)]
        if model.pair == "nli":
            e += [e[0] * e[1], e[0] - e[1]]
        x = np.concatenate(e)
        for layer in model.head:
            x = np.maximum(linear(layer, x), 0)
        np.testing.assert_allclose(got, linear(model.classifier, x), rtol=1e-4, atol=1e-5)


def test_every_site_drops_and_each_with_a_key_of_its_own(monkeypatch):
    """After the embedding; in each block after the mixer, and after each half of the feed-forward."""
    sites = []

    def record(x, rate, rngs, shared=False, tied=False):
        sites.append((x.shape, rate, jax.random.key_data(rngs.dropout())))
        return x

    monkeypatch.setattr(module, "dropout", record)
    tokens, mask = examples(1)
    model = encoder(rate=0.3)

    def run(key):
        model(tokens, mask, BatchRngs(key))
        return [drawn for _, _, drawn in sites]

    keys = jit(run)(jax.random.key(0))
    wide, narrow = (2, LENGTH + 1, HIDDEN), (2, LENGTH + 1, DIM)
    assert [shape for shape, _, _ in sites] == [narrow, *2 * (narrow, wide, narrow)]
    assert {rate for _, rate, _ in sites} == {0.3} and len({tuple(key.tolist()) for key in keys}) == 7
