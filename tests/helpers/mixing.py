"""Mixers with random parameters: compared with a naive reference, under padding, and their number of parameters.

Shapes: B examples, L positions, D model width, H heads of width K, M keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory, mixer_parameters
from models.core.layers import Constant, split_heads

LENGTH, DIM, HEADS = 13, 8, 2


def _quick_options() -> dict[str, bool | int]:
    """Compiler options for small arrays: compiling takes a third of the time, and is nearly all that tests do."""
    options: dict[str, bool | int] = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    faster = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    try:
        jax.jit(lambda x: x, compiler_options=options | faster)(0)
    except Exception:  # this version of XLA has no such options
        return options
    return options | faster


QUICK = _quick_options()

Reference = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(mixer with its arrays, x, mask) → what the mixer's equation gives, written naively."""


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Standard normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(
    length: int = LENGTH, dim: int = DIM, lengths: tuple[int, ...] = (LENGTH, 7, 1), seed: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Random x float32 [B, L, D] and the mask bool [B, L] of examples with these true lengths."""
    mask = np.arange(length) < np.array(lengths)[:, None]
    return normal(len(lengths), length, dim, seed=seed), jnp.asarray(mask)


def randomised(make_module: Callable[[], Any], seed: int = 0) -> Any:
    """The module of `make_module` with NumPy's random numbers in its arrays, which spares compiling its own.

    Parameters are normal with variance 1 / fan-in, so that no bias is zero and no scale one; constants are
    uniform in [0, 1).
    """
    graph, constants, parameters = nnx.split(nnx.eval_shape(make_module), Constant, ...)
    rng = np.random.default_rng(seed)

    def draw(a: Any) -> jax.Array:
        return jnp.asarray(rng.normal(size=a.shape) * (a.shape[-2] if a.ndim > 1 else 1) ** -0.5, a.dtype)

    uniform = jax.tree.map(lambda a: jnp.asarray(rng.uniform(size=a.shape), a.dtype), constants)
    return nnx.merge(graph, uniform, jax.tree.map(draw, parameters))


def build(name: str, length: int = LENGTH, dim: int = DIM, heads: int = HEADS, seed: int = 0, **options: Any) -> Any:
    """A randomised mixer by name; `heads` goes to those that have heads."""
    mixer = load_mixer(name)
    context = {"heads": heads} if "heads" in mixer_parameters(mixer) else {}
    return randomised(lambda: mixer(dim, length, **context, **options, rngs=nnx.Rngs(0)), seed)


def build_encoder(
    name: str, length: int, dim: int = DIM, layers: int = 1, heads: int = HEADS, rate: float = 0.1,
    mixer: dict[str, Any] | None = None, **shape: Any,
) -> Encoder:  # fmt: skip
    """A randomised encoder of a mixer with the options `mixer`; `shape` goes to the encoder."""
    factory = mixer_factory(name, mixer or {}, heads=heads, qkv=dim, dropout=rate, layers=layers)
    shape = {"vocab": 11, "classes": 3, "mlp": DIM, "rate": rate} | shape
    return randomised(lambda: Encoder(factory, length=length, dim=dim, layers=layers, rngs=nnx.Rngs(0), **shape))


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with quick compiler options."""
    return jax.jit(function, compiler_options=QUICK, **options)


def run(module: Any, x: Any, mask: Any, seed: int | None = None) -> np.ndarray:
    """Output of a mixer (x [B, L, D]) or an encoder (tokens [B, P, L]); in training where there is a `seed`."""
    graph, state = nnx.split(module)
    return np.asarray(_call(graph, seed is not None)(state, jnp.asarray(x), jnp.asarray(mask), seed or 0))


@functools.cache
def _call(graph: Any, training: bool) -> Callable[..., Any]:
    def call(state: Any, x: jax.Array, mask: jax.Array, seed: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x, mask, nnx.Rngs(dropout=jax.random.key(seed)) if training else None)

    return jit(call)


def array(parameter: Any, xp: Any) -> Any:
    """A parameter's numbers, in double precision for NumPy."""
    return parameter[...] if xp is jnp else np.asarray(parameter[...], np.float64)


def error(actual: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def permissively(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which JAX promotes types and ranks as equations on paper do."""

    def call(*arguments: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*arguments)

    return call


def differentiated(mixer: Any, function: Reference) -> Callable[..., tuple[np.ndarray, list[np.ndarray]]]:
    """(x, parameters, mask, rows) → outputs at `rows`, and the gradients of a fixed random weighting of them.

    The gradients are a flat list: x's first, then every parameter's. All float64; one program for each type of x.
    """
    graph, _, rest = nnx.split(mixer, nnx.Param, ...)

    def loss(x: Any, params: Any, mask: Any, rows: Any, weight: Any) -> tuple[jax.Array, jax.Array]:
        y = function(nnx.merge(graph, params, rest), x, mask)
        assert y.dtype == x.dtype and y.shape == x.shape
        y = jnp.where(rows[..., None], y.astype(jnp.float32), 0)
        return (y * weight).sum(), y

    gradient = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    def call(x: Any, params: Any, mask: Any, rows: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        gradients, y = gradient(x, params, mask, rows, normal(*x.shape, seed=9))
        return np.asarray(y, np.float64), [np.asarray(g, np.float64) for g in jax.tree.leaves(gradients)]

    return call


def call_itself(mixer: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    return mixer(x, mask)


def assert_equals(
    mixer: Any,
    reference: Reference,
    x: jax.Array,
    mask: jax.Array,
    *,
    tolerance: float = 1e-5,
    rounded: float | None = 0.03,
    rounded_gradients: float | None = None,
    at_padding: bool = False,
) -> None:
    """All that a mixer owes its equation.

    - Its outputs at real positions (`at_padding`: at all) and all its gradients are the reference's within
      `tolerance`, relative to the largest entry of each array.
    - An example that is padding alone (one that fills up a batch) makes no NaN, nor do its gradients.
    - In bfloat16, unless `rounded` is None, the output has that type and is within `rounded` of the reference at the
      same rounded numbers in float32; so are the gradients within `rounded_gradients` where that is given, and finite
      else. A bfloat16 number has a relative rounding of 2⁻⁹ = 0.002; a few in a row make the tolerance. On a CPU the
      gradients of projections are off by up to 3 % in some versions of JAX.
    """
    params = nnx.state(mixer, nnx.Param)
    rows = jnp.ones_like(mask) if at_padding else mask
    of_mixer, of_reference = differentiated(mixer, call_itself), differentiated(mixer, permissively(reference))
    actual, actual_gradients = of_mixer(x, params, mask, rows)
    expected, expected_gradients = of_reference(x, params, mask, rows)
    assert error(actual, expected) < tolerance
    scale = max(np.abs(g).max() for g in expected_gradients)
    assert scale > 0
    for a, e in zip(actual_gradients, expected_gradients, strict=True):
        # A gradient that vanishes exactly is rounding only: measured against the largest gradient there.
        assert error(a, e) < tolerance or np.abs(a - e).max() < min(1e-6 * scale, tolerance)

    y, gradients = of_mixer(x, params, jnp.zeros_like(mask), jnp.ones_like(mask))
    assert np.isfinite(y).all() and all(np.isfinite(g).all() for g in gradients)

    if rounded is None:
        return
    small = jax.tree.map(lambda a: jnp.asarray(np.asarray(a).astype(jnp.bfloat16)), (x, params))
    single = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float32)), small)
    actual, actual_gradients = of_mixer(*small, mask, rows)
    expected, expected_gradients = of_reference(*single, mask, rows)
    assert error(actual, expected) < rounded
    assert all(np.isfinite(g).all() for g in actual_gradients)
    if rounded_gradients is not None:
        for a, e in zip(actual_gradients, expected_gradients, strict=True):
            assert np.abs(a - e).max() <= rounded_gradients * max(1.0, np.abs(e).max())


def assert_limit(mixer: Any, reference: Reference, x: jax.Array, mask: jax.Array, tolerance: float = 1e-5) -> None:
    """Outputs and their gradient by x are the reference's, which holds at this mixer's parameters only."""
    params = nnx.state(mixer, nnx.Param)
    actual, actual_gradients = differentiated(mixer, call_itself)(x, params, mask, mask)
    expected, expected_gradients = differentiated(mixer, permissively(reference))(x, params, mask, mask)
    assert error(actual, expected) < tolerance
    assert error(actual_gradients[0], expected_gradients[0]) < tolerance


def heads_of(mixer: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k, v [B, H, L, K] of x [B, L, D] by the mixer's projections, as one matrix product each."""
    p = mixer.projections
    q, k, v = (split_heads(x @ m.kernel[...], p.heads).swapaxes(1, 2) for m in (p.query, p.key, p.value))
    return q, k, v


def joined(mixer: Any, y: jax.Array) -> jax.Array:
    """[B, H, L, K] → [B, L, D] by the mixer's last projection."""
    batch, heads, length, width = y.shape
    return y.swapaxes(1, 2).reshape(batch, length, heads * width) @ mixer.projections.out.kernel[...]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention [B, H, L, K] over the keys of `mask` [B, L], naively."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf)) @ v


def dense(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    """Attention float32 [B, L, H, K] over the pairs that `allowed` [B, H or 1, L, M] holds; 0 for a query without any.

    q is [B, L, H, K]; k and v are [B, M, H, K].
    """
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    scores = jnp.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(q.shape[-1])
    weights = jnp.exp(scores) * jnp.asarray(allowed, jnp.float32)
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("bhlm,bmhk->blhk", weights / jnp.where(total > 0, total, 1), v)


def full_attention(mixer: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    """The reference of a mixer that projects to q, k, v and lets every position see all real ones."""
    return mixer.join(dense(*mixer.project(x), mask[:, None, None, :]))


def pairs(length: int, attends: Callable[[int, int], bool]) -> np.ndarray:
    """bool [L, L] from a rule on (query's position, key's position)."""
    return np.array([[bool(attends(i, j)) for j in range(length)] for i in range(length)])


def padding_is_mixed_in(name: str, **options: Any) -> bool:
    """Whether outputs at real positions depend on what padding holds."""
    (x, mask), mixer = inputs(lengths=(7,)), build(name, **options)
    changed = jnp.where(mask[..., None], x, x + 1)
    return error(run(mixer, changed, mask)[:, :7], run(mixer, x, mask)[:, :7]) > 1e-2


def padding_changes(
    name: str,
    longer: int = 23,
    lengths: tuple[int, ...] = (14, 9, 3),
    rebuilt: bool = False,
    pool: str = "cls",
    layers: int = 1,
    **options: Any,
) -> float:
    """How far logits move, relatively, between padding to the longest of `lengths` and to `longer`.

    Args:
        name: the mixer.
        longer: tokens to pad to.
        lengths: true lengths of the documents.
        rebuilt: whether shorter inputs meet a model built for their length, with the same parameters, instead of the
            one built for `longer`. Constants then are those that each model draws when it is built.
        pool: as in `Encoder`.
        layers: as in `Encoder`.
        **options: the mixer's own.
    """
    length = max(lengths)

    def model_for(length: int) -> tuple[Any, Any, Any]:
        factory = mixer_factory(name, options, heads=HEADS, qkv=DIM, dropout=0.1, layers=layers)
        shape: Any = {"vocab": 11, "classes": 3, "dim": DIM, "layers": layers, "mlp": DIM, "pool": pool}

        def make() -> Encoder:
            return Encoder(factory, length=length, rngs=nnx.Rngs(0), **shape)

        graph, params, rest = nnx.split(randomised(make), nnx.Param, ...)
        if rebuilt and jax.tree.leaves(rest):
            rest = jit(lambda: nnx.split(make(), nnx.Param, ...)[2])()
        return graph, params, rest

    graph, params, rest = model_for(longer)
    short_graph, _, short_rest = model_for(length) if rebuilt else (graph, None, rest)
    mask = np.arange(longer) < np.array(lengths)[:, None, None]
    tokens = np.where(mask, np.random.default_rng(2).integers(1, 11, mask.shape), 0).astype(np.int32)
    long = run(nnx.merge(graph, params, rest), tokens, mask)
    short = run(nnx.merge(short_graph, params, short_rest), tokens[..., :length], mask[..., :length])
    assert error(short[0], short[1]) > 1e-3  # logits do depend on the document
    return error(long, short)


@functools.cache
def parameter_count(name: str, **options: Any) -> int:
    """Parameters at the official shape of Text: vocabulary 260, 2 classes, length 1,000, 4 layers of width 256."""
    factory = mixer_factory(name, options, heads=4, qkv=256, dropout=0.1, layers=4)
    shape = {"vocab": 260, "classes": 2, "length": 1000, "dim": 256, "layers": 4, "mlp": 1024}
    model = nnx.eval_shape(lambda: Encoder(factory, **shape, rngs=nnx.Rngs(0)))  # type: ignore[arg-type]
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


def on_a_gpu() -> AbstractContextManager[Any]:
    """Where lowering wants to know the GPU's kind, an H100; JAX 0.10 takes one when there is none."""
    kind = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=kind))
