"""Hyena: long convolutions with filters from a small network, between gates that the input makes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.directions import backward_gain, read
from models.core.initial import Linear
from models.core.layers import at_least
from models.core.long_convolution import convolve
from models.core.short_convolution import slide
from models.core.state_space import HIGHEST

BANDS, HIDDEN, FREQUENCY, STD = 16, 2, 14.0, 0.02
"""Of the filters' network: frequencies of its input, hidden layers after the first, their first ω, and what their
weights start from, as in the authors' language models."""
SLOW, FAST = math.log(100) / 1.5, math.log(100) / 0.3
"""Decay rates of the windows: the slowest falls to a hundredth at 1.5 of the length, the fastest at 0.3."""


class Filters(nnx.Module):
    """Implicit filters: a network with sines gives each filter's value at a lag, under a window that decays.

        z_l = [t, cos(2π f l / L), −sin(2π f l / L)],    t = l / (L − 1)
        h_l = exp(−δ t) ⊙ (W_out s_3),    s_i = sin(ω ⊙ (W_i s_{i−1} + b_i)),    s_0 = z_l

    with 16 frequencies f from 10⁻⁴ to 15. All is float32. Parameters, all with role `A`, so that recipes may give them
    a rate of their own as the authors do, with W = `width`: into [33, W] and into_bias [W], hidden [2, W, W] and
    hidden_bias [2, W], frequency [W]: ω, one for all layers, 14 at first; out [count, W, D]. Weights are drawn from
    N(0, 0.02²), biases start at 0.
    """

    def __init__(self, count: int, dim: int, length: int, width: int, *, rngs: nnx.Rngs):
        self.length = length

        def draw(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(STD * jax.random.normal(rngs.params(), shape), role="A")

        self.into = draw(1 + 2 * BANDS, width)
        self.hidden = draw(HIDDEN, width, width)
        self.out = draw(count, width, dim)
        self.into_bias = nnx.Param(jnp.zeros((width,)), role="A")
        self.hidden_bias = nnx.Param(jnp.zeros((HIDDEN, width)), role="A")
        self.frequency = nnx.Param(jnp.full((width,), FREQUENCY), role="A")

    def __call__(self, length: int) -> jax.Array:
        """The filters' first `length` lags, float32 [count, D, length]."""
        into, into_bias, hidden, hidden_bias, frequency, out = (
            p[...].astype(jnp.float32)
            for p in (self.into, self.into_bias, self.hidden, self.hidden_bias, self.frequency, self.out)
        )
        time, features = self.lags(length)
        s = features
        for weight, bias in ((into, into_bias), *zip(hidden, hidden_bias, strict=True)):
            s = jnp.sin(frequency[None] * (jnp.dot(s, weight, precision=HIGHEST) + bias[None]))
        return jnp.einsum("lw,owd->odl", s, out, precision=HIGHEST) * self.windows(time)

    def lags(self, length: int) -> tuple[jax.Array, jax.Array]:
        """t [length] and z [length, 33]: of the model's length L, whatever that of the input."""
        lag = jnp.arange(length, dtype=jnp.float32)
        time = lag / max(self.length - 1, 1)
        angle = 2 * math.pi / self.length * lag[:, None] * jnp.linspace(1e-4, BANDS - 1, BANDS)[None]
        return time, jnp.concatenate([time[:, None], jnp.cos(angle), -jnp.sin(angle)], -1)

    def windows(self, time: jax.Array) -> jax.Array:
        """exp(−δ t), [count, D, length]: rates δ are evenly spaced over features, and over a feature's filters."""
        count, _, dim = self.out.shape
        rate = jnp.linspace(SLOW, FAST, dim * count).reshape(dim, count).T
        return jnp.exp(-rate[..., None] * time[None, None])


class Hyena(nnx.Module):
    """Hyena Hierarchy: Towards Larger Convolutional Language Models.

    Poli, Massaroli, Nguyen, Fu, Dao, Baccus, Bengio, Ermon, Ré 2023, arXiv:2302.10866, section 3. A linear map and a
    causal depthwise convolution over 3 positions make N + 1 streams of x; N gates and N − 1 long convolutions, whose
    filters h come from a small network (`Filters`), turn the last stream into the output:

        x⁰, …, x^{N−1}, v = conv₃(W x + b);    v ← h^i ⊛ (x^i ⊙ v) + s^i ⊙ x^i ⊙ v,  i = N − 1 … 1;    y = W_o (x⁰ ⊙ v)

    Time L·D² + L·log L·D, memory L·D. The operator is causal. With `bidirectional` everything between the two linear
    maps also runs on each document's real part reversed, with the same parameters but for a gain of that result, and
    both results are added before W_o: a position itself then counts twice, or not at all. Streams are zero at masked
    positions, so padding changes no logit.
    Between the linear maps all is float32, transforms too. Attention dropout does not apply.

    The paper reports no results on Long Range Arena. Filters are functions of the lag over the model's length: built
    for another length, the same parameters give stretched filters. What comes out for white noise grows with √L: 1.9
    times as large for 1,024 positions both ways, 5.4 for 16,384.

    Departs from the paper's recurrence, as the authors' code does: of its N filters the first, before the first gate,
    is left out. Departs from the code: the network's input z is fixed, theirs learns at a small rate. The sizes, the
    frequency of the sines, and what the network starts from are those of its language models.

    Parameters, with H features:
        into [H, (N + 1) H] and bias, out [H, H] and bias: W and W_o, as `Linear` starts.
        short.kernel [3, (N + 1) H] and bias: starts as a linear map from 3 inputs does.
        filters: see `Filters`; 27,000 numbers for N = 2 and H = 256.
        skip [N − 1, H]: s, drawn from N(0, 1).
        backward [H]: if bidirectional, the gain of what is read from the end (`backward_gain`).

    Args:
        dim: H.
        length: L, for which filters are made.
        order: N.
        filter_width: width of the filters' network.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `order` is below 2, or `filter_width` below 1.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        order: int = 2,
        filter_width: int = 64,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(2, order=order)
        at_least(1, filter_width=filter_width)
        self.order = order
        self.into = Linear(dim, (order + 1) * dim, rngs=rngs)
        self.short = Linear(3, (order + 1) * dim, rngs=rngs)
        self.filters = Filters(order - 1, dim, length, filter_width, rngs=rngs)
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (order - 1, dim)))
        self.backward = backward_gain(dim) if bidirectional else None
        self.out = Linear(dim, dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        filters, skip = self.filters(x.shape[1]), self.skip[...].astype(jnp.float32)
        kernel, bias = (p[...].astype(jnp.float32) for p in (self.short.kernel, self.short.bias))

        def operate(streams: jax.Array, mask: jax.Array) -> jax.Array:
            streams = jnp.where(mask[..., None], slide(streams, kernel, len(kernel) - 1) + bias[None, None], 0)
            *gates, v = jnp.split(streams, self.order + 1, axis=-1)
            for i in reversed(range(self.order - 1)):
                v = v * gates[i + 1]
                v = convolve(v, filters[i]) + skip[i][None, None] * v
            return v * gates[0]

        streams = jnp.where(mask[..., None], self.into(x), 0).astype(jnp.float32)
        y = read(operate, streams, mask, self.backward)
        joined: jax.Array = self.out(y.astype(x.dtype))
        return joined
