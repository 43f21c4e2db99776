"""Inputs, a dense reference and comparisons for the tests of the attention mixers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory

QUICK = {"xla_backend_optimization_level": 0}
"""Compiler options for what runs once: compiling takes half the time."""


def build(name: str, dim: int, length: int, **options: Any) -> nnx.Module:
    return load_mixer(name)(dim, length, **options, rngs=nnx.Rngs(0))


def inputs(length: int, dim: int, batch: int = 2, padded: int = 0) -> tuple[jax.Array, jax.Array]:
    """x [B, L, D] and a mask: the first example is full, each further one loses `padded` positions more."""
    x, mask = normal(batch, length, dim), np.arange(length) < length - padded * np.arange(batch)[:, None]
    return x, jnp.asarray(mask)


def on_a_gpu() -> AbstractContextManager[Any]:
    """Where lowering wants to know the GPU's kind, an H100; JAX 0.10 takes one when there is none."""
    kind = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=kind))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def run(mixer: Any, x: jax.Array, mask: jax.Array, seed: int | None = None) -> np.ndarray:
    """The mixer's output: in training with the dropout key of `seed`, in evaluation without."""
    graph, state = nnx.split(mixer)

    def call(state: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x, mask, None if seed is None else nnx.Rngs(dropout=seed))

    return np.asarray(jax.jit(call, compiler_options=QUICK)(state, x, mask))


def dense(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    """Attention in float32 over the pairs `allowed` [B, H or 1, L, M] holds; 0 for a query without any."""
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    weights = jnp.exp(jnp.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(q.shape[-1])) * allowed
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    return jnp.einsum("bhlm,bmhk->blhk", weights, v)


def pairs(length: int, attends: Callable[[int, int], bool]) -> np.ndarray:
    """bool [L, L] from a rule on (query's position, key's position)."""
    return np.array([[bool(attends(i, j)) for j in range(length)] for i in range(length)])


def agree(
    mixer: nnx.Module,
    reference: Callable[[Any, jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    mask: jax.Array,
    *,
    tolerance: float = 1e-5,
    dtype: Any = jnp.float32,
    padded_too: bool = True,
) -> None:
    """The mixer's outputs and gradients (to x and every parameter) are reference(mixer, x, mask)'s.

    The mixer computes in `dtype`, the reference in float32 from the same rounded numbers. The tolerance is
    relative to the largest entry of each array (at least 1). Outputs at padding are compared if `padded_too`.
    In bfloat16 the projections' own gradients are off by up to 3 % in some versions of JAX (on a CPU).
    """
    graph, params, rest = nnx.split(mixer, nnx.Param, ...)
    rounded = jax.tree.map(lambda a: a.astype(dtype), (params, x))
    weight = normal(*x.shape, seed=9)

    def loss(run: Callable, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = run(nnx.merge(graph, params, rest), x, mask).astype(jnp.float32)
        out = out if padded_too else out * mask[..., None]
        return (out * weight).sum(), out

    def both(run: Callable, given: Any) -> Any:
        run_grad = jax.grad(lambda *a: loss(run, *a), argnums=(0, 1), has_aux=True)
        grads, out = jax.jit(run_grad, compiler_options=QUICK)(*given)
        return out, grads

    got = both(lambda m, x, mask: m(x, mask), rounded)
    want = both(reference, jax.tree.map(lambda a: a.astype(jnp.float32), rounded))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b)
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


def padding_changes(name: str, length: int, longer: int, **options: Any) -> float:
    """How far the logits of a 2-layer encoder move when inputs are padded to `longer` instead of `length`."""
    tokens = np.random.default_rng(3).integers(1, 20, (2, 1, length))
    make = mixer_factory(name, options, heads=2, qkv=16, dropout=0.1, layers=2)
    shape = {"vocab": 20, "classes": 3, "dim": 16, "layers": 2, "mlp": 16}

    def split(length: int) -> Any:
        made = Encoder(make, **shape, length=length, pool="mean", rngs=nnx.Rngs(0))  # type: ignore[arg-type]
        return nnx.split(made, nnx.Param, ...)

    (graph, params, rest), (other, _, other_rest) = split(length), split(longer)
    wide = np.pad(tokens, ((0, 0), (0, 0), (0, longer - length)))
    short = jax.jit(lambda t: nnx.merge(graph, params, rest)(t, t > 0), compiler_options=QUICK)
    long = jax.jit(lambda t: nnx.merge(other, params, other_rest)(t, t > 0), compiler_options=QUICK)
    a, b = short(tokens), long(wide)
    return float(jnp.abs(a - b).max())


def parameter_count(name: str) -> int:
    """Of the encoder in the official Text shape at length 1,000."""
    make = mixer_factory(name, {}, heads=4, qkv=256, layers=4)
    shape = {"vocab": 260, "classes": 2, "length": 1000, "dim": 256, "layers": 4, "mlp": 1024}
    model = nnx.eval_shape(lambda: Encoder(make, **shape, rngs=nnx.Rngs(0)))  # type: ignore[arg-type]
    return sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
