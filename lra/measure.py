"""Speed and memory of one cell on random tokens of the task's shape: no data set, no accuracy.

Rules. Compilation is timed apart. A block is one compiled chunk of training steps (about a second), timed from its
call to the arrival of its losses on the host; the first block is a warm-up and not counted. Blocks are repeated
until at least `MIN_BLOCKS` and `SECONDS` have gone by. Reported are the median and the quartiles of the blocks'
steps per second. Inference is timed the same way on single batches, without dropout and gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lra.feed import Resident
from lra.program import Program, chunk_length, program_bytes
from lra.recipe import Recipe
from tasks.task import Split, Splits

MIN_BLOCKS = 5
SECONDS = 5.0


@dataclass
class Measured:
    """What a measurement gave; speeds as (steps, seconds) of each counted block."""

    parameters: int = 0
    flops_per_step: float | None = None
    compile_seconds: float = 0.0
    train_blocks: list[tuple[int, float]] = field(default_factory=list)
    inference_blocks: list[tuple[int, float]] = field(default_factory=list)
    compiled_bytes: int | None = None


def random_splits(vocab: int, classes: int, pair: bool, length: int, batch: int) -> Splits:
    """One batch of documents of full length, with uniform tokens and labels."""
    rng = np.random.default_rng(0)
    documents = batch * (2 if pair else 1)
    values = rng.integers(0, vocab - 1, (documents, length)).astype(np.uint8)
    index = np.arange(documents, dtype=np.int32).reshape(batch, -1)
    split = Split(index, rng.integers(0, classes, batch).astype(np.uint8))
    lengths = np.full(documents, length, np.int32)
    return Splits(values, lengths, {"train": split}, "random tokens", vocab=vocab, classes=classes)


def measure(
    model: nnx.Module, splits: Splits, recipe: Recipe, on_progress: Callable[[dict[str, float]], None]
) -> Measured:
    """Times training and inference of `model` by the rules above. `recipe.train.precision` must be resolved."""
    batch = recipe.train.batch
    program = Program([model], recipe, batch, splits.splits["train"].index.shape[1], [0], jax.local_devices()[:1])
    data = Resident(splits, program.sharding).data["train"]
    state, rest = program.init(), program.rest
    measured = Measured(parameters=sum(p.size for p in jax.tree.leaves(state.params)))
    started = time.perf_counter()
    measured.flops_per_step = program.flops(data)
    length = chunk_length(recipe.train.eval_every, measured.flops_per_step, jax.default_backend())
    chunk = program.compile_chunk(state, data, length)
    evaluate = program.compile_evaluate(data)
    measured.compile_seconds = time.perf_counter() - started
    measured.compiled_bytes = program_bytes(chunk)

    def timed(steps: int, block: Callable[[], None]) -> list[tuple[int, float]]:
        block()
        blocks: list[tuple[int, float]] = []
        until = time.perf_counter() + SECONDS
        while len(blocks) < MIN_BLOCKS or time.perf_counter() < until:
            started = time.perf_counter()
            block()
            blocks.append((steps, time.perf_counter() - started))
            on_progress({"step": steps * len(blocks), "steps_per_second": steps / blocks[-1][1]})
        return blocks

    def train() -> None:
        nonlocal state
        state, told = chunk(state, rest, data)
        jax.device_get(told)

    def infer() -> None:
        start, count = jnp.int32(0), jnp.int32(batch)
        jax.device_get([evaluate(state.params, rest, data, start, count) for _ in range(length)])

    measured.train_blocks = timed(length, train)
    measured.inference_blocks = timed(length, infer)
    return measured
