"""Speed and memory of one cell on random tokens of the task's shape: no data set, no accuracy.

The rules are in docs/measuring.md: what is timed, how often, and what each figure means.
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
from lra.train.step import Program, State, program_bytes
from tasks.task import Split, Splits

MIN_BLOCKS = 5
SECONDS = 2.0
"""Blocks are repeated until there are `MIN_BLOCKS` and `SECONDS` have gone by."""
BLOCK_SECONDS = 0.3
"""What a block is to last at least, where a step does not take longer."""
_CHUNK_SECONDS = 0.1
_MOST_STEPS = 100

Blocks = list[tuple[int, float]]
"""(steps, seconds) of each counted block."""


@dataclass
class Measured:
    """What a measurement gave."""

    parameters: int = 0
    flops_per_step: float | None = None
    """By `lra.train.flops`: loops count as often as they run."""
    flops_compiler: float | None = None
    """By the compiler, which counts a loop's body once."""
    compile_seconds: float = 0.0
    compiled_bytes: int | None = None
    train_blocks: Blocks = field(default_factory=list)
    inference_blocks: Blocks = field(default_factory=list)
    energy_per_step_joules: float | None = None
    """The GPU board's, over the timed training blocks."""


def random_splits(vocab: int, classes: int, pair: bool, length: int, batch: int) -> Splits:
    """One batch of documents of full length, with uniform tokens and labels."""
    rng = np.random.default_rng(0)
    documents = batch * (2 if pair else 1)
    values = rng.integers(0, vocab - 1, (documents, length)).astype(np.uint8)
    index = np.arange(documents, dtype=np.int32).reshape(batch, -1)
    split = Split(index, rng.integers(0, classes, batch).astype(np.uint8))
    lengths = np.full(documents, length, np.int32)
    return Splits(values, lengths, {"train": split}, "random tokens", vocab=vocab, classes=classes)


@dataclass(frozen=True)
class Prepared:
    """Compiled programs of a training step and of inference, and what they take."""

    program: Program
    data: SplitArrays
    state: State
    chunk: Any
    evaluate: Any
    length: int
    """Steps of one call of `chunk`."""
    measured: Measured
    """What is known before anything has been timed."""


def prepare(model: nnx.Module, splits: Splits, recipe: Recipe, memory_limit: int | None = None) -> Prepared:
    """Counts and compiles the training and the inference of `model`. `recipe.train.precision` must be resolved.

    Args:
        memory_limit: bytes that the programs may plan at most, where the device has more.

    Raises:
        MemoryError: a compiled program plans more than there is. It has not been run.
    """
    batch = recipe.train.batch
    program = Program([model], recipe, batch, splits.splits["train"].index.shape[1], [0], jax.local_devices()[:1])
    data, state = DeviceData(splits, program.sharding).data["train"], program.init()
    measured = Measured(parameters=sum(p.size for p in jax.tree.leaves(state.params)))
    measured.flops_per_step, measured.flops_compiler = program.flops(data), program.flops_compiler(data)
    length = _steps_in_chunk(measured.flops_per_step)

    started = time.perf_counter()
    chunk = program.compile_chunk(state, data, length)
    evaluate = program.compile_evaluate(data)
    measured.compile_seconds = time.perf_counter() - started
    measured.compiled_bytes = program_bytes(chunk)
    for planned in (measured.compiled_bytes, program_bytes(evaluate)):
        if planned is not None:
            device.require_memory(planned, memory_limit)
    return Prepared(program, data, state, chunk, evaluate, length, measured)


def measure(prepared: Prepared, on_progress: Callable[[dict[str, float]], None], trial: bool = False) -> Measured:
    """Times training and inference; `prepared` cannot be used again.

    Args:
        trial: only find out whether the programs fit: each runs once and nothing is timed.
    """
    p, state, measured = prepared, prepared.state, prepared.measured

    def train(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, told = p.chunk(state, p.program.other_state, p.data)
        jax.device_get(told)

    def infer(calls: int) -> None:
        start, count = jnp.int32(0), jnp.int32(p.data.labels.shape[0])
        jax.device_get([p.evaluate(state.params, p.program.other_state, p.data, start, count) for _ in range(calls)])

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
    on_progress: Callable[[dict[str, float]], None] = lambda told: None,
    on_warm: Callable[[], None] = lambda: None,
) -> Blocks:
    """The timed blocks of `run(calls)`, which does `steps` steps a call and returns when their results are there.

    Two calls warm up; the second one's time says how many calls make a block. `on_warm` is called before the first
    block that counts.
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
        done, seconds = blocks[-1]
        on_progress({"step": done * len(blocks), "steps_per_second": done / seconds})
    return blocks


def _seconds(run: Callable[[int], None], calls: int) -> float:
    started = time.perf_counter()
    run(calls)
    return time.perf_counter() - started


def _steps_in_chunk(operations: float) -> int:
    """Steps of one compiled scan, so that Python's part is small: about a tenth of a second of a usual device."""
    speed = 3e10 if jax.default_backend() == "cpu" else 2e13
    wanted = _CHUNK_SECONDS * speed / operations if operations > 0 else 1  # NaN is not greater
    return int(min(max(wanted, 1), _MOST_STEPS))
