"""What parameters start from: the distributions of Flax, of the official benchmark's code, or of PyTorch.

The choice travels with the random keys of the initial parameters, so a mixer that passes its `rngs` on to `Linear`
follows it, and one that does not know of it starts as it always did.
"""

from __future__ import annotations

from typing import Literal

import jax
from flax import nnx

Init = Literal["lecun", "xavier", "torch"]
"""By name, what a linear map from n inputs to m outputs starts from:

- `lecun`: kernel N(0, 1/n), truncated at two standard deviations; bias 0. Flax's defaults.
- `xavier`: kernel U(±√(6/(n + m))), bias N(0, 10⁻¹²): blocks of the official Long Range Arena code. Its classifier and
  embedding are as in `lecun`.
- `torch`: kernel and bias U(±1/√n), PyTorch's defaults; the embedding is N(0, 0.02²) as in mlpen/Nystromformer.
"""


class InitialRngs(nnx.Rngs):
    """Random keys of initial parameters, and the distributions to draw them from."""

    def __init__(self, key: jax.Array, init: Init):
        super().__init__(key)
        self.distributions: Init = init


def init_of(rngs: nnx.Rngs) -> Init:
    """The distributions that `rngs` asks for; 'lecun' where it does not say."""
    return rngs.distributions if isinstance(rngs, InitialRngs) else "lecun"


class Linear(nnx.Linear):
    """`nnx.Linear` that starts as its `rngs` ask (see `Init`)."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True, rngs: nnx.Rngs):
        bias = {
            "lecun": nnx.initializers.zeros,
            "xavier": nnx.initializers.normal(1e-6),
            "torch": lambda key, shape, dtype: fan_in_uniform(key, shape, inputs).astype(dtype),
        }
        kernel = _KERNELS[init_of(rngs)]
        super().__init__(
            inputs, outputs, use_bias=use_bias, kernel_init=kernel, bias_init=bias[init_of(rngs)], rngs=rngs
        )


_KERNELS = {
    "lecun": nnx.initializers.lecun_normal(),
    "xavier": nnx.initializers.xavier_uniform(),
    "torch": nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


Start = Init | Literal["mega"]
"""What an encoder may start from: `Init`, for all linear maps; or `mega`, as in the code of MEGA (arXiv:2209.10655):
an embedding of D features N(0, 1/D), a linear input's kernel N(0, 1) and its bias N(0, 0.1²), a head as in `xavier`
with biases of 0, and all else as in `lecun`. MEGA's mixer and feed-forward have draws of their own."""


def embedding_std(start: Start, dim: int) -> float:
    """Standard deviation of an embedding of `dim` features."""
    return {"torch": 0.02, "mega": dim**-0.5}.get(start, 1.0)


def input_map(start: Start, inputs: int, dim: int, rngs: nnx.Rngs) -> nnx.Linear:
    """The linear map with bias of a linear input."""
    if start != "mega":
        return Linear(inputs, dim, rngs=rngs)
    normal = nnx.initializers.normal
    return nnx.Linear(inputs, dim, kernel_init=normal(1.0), bias_init=normal(0.1), rngs=rngs)


def head_map(start: Start, inputs: int, outputs: int, use_bias: bool, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear map of the classifier's head."""
    if start == "torch":
        return Linear(inputs, outputs, use_bias=use_bias, rngs=rngs)
    kernel = nnx.initializers.xavier_uniform() if start == "mega" else nnx.initializers.lecun_normal()
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=kernel, rngs=rngs)


def small_map(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear map of MEGA: kernel N(0, 0.02²), bias 0."""
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    """Draws U(±1/√inputs), as PyTorch does for the kernels and biases of its layers."""
    bound = inputs**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def head_kernels(rngs: nnx.Rngs, shape: tuple[int, int, int]) -> jax.Array:
    """Draws each head's linear map [H, n, m]: as `Linear` does, but `lecun` is not truncated."""
    key, inputs = rngs.params(), shape[1]
    match init_of(rngs):
        case "xavier":
            return nnx.initializers.xavier_uniform(batch_axis=0)(key, shape)
        case "torch":
            return fan_in_uniform(key, shape, inputs)
        case _:
            return jax.random.normal(key, shape) * inputs**-0.5


def over_positions(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> jax.Array:
    """Draws a mixer's learned matrix over positions, N(0, std²).

    With `xavier`, U(±√(6/(n + m))) as in the official code, which counts a leading axis of heads in both: [H, L, L] has
    variance 1 / (H·L).
    """
    if init_of(rngs) == "xavier":
        return nnx.initializers.xavier_uniform()(rngs.params(), shape)
    return jax.random.normal(rngs.params(), shape) * std
