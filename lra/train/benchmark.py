"""Measures a cell's speed and memory on random tokens of the task's shape: no data set, no accuracy.

docs/measuring.md explains what is timed, how often, and what each figure means.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.recipe import Recipe
from lra.train import device
from lra.train.data import DeviceData, SplitArrays
from lra.train.device import EnergyMeter
from lra.train.optimizer import count_parameters
from lra.train.step import Program, State, expected_steps, part_of, program_bytes
from tasks.task import Dataset, Split

MIN_BLOCKS = 5
SECONDS = 2.0
"""Blocks are repeated until there are `MIN_BLOCKS` and `SECONDS` have passed."""
BLOCK_SECONDS = 0.3
"""Target duration of a block; a step that takes longer is a block by itself."""
_CHUNK_SECONDS = 0.1
_MAX_STEPS_PER_CHUNK = 100

Blocks = list[tuple[int, float]]
"""(steps, seconds) of each timed block."""


@dataclass
class Measured:
    """Result of a measurement."""

    parameters: int = 0
    flops_per_step: float | None = None
    """Counted by `lra.train.flops`, each loop with all its trips."""
    flops_compiler: float | None = None
    """Counted by the compiler, each loop's body once."""
    compile_seconds: float = 0.0
    compiled_bytes: int | None = None
    train_blocks: Blocks = field(default_factory=list)
    inference_blocks: Blocks = field(default_factory=list)
    energy_per_step_joules: float | None = None
    """Energy of the whole GPU board, over the timed training blocks."""


def random_splits(vocab: int, classes: int, pair: bool, length: int, batch: int) -> Dataset:
    """Generates one batch of full-length documents, with uniform tokens and labels.

    Args:
        vocab: number of token ids, padding included.
        classes: number of classes.
        pair: whether an example has two documents.
        length: tokens per document.
        batch: number of examples.
    """
    rng = np.random.default_rng(0)
    documents = batch * (2 if pair else 1)
    values = rng.integers(0, vocab - 1, (documents, length)).astype(np.uint8)
    index = np.arange(documents, dtype=np.int32).reshape(batch, -1)
    split = Split(index, rng.integers(0, classes, batch).astype(np.uint8))
    lengths = np.full(documents, length, np.int32)
    return Dataset(values, lengths, {"train": split}, "random tokens", vocab=vocab, classes=classes)


@dataclass(frozen=True)
class Prepared:
    """Compiled programs of training and inference, with their inputs."""

    program: Program
    data: SplitArrays
    state: State
    chunk: Any
    evaluate: Any
    length: int
    """Steps per call of `chunk`."""
    part: int
    """Examples per call of `evaluate`."""
    measured: Measured
    """The figures known before anything is timed."""


def prepare(model: nnx.Module, dataset: Dataset, recipe: Recipe, memory_limit: int | None = None) -> Prepared:
    """Compiles the training and the inference of a model, and counts their FLOPs and memory.

    Args:
        model: the model.
        dataset: one batch of training examples.
        recipe: the recipe, with `train.precision` resolved.
        memory_limit: bytes that a program may plan at most, even if the device has more.

    Raises:
        MemoryError: a compiled program plans more memory than is available. It has not been run.
    """
    batch, part = recipe.train.batch, part_of(recipe.train)
    program = Program([model], recipe, batch, dataset.splits["train"].index.shape[1], [0], jax.local_devices()[:1])
    data, state = DeviceData(dataset, program.sharding).data["train"], program.init()
    measured = Measured(parameters=count_parameters(state.params))
    measured.flops_per_step, measured.flops_compiler = program.flops(data), program.flops_compiler(data)
    length = _steps_in_chunk(measured.flops_per_step)

    started = time.perf_counter()
    chunk = program.compile_chunk(state, data, length)
    evaluate = program.compile_evaluate(data, part)
    measured.compile_seconds = time.perf_counter() - started
    measured.compiled_bytes = program_bytes(chunk)
    for planned in (measured.compiled_bytes, program_bytes(evaluate)):
        if planned is not None:
            device.require_memory(planned, memory_limit)
    return Prepared(program, data, state, chunk, evaluate, length, part, measured)


def measure(prepared: Prepared, on_progress: Callable[[dict[str, float]], None], trial: bool = False) -> Measured:
    """Times training and inference.

    Args:
        prepared: the programs; they cannot be used again.
        on_progress: receives the steps done and the speed after each block.
        trial: only try whether the programs fit in memory: each runs once, untimed.
    """
    p, state, measured = prepared, prepared.state, prepared.measured

    def train(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = p.chunk(state, p.program.fixed, p.data)
        jax.device_get(metrics)

    def infer(calls: int) -> None:
        batch = p.data.labels.shape[0]
        starts, count = [jnp.int32(start) for start in range(0, batch, p.part)], jnp.int32(batch)
        fixed = state.params, p.program.other_state, p.data
        jax.device_get([p.evaluate(*fixed, start, count) for _ in range(calls) for start in starts])

    if trial:
        train(1)
        infer(1)
        return measured
    meter = EnergyMeter(jax.default_backend())
    measured.train_blocks = timed(train, p.length, on_progress, meter.start)
    joules = meter.stop()
    if joules is not None:
        measured.energy_per_step_joules = joules / sum(steps for steps, _ in measured.train_blocks)
    measured.inference_blocks = timed(infer, 1, on_progress)
    return measured


def timed(
    run: Callable[[int], None],
    steps: int,
    on_progress: Callable[[dict[str, float]], None] = lambda metrics: None,
    on_warm: Callable[[], None] = lambda: None,
) -> Blocks:
    """Times blocks of calls.

    Two calls warm up; the time of the second determines how many calls form a block.

    Args:
        run: makes the given number of calls, and returns when their results have arrived.
        steps: steps per call.
        on_progress: receives the steps done and the speed after each block.
        on_warm: called before the first timed block.
    """
    run(1)
    calls = max(1, round(BLOCK_SECONDS / _seconds(run, 1)))
    if calls > 1:
        run(calls)
    on_warm()
    blocks: Blocks = []
    until = time.perf_counter() + SECONDS
    while len(blocks) < MIN_BLOCKS or time.perf_counter() < until:
        blocks.append((steps * calls, _seconds(run, calls)))
        size, seconds = blocks[-1]
        on_progress({"step": size * len(blocks), "steps_per_second": size / seconds})
    return blocks


def _seconds(run: Callable[[int], None], calls: int) -> float:
    started = time.perf_counter()
    run(calls)
    return time.perf_counter() - started


def _steps_in_chunk(operations: float) -> int:
    """Chooses the steps per compiled scan: about a tenth of a second, so that Python's share of the time is small."""
    steps = expected_steps(_CHUNK_SECONDS, operations, jax.default_backend())
    return int(min(max(steps, 1), _MAX_STEPS_PER_CHUNK))
