"""Learning-rate schedules and the optimizer of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from configs.recipe import Optimizer, Recipe, Schedule
from lra.train import groups


def learning_rate(optimizer: Optimizer, schedule: Schedule, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Makes the learning-rate schedule, a function of the step counted from 0.

    The rate is base · min(1, step / warmup), times: 1 / √max(step, warmup) for rsqrt; ½ (1 + cos π·p) for cosine and
    1 − p for linear, with p the progress from warmup to the last step; 1 for constant. With rsqrt, the peak is not
    base but base / √warmup.

    Args:
        optimizer: gives the base rate.
        schedule: the kind of decay, and warmup.
        steps: steps of the whole training.
    """

    def rate(step: jax.Array) -> jax.Array:
        s = jnp.asarray(step, jnp.float32)
        warmup = jnp.minimum(1.0, s / max(schedule.warmup, 1))
        if schedule.warmup == 0:
            warmup = jnp.ones_like(s)
        progress = jnp.clip((s - schedule.warmup) / max(steps - schedule.warmup, 1), 0.0, 1.0)
        decay = {
            "rsqrt": jax.lax.rsqrt(jnp.maximum(s, max(schedule.warmup, 1))),
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
            "linear": 1 - progress,
            "constant": jnp.ones_like(s),
        }[schedule.decay]
        return optimizer.learning_rate * warmup * decay

    return rate


def make_optimizer(recipe: Recipe, roles: Sequence[str] = ()) -> optax.GradientTransformation:
    """Makes a recipe's optimizer: Adam with decoupled weight decay, after gradient clipping if the recipe has any.

    It takes a complex parameter as its real and imaginary parts, two real parameters, as PyTorch's Adam does.

    Args:
        recipe: the recipe.
        roles: the role of each parameter, in the order of the leaves (`lra.train.groups`); empty: none has one.
    """
    o = recipe.optimizer
    rate = learning_rate(o, recipe.schedule, recipe.train.steps)
    scales, decaying = groups.factors(o, list(roles)), groups.decays(o, list(roles))
    decay = (
        optax.add_decayed_weights(o.weight_decay)
        if all(decaying)
        else optax.stateless(lambda updates, params: _decay(updates, params, o.weight_decay, decaying))
    )
    parts = [optax.scale_by_adam(b1=o.b1, b2=o.b2, eps=o.eps), decay, optax.scale_by_learning_rate(rate)]
    if any(scale != 1 for scale in scales):
        parts.append(optax.stateless(lambda updates, _: _scale(updates, scales)))
    adam = optax.chain(*parts)
    chain = optax.chain(optax.clip_by_global_norm(o.clip), adam) if o.clip else adam

    def init(params: Any) -> Any:
        return chain.init(_as_real(params))

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # JAX's gradient of a real loss by z = x + iy is ∂/∂x − i ∂/∂y; descent goes along its conjugate.
        gradient, pairs = _as_real(jax.tree.map(jnp.conj, gradient)), _as_real(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of its integer count of steps
            updates, state = chain.update(gradient, state, pairs)
        return jax.tree.map(_from_real, updates, params), state

    return optax.GradientTransformation(init, update)


def _decay(updates: Any, params: Any, weight_decay: float, decaying: Sequence[bool]) -> Any:
    """Adds weight_decay · parameter to the updates of the leaves that decay."""
    leaves, structure = jax.tree.flatten(updates)
    triples = zip(leaves, jax.tree.leaves(params), decaying, strict=True)
    return jax.tree.unflatten(structure, [u + weight_decay * p if decays else u for u, p, decays in triples])


def _scale(updates: Any, scales: Sequence[float]) -> Any:
    """Multiplies each leaf by its number."""
    leaves, structure = jax.tree.flatten(updates)
    return jax.tree.unflatten(structure, [u * scale for u, scale in zip(leaves, scales, strict=True)])


def _as_real(tree: Any) -> Any:
    """The tree with complex arrays as real ones, with a last axis for real and imaginary part."""
    return jax.tree.map(lambda x: jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x, tree)


def _from_real(x: jax.Array, like: jax.Array) -> jax.Array:
    return jax.lax.complex(x[..., 0], x[..., 1]) if jnp.iscomplexobj(like) else x


def count_parameters(params: Any) -> int:
    """Counts real numbers: a complex parameter counts as two."""
    return sum(p.size * (2 if jnp.iscomplexobj(p) else 1) for p in jax.tree.leaves(params))
