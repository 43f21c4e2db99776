"""The pure functions that training compiles: a chunk of steps in one scan, and evaluation.

NNX is used only at the edges: modules are split once and merged inside the compiled step. Several seeds form one
program: their parameters are stacked along a leading axis, and the step is mapped over it. Several devices share each
batch: each computes its part, the gradients are averaged, and everything else is replicated. Some of the devices may
belong to other processes, which run the same programs.
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

from configs.recipe import Recipe, Train
from lra.train import data, distributed, flops, groups
from lra.train.data import Batch, SplitArrays, gather, tokens_of
from lra.train.flax_layers import reseed
from lra.train.optimizer import make_optimizer
from models.core.layers import BatchRngs
from models.core.redraw import Redrawn, redrawn

Tree = Any
Source = SplitArrays | Batch
Metrics = tuple[jax.Array, jax.Array]
"""Mean loss and accuracy of training batches, [seeds] or [steps, seeds]."""


MOVING = (Redrawn, nnx.BatchStat)
"""Variables that training changes and no gradient does: arrays drawn anew, and norms' running statistics."""


class State(NamedTuple):
    """Everything that a step changes; all arrays but `step` have a leading axis of seeds."""

    params: Tree
    optimizer: Tree
    step: jax.Array
    moving: Tree = ()
    """The models' variables that steps change without a gradient (`MOVING`); no arrays, if there are none."""


class Fixed(NamedTuple):
    """What a step reads and never changes; arguments of the programs, so that one program serves all seeds."""

    other_state: Tree
    """The models' state that is not trained, with a leading axis of seeds; `MOVING` variables are those of step 0."""
    seeds: jax.Array
    """uint32 [seeds]."""


class Program:
    """Training and evaluation of one recipe for several seeds.

    Args:
        models: one model per seed, all of the same structure.
        recipe: the recipe, with `train.precision` resolved.
        examples: examples in the training split.
        documents: documents per example, 1 or 2.
        seeds: seeds of the order of examples and of dropout.
        devices: devices of all processes that share each batch; their number must divide its size.
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
        self.optimizer = make_optimizer(recipe, groups.roles(models[0]))
        self.dtype = jnp.bfloat16 if recipe.train.precision == "bfloat16" else jnp.float32
        self.mesh = Mesh(np.array(devices), ("batch",)) if len(devices) > 1 else None
        self.sharding: jax.sharding.Sharding = (
            SingleDeviceSharding(devices[0]) if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())
        )
        moving = [nnx.state(model, MOVING) for model in models]
        self.params, self.other_state, self.moving = (
            distributed.put_replicated(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), self.sharding)
            for trees in ([p for _, p, _ in parts], [r for _, _, r in parts], moving)
        )
        self.seeds = distributed.put_replicated(np.array(seeds, np.uint32), self.sharding)

    @property
    def fixed(self) -> Fixed:
        return Fixed(self.other_state, self.seeds)

    def init(self) -> State:
        """Creates the state at step 0, in fresh buffers, so that it may be donated."""
        state: State = jax.jit(self._initial_state, out_shardings=self.sharding)(self.params, self.moving)
        return state

    def _initial_state(self, params: Tree, moving: Tree) -> State:
        params, moving = jax.tree.map(jnp.copy, (params, moving))
        return State(params, jax.vmap(self.optimizer.init)(params), jnp.zeros((), jnp.int32), moving)

    def vmap_seeds(self, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        """Maps a function of one seed over all seeds, the leading axis of the arguments whose entry in `axes` is 0.

        A single seed is not mapped: its arrays keep the shapes that the compiler handles best.
        """
        if self.count > 1:
            return jax.vmap(function, axes)

        def apply_to_only_seed(*arguments: Any) -> Any:
            squeezed = [
                a if axis is None else jax.tree.map(lambda x: x[0], a) for a, axis in zip(arguments, axes, strict=True)
            ]
            return jax.tree.map(lambda x: x[None], function(*squeezed))

        return apply_to_only_seed

    def shard_over_devices(self, function: Callable[..., Any], specs: tuple[PartitionSpec, ...]) -> Callable[..., Any]:
        """Runs `function` on every device with its part of the arguments, split by `specs`; results are replicated."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)

    def mean_over_devices(self, tree: Tree) -> Tree:
        """Averages arrays over the devices."""
        return tree if self.mesh is None else jax.lax.pmean(tree, "batch")

    def local_rows(self, rows: jax.Array) -> jax.Array:
        """Takes this device's part of the last axis."""
        if self.mesh is None:
            return rows
        size = rows.shape[-1] // self.mesh.size
        return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index("batch") * size, size, axis=-1)

    def model(self, params: Tree, other_state: Tree, dtype: Any = None) -> Any:
        """The model of one seed in evaluation mode, with parameters cast to the compute type (`groups.cast`).

        `dtype` is another compute type than the recipe's.
        """
        model = nnx.merge(self.graph, groups.cast(params, dtype or self.dtype), _fresh(other_state))
        model.eval()
        return model

    def forward(self, params: Tree, other_state: Tree, batch: Batch, rngs: nnx.Rngs | None) -> tuple[jax.Array, Tree]:
        """Computes logits float32 [B, classes], without dropout if `rngs` is None; and running statistics after it."""
        if rngs is None:
            model = self.model(params, other_state)
        else:
            model = nnx.merge(self.graph, groups.cast(params, self.dtype), reseed(_fresh(other_state), rngs))
            model.train()
        logits: jax.Array = model(*tokens_of(batch), rngs)
        return logits, nnx.state(model, nnx.BatchStat)

    def redraw(self, params: Tree, other_state: Tree, seed: jax.Array, step: jax.Array) -> Tree:
        """Returns the state of a step of one seed that is not trained, given that of the step before."""
        if not any(isinstance(variable, Redrawn) for _, variable in nnx.to_flat_state(other_state)):
            return other_state
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _REDRAW), step)
        return replaced(other_state, redrawn(nnx.merge(self.graph, params, other_state), key, step))

    def step(
        self, params: Tree, optimizer: Tree, other_state: Tree, seed: jax.Array, step: jax.Array, batch: Batch
    ) -> tuple[Tree, Tree, Metrics, Tree]:
        """Takes one optimizer step of one seed on this device's part of a batch; also returns running statistics."""
        parts = self.recipe.train.accumulate
        key = jax.random.fold_in(jax.random.key(seed), step)
        size = batch.labels.shape[0] // parts
        device = 0 if self.mesh is None else jax.lax.axis_index("batch")

        axis = None if self.mesh is None else "batch"

        window = self.recipe.ablation.window
        sequences = self.documents * (-(-batch.values.shape[-1] // window) if window else 1)

        def loss(params: Tree, batch: Batch, part: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
            first = (device * parts + part) * (size * sequences)
            logits, statistics = self.forward(params, other_state, batch, BatchRngs(key, first, axis))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return losses.mean(), ((logits.argmax(-1) == batch.labels).mean(), statistics)

        differentiate = jax.value_and_grad(loss, has_aux=True)
        if parts == 1:
            result = differentiate(params, batch, jnp.zeros((), jnp.int32))
        else:

            def add(total: Tree, batch_and_part: tuple[Batch, jax.Array]) -> tuple[Tree, None]:
                return jax.tree.map(jnp.add, total, differentiate(params, *batch_and_part)), None

            split = jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), batch)
            statistics = jax.tree.map(jnp.zeros_like, nnx.filter_state(other_state, nnx.BatchStat))
            zero = ((jnp.zeros(()), (jnp.zeros(()), statistics)), jax.tree.map(jnp.zeros_like, params))
            total, _ = jax.lax.scan(add, zero, (split, jnp.arange(parts)))
            result = jax.tree.map(lambda x: x / parts, total)
        (mean_loss, (accuracy, statistics)), gradient = self.mean_over_devices(result)
        updates, optimizer = self.optimizer.update(gradient, optimizer, params)
        return optax.apply_updates(params, updates), optimizer, (mean_loss, accuracy), statistics

    def chunk(self, state: State, fixed: Fixed, source: Source, steps: int) -> tuple[State, Metrics]:
        """Takes `steps` steps of all seeds in one scan.

        Args:
            state: the state before the first step.
            fixed: seeds and untrained state.
            source: the training split, or the batches of these steps.
            steps: steps in the scan.

        Returns:
            The state after the last step, and the metrics of each step, [steps, seeds].
        """

        def run(state: State, fixed: Fixed, source: Source) -> tuple[State, Metrics]:
            if isinstance(source, SplitArrays):
                numbers = state.step + jnp.arange(steps)
                drawn = [
                    data.batch_indices(numbers, self.recipe.train.batch, self.examples, fixed.seeds[s], jnp)
                    for s in range(self.count)
                ]
                inputs: Any = self.local_rows(jnp.stack(drawn, axis=1))
            else:
                inputs = source

            def step_one_seed(
                params: Tree, optimizer: Tree, moving: Tree, other_state: Tree, seed: jax.Array, step: jax.Array,
                rows_or_batch: Any,
            ) -> Any:  # fmt: skip
                batch = gather(source, rows_or_batch) if isinstance(source, SplitArrays) else rows_or_batch
                other_state = self.redraw(params, replaced(other_state, moving), seed, step)
                *trained, statistics = self.step(params, optimizer, other_state, seed, step, batch)
                return *trained, nnx.filter_state(replaced(other_state, statistics), MOVING)

            step_seeds = self.vmap_seeds(step_one_seed, (0, 0, 0, 0, 0, None, 0))

            def body(state: State, rows_or_batches: Any) -> tuple[State, Metrics]:
                params, optimizer, metrics, moving = step_seeds(
                    state.params, state.optimizer, state.moving, *fixed, state.step, rows_or_batches
                )
                return State(params, optimizer, state.step + 1, moving), metrics

            return jax.lax.scan(body, state, inputs)

        whole = PartitionSpec()
        split = whole if isinstance(source, SplitArrays) else PartitionSpec(None, None, "batch")
        sharded = self.shard_over_devices(run, (whole, whole, split))
        result: tuple[State, Metrics] = sharded(state, fixed, source)
        return result

    def evaluate(
        self, params: Tree, other_state: Tree, source: Source, start: jax.Array, count: jax.Array, size: int
    ) -> tuple[jax.Array, jax.Array]:
        """Sums loss and correct answers [seeds] over one batch.

        Args:
            params: parameters of all seeds.
            other_state: the models' state that is not trained.
            source: the split, or this batch alone.
            start: the batch's first example.
            count: examples in the split; those of the batch from there on are ignored.
            size: examples per batch, a multiple of the number of devices.
        """

        def run(params: Tree, other_state: Tree, source: Source, start: jax.Array, count: jax.Array) -> Any:
            rows = self.local_rows(start + jnp.arange(size))
            real = rows < count
            batch = gather(source, jnp.where(real, rows, 0)) if isinstance(source, SplitArrays) else source

            def evaluate_one_seed(params: Tree, other_state: Tree) -> tuple[jax.Array, jax.Array]:
                logits, _ = self.forward(params, other_state, batch, None)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
                return jnp.where(real, losses, 0).sum(), (real & (logits.argmax(-1) == batch.labels)).sum()

            sums = self.vmap_seeds(evaluate_one_seed, (0, 0))(params, other_state)
            return sums if self.mesh is None else jax.lax.psum(sums, "batch")

        whole = PartitionSpec()
        split = whole if isinstance(source, SplitArrays) else PartitionSpec("batch")
        sharded = self.shard_over_devices(run, (whole, whole, split, whole, whole))
        result: tuple[jax.Array, jax.Array] = sharded(params, other_state, source, start, count)
        return result

    def compile_chunk(self, state: State, source: Source, steps: int) -> Any:
        """Compiles a chunk: (state, fixed, source) → (state, metrics). It consumes its input state."""
        chunk = jax.jit(self.chunk, static_argnames="steps", donate_argnames="state")
        return chunk.lower(state, self.fixed, source, steps=steps).compile()

    def compile_evaluate(self, source: Source, size: int) -> Any:
        """Compiles the evaluation: (params, other_state, source, start, count) → (summed loss, correct answers)."""
        evaluate, zero = jax.jit(self.evaluate, static_argnames="size"), np.int32(0)
        return evaluate.lower(self.params, self.other_state, source, zero, zero, size=size).compile()

    def flops(self, source: Source) -> float:
        """Counts the FLOPs of one training step, over all seeds and devices (`flops.count`); may be NaN."""
        state = jax.eval_shape(self._initial_state, self.params, self.moving)
        return flops.count(partial(self.chunk, steps=1), state, self.fixed, source)

    def flops_compiler(self, source: Source) -> float | None:
        """Returns the compiler's count of the same, in which every loop's body counts once."""
        state = jax.eval_shape(self._initial_state, self.params, self.moving)
        lowered = jax.jit(self.chunk, static_argnames="steps").lower(state, self.fixed, source, steps=1)
        return (lowered.cost_analysis() or {}).get("flops")


def _fresh(other_state: Tree) -> Tree:
    """The same state with running statistics as new variables, which a model may write to.

    Others it may not, as nothing would keep them.
    """
    return replaced(other_state, jax.tree.map(lambda x: x, nnx.filter_state(other_state, nnx.BatchStat)))


def replaced(other_state: Tree, variables: Tree) -> Tree:
    """The models' state that is not trained with these variables replaced; there may be none."""
    return nnx.merge_state(other_state, variables) if jax.tree.leaves(variables) else other_state


_REDRAW = 0x5EED
"""Separates the random keys of redraws from those of dropout, which are the seed's, folded with the step alone."""

_SECONDS_PER_CHUNK = 1.0
_CPU_SPEED = 3e10
_ACCELERATOR_SPEED = 2e13
"""FLOPs per second that a typical device reaches in training; rough guesses suffice."""


def expected_steps(seconds: float, operations: float, backend: str) -> float:
    """Estimates how many steps of `operations` FLOPs a device takes in `seconds`; 1 if `operations` is NaN."""
    speed = _CPU_SPEED if backend == "cpu" else _ACCELERATOR_SPEED
    return seconds * speed / operations if operations > 0 else 1  # NaN is not greater


def chunk_length(steps_between: int, operations: float, backend: str) -> int:
    """Chooses the steps per chunk: the largest divisor of `steps_between` expected to take about a second.

    Args:
        steps_between: steps between validations.
        operations: FLOPs of one step; may be NaN.
        backend: JAX's platform, such as 'cpu'.
    """
    longest = int(max(1, min(steps_between, expected_steps(_SECONDS_PER_CHUNK, operations, backend))))
    return next(k for k in range(longest, 0, -1) if steps_between % k == 0)


_CPU_TOKENS = 2**12
_ACCELERATOR_TOKENS = 2**16
"""Most tokens of an evaluation batch, on each of a CPU's devices, or on all accelerators (docs/evaluation.md)."""


def part_of(train: Train) -> int:
    """Examples of one part of a training batch: as many as are differentiated at once, on all devices."""
    return train.batch // train.accumulate


def evaluation_batch(recipe: Recipe, tokens: int, count: int, devices: int, backend: str) -> int:
    """Chooses the examples per evaluation batch. It changes losses by rounding, and accuracies only where logits tie.

    On accelerators, which small batches leave idle, it is the largest multiple of a training batch's part
    (`part_of`) with at most `_ACCELERATOR_TOKENS`. Its memory stays below that of training: at most as many parts as
    layers whose activations training stores. On a CPU, where arrays that leave the caches cost most, it is the
    largest divisor of the part with at most `_CPU_TOKENS` on each device.

    Args:
        recipe: the recipe.
        tokens: tokens of an example, over all its documents.
        count: examples to evaluate.
        devices: devices that share a batch.
        backend: JAX's platform, such as 'cpu'.
    """
    part = part_of(recipe.train)
    if backend == "cpu":
        share = part // devices
        return devices * next((n for n in range(share, 1, -1) if share % n == 0 and n * tokens <= _CPU_TOKENS), 1)
    stored = 1 if recipe.train.remat or recipe.encoder.reversible else recipe.encoder.layers
    return part * max(1, min(stored, _ACCELERATOR_TOKENS // (part * tokens), -(-count // part)))


def program_bytes(compiled: Any) -> int | None:
    """Returns the memory a compiled program plans: temporaries + arguments + outputs − aliased."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
