"""Groups of parameters that the optimizer may treat apart, by the role of each.

A mixer names a parameter's role where it makes it: `nnx.Param(value, role="A")`. State-space models use

- `A`: what decides a state's decay and frequency,
- `step`: the step size Δ of the discretisation,
- `B` and `C`: the maps into and out of the state;

another mixer may use words of its own. Parameters with such a role are never cast to bfloat16. The others have the
roles `norm` (all of a norm's), `embedding` (of tokens), `bias` and `weight`, by where they are. A recipe's
`optimizer.slow` and `optimizer.undecayed` list roles.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from configs.recipe import Optimizer
from models.core.norms import BatchNorm, RMSNorm

NORMS = (nnx.LayerNorm, nnx.RMSNorm, nnx.BatchNorm, nnx.GroupNorm, RMSNorm, BatchNorm)


def named_role(variable: nnx.Variable[Any]) -> str | None:
    """The role that a mixer gave a parameter, if any."""
    role: str | None = variable.get_metadata().get("role")
    return role


def roles(model: nnx.Module) -> list[str]:
    """The role of each parameter of a model, in the order of the leaves of `nnx.state(model, nnx.Param)`."""
    kinds = {
        path: "norm" if isinstance(module, NORMS) else "embedding"
        for path, module in nnx.iter_modules(model)
        if isinstance(module, (*NORMS, nnx.Embed))
    }

    def role(path: tuple[Any, ...], variable: nnx.Variable[Any]) -> str:
        by_name = "bias" if path[-1] == "bias" else "weight"
        return named_role(variable) or kinds.get(path[:-1], by_name)

    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    # Back in a state, whose leaves are in the order of the parameters' own.
    return jax.tree.leaves(nnx.from_flat_state([(path, nnx.Param(role(path, variable))) for path, variable in flat]))


def cast(params: Any, dtype: Any) -> Any:
    """The parameters in the type to compute in; complex ones stay complex64, those with a role of a mixer's float32."""

    def cast_one(parameter: nnx.Variable[Any]) -> nnx.Variable[Any]:
        value = parameter[...]
        if not jnp.issubdtype(value.dtype, jnp.floating) or named_role(parameter):
            return parameter
        return parameter.replace(value.astype(dtype))

    return jax.tree.map(cast_one, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def factors(optimizer: Optimizer, roles: list[str]) -> list[float]:
    """What each parameter's learning rate is multiplied by."""
    slow = optimizer.slow.split(",")
    return [optimizer.slow_factor if role in slow else 1.0 for role in roles]


def decays(optimizer: Optimizer, roles: list[str]) -> list[bool]:
    """Whether each parameter's weight decays."""
    undecayed = optimizer.undecayed.split(",")
    return [role not in undecayed for role in roles]
