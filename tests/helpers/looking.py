"""Tiny models and random examples for the tests of how far models look."""

import dataclasses

import numpy as np
from flax import nnx

from lra.train.reach import Sample
from lra.train.worker import build
from tests.helpers.training import RECIPE

SHAPE = RECIPE.encoder
POINTWISE = dataclasses.replace(SHAPE, positions="none", pool="mean")


def model_of(mixer, shape=POINTWISE, length=16, seed=0, pair=False, **options):
    recipe = dataclasses.replace(RECIPE, encoder=shape, mixer=tuple(options.items()))
    model = build(mixer, recipe, vocab=9, classes=4, pair=pair, length=length, seed=seed)
    model.eval()
    return model


def parts(model):
    """What `measure` takes: how to make the model, and its variables."""
    graph, state = nnx.split(model)

    def make(state):
        made = nnx.merge(graph, state)
        made.eval()
        return made

    return make, state


def random_sample(count=40, length=16, documents=1, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, (count, documents)).astype(np.int32)
    lengths[0] = length
    values = rng.integers(0, 8, (count, documents, length)).astype(np.uint8)
    return Sample(values, lengths, rng.integers(0, 4, count).astype(np.int32))
