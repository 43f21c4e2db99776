"""Comparison of mixers with a naive reference, and padding invariance through the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory, mixer_parameters
from models.core.layers import Constant, split_heads

DIM, HEADS, LENGTH = 8, 2, 13

QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}
"""The compiler's options for small arrays: compiling is nearly all that these tests' time goes into."""

Reference = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(mixer with its arrays, x, mask) → what the mixer's equation gives, written naively."""


def make(name: str, length=LENGTH, dim=DIM, heads=HEADS, seed=0, **options: Any) -> Any:
    """A mixer by name; `heads` goes to those that have heads."""
    mixer = load_mixer(name)
    told = {"heads": heads} if "heads" in mixer_parameters(mixer) else {}
    return built(lambda: mixer(dim, length, **told, **options, rngs=nnx.Rngs(0)), seed)


def built(make_module: Callable[[], Any], seed: int = 0) -> Any:
    """The module of `make_module` with NumPy's random numbers in its arrays, which spares compiling its own.

    Parameters are normal with variance 1 / fan-in, so that no bias is zero and no scale one; constants are
    uniform in [0, 1).
    """
    graph, constants, rest = nnx.split(nnx.eval_shape(make_module), Constant, ...)
    rng = np.random.default_rng(seed)

    def draw(a):
        return jnp.asarray(rng.normal(size=a.shape) * (a.shape[-2] if a.ndim > 1 else 1) ** -0.5, a.dtype)

    uniform = jax.tree.map(lambda a: jnp.asarray(rng.uniform(size=a.shape), a.dtype), constants)
    return nnx.merge(graph, uniform, jax.tree.map(draw, rest))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Standard normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(length: int = LENGTH, dim: int = DIM, lengths: tuple[int, ...] = (LENGTH, 7, 1), seed: int = 1):
    """Random x [B, L, D] and a mask with the given true lengths, one example each."""
    mask = np.arange(length) < np.array(lengths)[:, None]
    return normal(len(lengths), length, dim, seed=seed), jnp.asarray(mask)


def error(got: Any, want: Any) -> float:
    """The largest difference, relative to the largest value wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def differentiated(mixer: Any, function: Reference) -> Callable[..., tuple[np.ndarray, list[np.ndarray]]]:
    """(x, parameters, mask, rows) → outputs at `rows`, and gradients of a fixed random weighting of them.

    Gradients come in a flat list: x's first, then every parameter's. All float64; compiled once a type.
    """
    graph, _, rest = nnx.split(mixer, nnx.Param, ...)

    def loss(x, params, mask, rows, weight):
        y = function(nnx.merge(graph, params, rest), x, mask)
        assert y.dtype == x.dtype and y.shape == x.shape
        y = jnp.where(rows[..., None], y.astype(jnp.float32), 0)
        return (y * weight).sum(), y

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), compiler_options=QUICK)

    def call(x, params, mask, rows):
        gradients, y = gradient(x, params, mask, rows, normal(*x.shape, seed=9))
        return np.asarray(y, np.float64), [np.asarray(g, np.float64) for g in jax.tree.leaves(gradients)]

    return call


def call_itself(mixer: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    return mixer(x, mask)


def check(mixer: Any, reference: Reference, x: jax.Array, mask: jax.Array, tolerance=1e-5, rounded=0.03) -> None:
    """All that a mixer owes its equation.

    - Its outputs at real positions and all its gradients equal the reference's, relative to the largest.
    - An example that is padding alone (one that fills up a batch) makes no NaN, nor do its gradients.
    - In bfloat16 the output has that type and is within `rounded` of what the same rounded numbers give in
      float32. A bfloat16 number has a relative rounding of 2⁻⁹ = 0.002; a few in a row make the tolerance.
    """
    params = nnx.state(mixer, nnx.Param)
    ours = differentiated(mixer, call_itself)
    got, got_gradients = ours(x, params, mask, mask)
    want, want_gradients = differentiated(mixer, reference)(x, params, mask, mask)
    assert error(got, want) < tolerance
    scale = max(np.abs(g).max() for g in want_gradients)
    assert scale > 0
    for g, w in zip(got_gradients, want_gradients, strict=True):
        # A gradient that vanishes exactly is rounding only: measured against the largest gradient there.
        assert error(g, w) < tolerance or np.abs(g - w).max() < 1e-6 * scale

    y, gradients = ours(x, params, jnp.zeros_like(mask), jnp.ones_like(mask))
    assert np.isfinite(y).all() and all(np.isfinite(g).all() for g in gradients)

    small = jax.tree.map(lambda a: jnp.asarray(np.asarray(a).astype(jnp.bfloat16)), (x, params))
    want, _ = ours(*jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float32)), small), mask, mask)
    got, gradients = ours(*small, mask, mask)
    assert error(got, want) < rounded
    assert all(np.isfinite(g).all() for g in gradients)


def check_limit(mixer: Any, reference: Reference, x: jax.Array, mask: jax.Array, tolerance=1e-5) -> None:
    """Outputs and their gradient by x equal the reference's, which holds at this mixer's parameters only."""
    params = nnx.state(mixer, nnx.Param)
    got, got_gradients = differentiated(mixer, call_itself)(x, params, mask, mask)
    want, want_gradients = differentiated(mixer, reference)(x, params, mask, mask)
    assert error(got, want) < tolerance
    assert error(got_gradients[0], want_gradients[0]) < tolerance


def heads_of(mixer: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k, v [B, H, L, K] by the mixer's projections, as one matrix product each."""
    p = mixer.projections
    q, k, v = (split_heads(x @ m.kernel[...], p.heads).swapaxes(1, 2) for m in (p.query, p.key, p.value))
    return q, k, v


def joined(mixer: Any, y: jax.Array) -> jax.Array:
    """[B, H, L, K] → [B, L, D] by the mixer's last projection."""
    batch, heads, length, width = y.shape
    return y.swapaxes(1, 2).reshape(batch, length, heads * width) @ mixer.projections.out.kernel[...]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention [B, H, L, K], naively."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf)) @ v


def encoder(name: str, length: int, dim=8, layers=1, heads=2, pool: Any = "cls", **options: Any) -> Encoder:
    context = {"heads": heads, "qkv": dim, "dropout": 0.1, "layers": layers}
    shape = {"vocab": 11, "classes": 3, "length": length, "dim": dim, "layers": layers, "mlp": 8}
    factory = mixer_factory(name, options, **context)
    return built(lambda: Encoder(factory, **shape, pool=pool, rngs=nnx.Rngs(0)))


def logits(model: Encoder, tokens: Any, mask: Any) -> jax.Array:
    """The model's logits, compiled."""
    graph, state = nnx.split(model)
    call = jax.jit(lambda state, *args: nnx.merge(graph, state)(*args), compiler_options=QUICK)
    return call(state, jnp.asarray(tokens), jnp.asarray(mask))


def outputs(mixer: Any, x: jax.Array, mask: jax.Array, seed: int | None = None) -> jax.Array:
    """The mixer's outputs, compiled; as in training with the step's key `seed` where it is given."""
    key = None if seed is None else jax.random.key(seed)

    def call(x, mask, key):
        return mixer(x, mask, None if key is None else nnx.Rngs(dropout=key))

    return jax.jit(call, compiler_options=QUICK)(x, mask, key)


def padding_is_mixed_in(name: str, **options: Any) -> bool:
    """Whether outputs at real positions depend on what padding holds."""
    (x, mask), mixer = inputs(lengths=(7,)), make(name, **options)
    y, changed = outputs(mixer, x, mask), outputs(mixer, jnp.where(mask[..., None], x, x + 1), mask)
    return error(changed[:, :7], y[:, :7]) > 1e-2


def padding_changes(name: str, pool: Any = "cls", **options: Any) -> float:
    """How far logits of documents of up to 14 tokens move between padding to 14 and to 23, relatively."""
    model = encoder(name, 23, pool=pool, **options)
    mask = np.arange(23) < np.array([14, 9, 3])[:, None, None]
    tokens = np.where(mask, np.random.default_rng(2).integers(1, 11, (3, 1, 23)), 0).astype(np.int32)
    long, short = logits(model, tokens, mask), logits(model, tokens[..., :14], mask[..., :14])
    assert error(short[0], short[1]) > 1e-2  # logits do depend on the document
    return error(long, short)


def parameter_count(name: str, **options: Any) -> int:
    """Parameters at the shape of Text: vocabulary 260, 2 classes, length 1,000, 4 layers of width 256."""
    factory = mixer_factory(name, options, heads=4, qkv=256, dropout=0.1, layers=4)
    shape = {"vocab": 260, "classes": 2, "length": 1000, "dim": 256, "layers": 4, "mlp": 1024}
    model = nnx.eval_shape(lambda: Encoder(factory, **shape, rngs=nnx.Rngs(0)))
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
