"""Clipping, whose gradient Adam's own scaling hides but for a large eps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipe import Optimizer, Schedule
from lra.train.optimizer import make_optimizer
from tests.helpers.training import RECIPE


@pytest.mark.parametrize(("clip", "clipped"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_the_gradient_is_scaled_to_the_largest_global_norm(clip, clipped):
    """A first step of Adam with eps 1 is −rate · g / (|g| + 1)."""
    o = Optimizer(learning_rate=0.1, eps=1.0, clip=clip)
    optimizer = make_optimizer(dataclasses.replace(RECIPE, optimizer=o, schedule=Schedule("constant", warmup=0)))
    weights = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    update, _ = optimizer.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(weights), weights)
    g = np.array(clipped)
    np.testing.assert_allclose([update["a"][0], update["b"][0]], -0.1 * g / (g + 1), rtol=1e-5)
