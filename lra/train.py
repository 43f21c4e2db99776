"""Training: arrays and a module in, an outcome out. Knows no task or model by name.

The data lives on the device; a chunk of steps is one compiled `lax.scan` over donated state; Python runs only
between chunks. NNX is used at the edges alone: the module is split once, and merged inside the compiled step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lra import order
from lra.recipe import Optimizer, Recipe, Schedule
from tasks.task import Split, Splits

Tree = Any
_SECONDS_A_CHUNK = 1.0


class Data(NamedTuple):
    """One split on the device; `values` and `lengths` are the table that the splits share."""

    values: jax.Array
    lengths: jax.Array
    rows: jax.Array
    labels: jax.Array


class State(NamedTuple):
    """All that a step changes."""

    params: Tree
    optimizer: Tree
    step: jax.Array


@dataclass
class Outcome:
    """What one seed's training gave. Accuracies are fractions of all examples of a split."""

    status: str = "ok"
    """'ok', or 'diverged' when the loss stopped being finite."""
    error: str = ""
    steps: int = 0
    """Steps done; training stops at the first chunk whose loss is not finite."""
    best_step: int = 0
    """The earliest step of the highest validation accuracy."""
    validation_best: float = math.nan
    validation_last: float = math.nan
    test_best: float = math.nan
    """Test accuracy of the parameters at `best_step`: the number to quote."""
    test_last: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)
    parameters: int = 0
    flops_per_step: float | None = None
    """Floating-point operations of one training step, counted by the compiler before optimisation."""
    compile_seconds: float = 0.0
    blocks: list[tuple[int, float]] = field(default_factory=list)
    """(steps, seconds) of each timed chunk."""
    compiled_bytes: int | None = None
    """Temporaries + arguments + outputs − aliased of the compiled training chunk."""


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


def to_device(splits: Splits) -> dict[str, Data]:
    """All splits on the default device; the table is there once."""
    values, lengths = jnp.asarray(splits.values), jnp.asarray(splits.lengths)

    def put(split: Split) -> Data:
        return Data(values, lengths, jnp.asarray(split.index), jnp.asarray(split.labels, jnp.int32))

    return {name: put(split) for name, split in splits.splits.items()}


def gather(data: Data, rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Examples `rows` [B] as token ids int32 [B, P, L], mask [B, P, L] and labels [B]."""
    documents = data.rows[rows]
    mask = jnp.arange(data.values.shape[1]) < data.lengths[documents][..., None]
    tokens = jnp.where(mask, data.values[documents].astype(jnp.int32) + 1, 0)
    return tokens, mask, data.labels[rows]


class Program:
    """The pure functions of one model and recipe, to be compiled."""

    def __init__(self, model: nnx.Module, recipe: Recipe, examples: int, seed: int):
        self.graph, self.params, self.rest = nnx.split(model, nnx.Param, ...)
        self.recipe, self.examples, self.seed = recipe, examples, seed
        self.optimizer = make_optimizer(recipe)
        self.dtype = jnp.bfloat16 if recipe.train.precision == "bfloat16" else jnp.float32

    def init(self) -> State:
        """State at step 0. The buffers are the state's own, so it may be donated."""
        params = jax.tree.map(jnp.copy, self.params)
        return State(params, self.optimizer.init(params), jnp.zeros((), jnp.int32))

    def logits(self, params: Tree, rest: Tree, tokens: jax.Array, mask: jax.Array, key: jax.Array | None) -> jax.Array:
        """Logits float32 [B, classes]; parameters are cast to the compute type here and nowhere else.

        `key` seeds dropout; without it there is none.
        """
        rngs = None if key is None else nnx.Rngs(dropout=key)
        cast = jax.tree.map(lambda p: p.astype(self.dtype), params)
        out: jax.Array = nnx.merge(self.graph, cast, rest)(tokens, mask, rngs)
        return out

    def step(self, state: State, rows: jax.Array, rest: Tree, data: Data) -> tuple[State, tuple[jax.Array, jax.Array]]:
        """One optimizer step on the examples `rows` [B]. Returns the batch's mean loss and accuracy too."""
        tokens, mask, labels = gather(data, rows)
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            logits = self.logits(params, rest, tokens, mask, key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits.argmax(-1) == labels).mean()

        (value, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer, state.step + 1), (value, accuracy)

    def chunk(self, state: State, rest: Tree, data: Data, steps: int) -> tuple[State, tuple[jax.Array, jax.Array]]:
        """`steps` steps in one scan; losses and accuracies [steps]."""
        numbers = state.step + jnp.arange(steps)
        rows = order.examples(numbers, self.recipe.train.batch, self.examples, self.seed, jnp)
        return jax.lax.scan(lambda s, r: self.step(s, r, rest, data), state, rows)

    def evaluate(self, params: Tree, rest: Tree, data: Data, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Summed loss and number of right answers over the examples start … start + batch − 1 that exist."""
        rows = start + jnp.arange(self.recipe.train.batch)
        real = rows < len(data.labels)
        tokens, mask, labels = gather(data, jnp.where(real, rows, 0))
        logits = self.logits(params, rest, tokens, mask, None)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.where(real, losses, 0).sum(), (real & (logits.argmax(-1) == labels)).sum()


def steps_in_chunk(program: Program, state: State, data: Data, steps_between: int) -> tuple[float | None, int]:
    """One step's floating-point operations by the compiler's count, and the steps of a chunk of about a second."""
    rows = jnp.zeros(program.recipe.train.batch, jnp.uint32)
    lowered = jax.jit(program.step).lower(state, rows, program.rest, data)
    flops = (lowered.cost_analysis() or {}).get("flops")
    speed = 3e10 if jax.default_backend() == "cpu" else 2e13
    return flops, chunk_length(steps_between, (flops or 1e9) / speed)


def chunk_length(steps_between: int, seconds_a_step: float) -> int:
    """Steps in a chunk: the largest divisor of `steps_between` that is expected to take about a second."""
    most = max(1, min(steps_between, round(_SECONDS_A_CHUNK / seconds_a_step)))
    return next(k for k in range(most, 0, -1) if steps_between % k == 0)


def fit(
    model: nnx.Module,
    splits: Splits,
    recipe: Recipe,
    seed: int,
    on_progress: Callable[[dict[str, float]], None] = lambda told: None,
) -> Outcome:
    """Trains `model` by `recipe` and tests it once, at the best validation step and at the last.

    `recipe.train.precision` must be resolved ('float32' or 'bfloat16'). The result is a function of the
    arguments and the device; it does not depend on how steps are grouped into chunks.
    """
    budget = recipe.train
    data = to_device(splits)
    program = Program(model, recipe, len(splits.splits["train"].labels), seed)
    state, rest = program.init(), program.rest
    outcome = Outcome(parameters=sum(p.size for p in jax.tree.leaves(state.params)))

    started = time.perf_counter()
    interval = min(budget.eval_every, budget.steps)
    outcome.flops_per_step, length = steps_in_chunk(program, state, data["train"], interval)
    compiled = {length: compile_chunk(program, state, data["train"], length)}
    outcome.compiled_bytes = program_bytes(compiled[length])
    evaluate = {
        split: jax.jit(program.evaluate).lower(state.params, rest, data[split], jnp.int32(0)).compile()
        for split in ("validation", "test")
    }
    outcome.compile_seconds = time.perf_counter() - started

    def score(params: Tree, split: str) -> tuple[float, float]:
        """Mean loss and accuracy over every example of a split."""
        count = len(data[split].labels)
        sums = [evaluate[split](params, rest, data[split], jnp.int32(i)) for i in range(0, count, budget.batch)]
        loss, right = np.sum(jax.device_get(sums), axis=0)
        return float(loss) / count, float(right) / count

    best = state.params
    losses: list[np.ndarray] = []
    accuracies: list[np.ndarray] = []
    while outcome.steps < budget.steps:
        stop = min(budget.steps, (outcome.steps // interval + 1) * interval)
        size = min(length, stop - outcome.steps)
        if size not in compiled:
            started = time.perf_counter()
            compiled[size] = compile_chunk(program, state, data["train"], size)
            outcome.compile_seconds += time.perf_counter() - started
        started = time.perf_counter()
        state, told = compiled[size](state, rest, data["train"])
        chunk_losses, chunk_accuracies = jax.device_get(told)
        seconds = time.perf_counter() - started
        outcome.steps += size
        outcome.blocks.append((size, seconds))
        losses.append(chunk_losses)
        accuracies.append(chunk_accuracies)
        if not np.isfinite(chunk_losses).all():
            outcome.status = "diverged"
            at = outcome.steps - size + int(np.argmin(np.isfinite(chunk_losses)))
            outcome.error = f"the loss was {chunk_losses[at - outcome.steps]} at step {at}"
            return outcome
        on_progress({"step": outcome.steps, "loss": float(chunk_losses[-1]), "steps_per_second": size / seconds})
        if outcome.steps == stop:
            loss, accuracy = score(state.params, "validation")
            outcome.curve.append(
                {
                    "step": outcome.steps,
                    "train_loss": float(np.concatenate(losses).mean()),
                    "train_accuracy": float(np.concatenate(accuracies).mean()),
                    "validation_loss": loss,
                    "validation_accuracy": accuracy,
                }
            )
            losses, accuracies = [], []
            outcome.validation_last = accuracy
            if not accuracy <= outcome.validation_best:
                outcome.validation_best, outcome.best_step = accuracy, outcome.steps
                best = jax.tree.map(jnp.copy, state.params)
            on_progress({"step": outcome.steps, "validation_accuracy": accuracy})
    outcome.test_last = score(state.params, "test")[1]
    outcome.test_best = outcome.test_last if outcome.best_step == outcome.steps else score(best, "test")[1]
    return outcome


def compile_chunk(program: Program, state: State, data: Data, steps: int) -> Any:
    """The compiled chunk (state, rest, data) → (state, metrics); it consumes the state it is given."""
    chunk = jax.jit(program.chunk, static_argnames="steps", donate_argnames="state")
    return chunk.lower(state, program.rest, data, steps=steps).compile()


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
