"""Learning-rate schedules and the optimizer of a recipe."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from configs.recipe import Optimizer, Recipe, Schedule


def learning_rate(optimizer: Optimizer, schedule: Schedule, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The absolute learning rate at a step counted from 0.

    base · min(1, step / warmup) times: rsqrt 1 / √max(step, warmup); cosine ½ (1 + cos π·p) or linear 1 − p with
    p the progress from warmup to the last step; constant 1. With rsqrt, base is not the peak: that is
    base / √warmup.
    """

    def rate(step: jax.Array) -> jax.Array:
        s = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, s / max(schedule.warmup, 1))
        if schedule.warmup == 0:
            warm = jnp.ones_like(s)
        progress = jnp.clip((s - schedule.warmup) / max(steps - schedule.warmup, 1), 0.0, 1.0)
        decay = {
            "rsqrt": jax.lax.rsqrt(jnp.maximum(s, max(schedule.warmup, 1))),
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
            "linear": 1 - progress,
            "constant": jnp.ones_like(s),
        }[schedule.decay]
        return optimizer.learning_rate * warm * decay

    return rate


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, and the gradient's clipping if any."""
    o = recipe.optimizer
    rate = learning_rate(o, recipe.schedule, recipe.train.steps)
    adam = optax.adamw(rate, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay)
    return optax.chain(optax.clip_by_global_norm(o.clip), adam) if o.clip else adam
