"""The pure functions that training compiles: a chunk of steps in one scan, and evaluation.

NNX is used at the edges alone: modules are split once, and merged inside the compiled step. Several seeds are one
program: their parameters are stacked in front, and a step is mapped over them. Several devices share each batch:
every one computes its part and the gradients' mean is taken, all else is done alike on each. Some of them may be of
other processes, which run the same programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from configs.recipe import Recipe
from lra.train import data, distributed, flops
from lra.train.data import Batch, SplitArrays, gather, tokens_of
from lra.train.optimizer import make_optimizer
from models.core.layers import BatchRngs

Tree = Any
Source = SplitArrays | Batch
Metrics = tuple[jax.Array, jax.Array]
"""Mean loss and accuracy of training batches, [seeds] or [steps, seeds]."""


class State(NamedTuple):
    """All that a step changes; seeds in front of every array of `params` and `optimizer`."""

    params: Tree
    optimizer: Tree
    step: jax.Array


class Program:
    """The functions of some seeds' models and their recipe.

    Args:
        models: a model a seed, all of one structure.
        recipe: with `train.precision` resolved.
        examples: examples of the training split.
        documents: documents an example has, 1 or 2.
        seeds: of the order of examples and of dropout.
        devices: the devices that share a batch, of all processes; it must divide by their number.
    """

    def __init__(
        self,
        models: Sequence[nnx.Module],
        recipe: Recipe,
        examples: int,
        documents: int,
        seeds: Sequence[int],
        devices: Sequence[jax.Device],
    ):
        parts = [nnx.split(model, nnx.Param, ...) for model in models]
        self.graph = parts[0][0]
        self.recipe, self.examples, self.documents, self.count = recipe, examples, documents, len(seeds)
        self.optimizer = make_optimizer(recipe)
        self.dtype = jnp.bfloat16 if recipe.train.precision == "bfloat16" else jnp.float32
        self.mesh = Mesh(np.array(devices), ("batch",)) if len(devices) > 1 else None
        self.sharding: jax.sharding.Sharding = (
            SingleDeviceSharding(devices[0]) if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())
        )
        self.params, self.rest = (
            distributed.put_replicated(jax.tree.map(lambda *leaves: jnp.stack(leaves), *some), self.sharding)
            for some in ([p for _, p, _ in parts], [r for _, _, r in parts])
        )
        self.seeds = np.array(seeds, np.uint32)

    def init(self) -> State:
        """State at step 0. The buffers are the state's own, so it may be donated."""
        placed: State = jax.jit(self._begin, out_shardings=self.sharding)(self.params)
        return placed

    def _begin(self, params: Tree) -> State:
        params = jax.tree.map(jnp.copy, params)
        return State(params, jax.vmap(self.optimizer.init)(params), jnp.zeros((), jnp.int32))

    def each(self, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        """`function` of one seed as one of all seeds, which are the first axis of arguments whose axis is 0.

        One seed alone is not mapped: its arrays keep the shapes that a compiler knows best.
        """
        if self.count > 1:
            return jax.vmap(function, axes)

        def alone(*arguments: Any) -> Any:
            of_one = [
                a if axis is None else jax.tree.map(lambda x: x[0], a) for a, axis in zip(arguments, axes, strict=True)
            ]
            return jax.tree.map(lambda x: x[None], function(*of_one))

        return alone

    def share(self, function: Callable[..., Any], specs: tuple[PartitionSpec, ...]) -> Callable[..., Any]:
        """`function` run by every device on its part of arguments that `specs` split; its results are whole."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)

    def mean(self, tree: Tree) -> Tree:
        """The mean over devices."""
        return tree if self.mesh is None else jax.lax.pmean(tree, "batch")

    def mine(self, rows: jax.Array) -> jax.Array:
        """This device's part of the last axis."""
        if self.mesh is None:
            return rows
        size = rows.shape[-1] // self.mesh.size
        return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index("batch") * size, size, axis=-1)

    def logits(self, params: Tree, rest: Tree, batch: Batch, rngs: nnx.Rngs | None) -> jax.Array:
        """Logits float32 [B, classes]; parameters are cast to the compute type here and nowhere else.

        Without `rngs` there is no dropout.
        """
        cast = jax.tree.map(lambda p: p.astype(self.dtype), params)
        out: jax.Array = nnx.merge(self.graph, cast, rest)(*tokens_of(batch), rngs)
        return out

    def step(
        self, params: Tree, optimizer: Tree, rest: Tree, seed: jax.Array, step: jax.Array, batch: Batch
    ) -> tuple[Tree, Tree, Metrics]:
        """One optimizer step of one seed on this device's part of a batch."""
        parts = self.recipe.train.accumulate
        key = jax.random.fold_in(jax.random.key(seed), step)
        size = batch.labels.shape[0] // parts
        device = 0 if self.mesh is None else jax.lax.axis_index("batch")

        def loss(params: Tree, some: Batch, part: jax.Array) -> tuple[jax.Array, jax.Array]:
            first = (device * parts + part) * (size * self.documents)
            logits = self.logits(params, rest, some, BatchRngs(key, first))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, some.labels)
            return losses.mean(), (logits.argmax(-1) == some.labels).mean()

        differentiate = jax.value_and_grad(loss, has_aux=True)
        if parts == 1:
            found = differentiate(params, batch, jnp.zeros((), jnp.int32))
        else:

            def add(total: Tree, given: tuple[Batch, jax.Array]) -> tuple[Tree, None]:
                return jax.tree.map(jnp.add, total, differentiate(params, *given)), None

            split = jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), batch)
            zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
            total, _ = jax.lax.scan(add, zero, (split, jnp.arange(parts)))
            found = jax.tree.map(lambda x: x / parts, total)
        metrics, gradient = self.mean(found)
        updates, optimizer = self.optimizer.update(gradient, optimizer, params)
        return optax.apply_updates(params, updates), optimizer, metrics

    def chunk(self, state: State, rest: Tree, source: Source, steps: int) -> tuple[State, Metrics]:
        """`steps` steps of all seeds in one scan; `source` is the training split, or these steps' batches."""

        def run(state: State, rest: Tree, seeds: jax.Array, source: Source) -> tuple[State, Metrics]:
            if isinstance(source, SplitArrays):
                numbers = state.step + jnp.arange(steps)
                drawn = [
                    data.batch_indices(numbers, self.recipe.train.batch, self.examples, seeds[s], jnp)
                    for s in range(self.count)
                ]
                given: Any = self.mine(jnp.stack(drawn, axis=1))
            else:
                given = source

            def one(params: Tree, optimizer: Tree, rest: Tree, seed: jax.Array, step: jax.Array, this: Any) -> Any:
                batch = gather(source, this) if isinstance(source, SplitArrays) else this
                return self.step(params, optimizer, rest, seed, step, batch)

            every = self.each(one, (0, 0, 0, 0, None, 0))

            def body(state: State, this: Any) -> tuple[State, Metrics]:
                params, optimizer, metrics = every(state.params, state.optimizer, rest, seeds, state.step, this)
                return State(params, optimizer, state.step + 1), metrics

            return jax.lax.scan(body, state, given)

        whole = PartitionSpec()
        split = whole if isinstance(source, SplitArrays) else PartitionSpec(None, None, "batch")
        shared = self.share(run, (whole, whole, whole, split))
        result: tuple[State, Metrics] = shared(state, rest, jnp.asarray(self.seeds), source)
        return result

    def evaluation_batch(self) -> int:
        """Examples an evaluation takes at once: as many as one differentiation has, on each device."""
        return self.recipe.train.batch // self.recipe.train.accumulate

    def evaluate(
        self, params: Tree, rest: Tree, source: Source, start: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Summed loss and right answers [seeds] over the examples from `start` on that are below `count`."""

        def run(params: Tree, rest: Tree, source: Source, start: jax.Array, count: jax.Array) -> Any:
            rows = self.mine(start + jnp.arange(self.evaluation_batch()))
            real = rows < count
            batch = gather(source, jnp.where(real, rows, 0)) if isinstance(source, SplitArrays) else source

            def one(params: Tree, rest: Tree) -> tuple[jax.Array, jax.Array]:
                logits = self.logits(params, rest, batch, None)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
                return jnp.where(real, losses, 0).sum(), (real & (logits.argmax(-1) == batch.labels)).sum()

            sums = self.each(one, (0, 0))(params, rest)
            return sums if self.mesh is None else jax.lax.psum(sums, "batch")

        whole = PartitionSpec()
        split = whole if isinstance(source, SplitArrays) else PartitionSpec("batch")
        shared = self.share(run, (whole, whole, split, whole, whole))
        result: tuple[jax.Array, jax.Array] = shared(params, rest, source, start, count)
        return result

    def compile_chunk(self, state: State, source: Source, steps: int) -> Any:
        """The compiled chunk (state, rest, source) → (state, metrics); it consumes the state it is given."""
        chunk = jax.jit(self.chunk, static_argnames="steps", donate_argnames="state")
        return chunk.lower(state, self.rest, source, steps=steps).compile()

    def compile_evaluate(self, source: Source) -> Any:
        """The compiled evaluation (params, rest, source, start, count) → (loss, right)."""
        return jax.jit(self.evaluate).lower(self.params, self.rest, source, np.int32(0), np.int32(0)).compile()

    def flops(self, source: Source) -> float:
        """One training step's floating-point operations, all seeds and devices together (`flops.count`); may be NaN."""
        return flops.count(partial(self.chunk, steps=1), jax.eval_shape(self._begin, self.params), self.rest, source)

    def flops_compiler(self, source: Source) -> float | None:
        """The compiler's count of the same, which takes the body of every loop once."""
        lowered = jax.jit(self.chunk, static_argnames="steps").lower(
            jax.eval_shape(self._begin, self.params), self.rest, source, steps=1
        )
        return (lowered.cost_analysis() or {}).get("flops")


_SECONDS_A_CHUNK = 1.0


def chunk_length(steps_between: int, operations: float, backend: str) -> int:
    """Steps in a chunk: the largest divisor of `steps_between` that is expected to take about a second."""
    speed = 3e10 if backend == "cpu" else 2e13
    wanted = _SECONDS_A_CHUNK * speed / operations if operations > 0 else 1  # NaN is not greater
    most = int(max(1, min(steps_between, wanted)))
    return next(k for k in range(most, 0, -1) if steps_between % k == 0)


def program_bytes(compiled: Any) -> int | None:
    """Temporaries + arguments + outputs − aliased of a compiled program, as the compiler plans them."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
