"""The cost of the training loop: its steps per second beside a plain loop's and the bare step's, in one run.

    python -m tests.benchmarks.training --out=docs/training.md

`plain` is the loop that most code has: a jitted step, a batch gathered by NumPy and sent at every step, its loss
fetched at every step. `bare` is the compiled step called in a row with all data on the device, nothing fetched but
the last loss: no loop is faster. `ours` is the suite's own (chunks of a scan, metrics of every step fetched once a
chunk, divergence looked for, progress told). The three take turns, for some rounds; ratios are of a round's rates, and
the median over rounds is given. Same model, batch and arithmetic in all three, dropout included. `together` is ours
with three seeds in one program; its ratio is three seeds' steps a second in it to one seed's in `ours`, so that above 1
seeds are better trained together than one after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.recipe import Encoder as Shape
from configs.recipe import Optimizer, Recipe, Schedule, Train
from lra.grid.spec import TrainOptions
from lra.train import data
from lra.train.benchmark import random_splits
from lra.train.data import Batch
from lra.train.device import describe
from lra.train.loop import Hooks, Trainer
from lra.train.step import State
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tasks.task import Dataset

SHAPES = {
    "small (2 layers, 64 wide, L 64, batch 32)": (Shape(64, 4, 2, 64, 128, positions="learned"), 64, 32, 250),
    "Text (4 layers, 256 wide, L 1,000, batch 2)": (Shape(256, 4, 4, 256, 1024), 1000, 2, 20),
}
EXAMPLES = 2048


def splits_of(length: int) -> Dataset:
    """Random text-like examples; validation and test are a few of them."""
    splits = random_splits(257, 2, False, length, EXAMPLES)
    train = splits.splits["train"]
    few = type(train)(train.index[:8], train.labels[:8])
    return Dataset(splits.values, splits.lengths, {"train": train, "validation": few, "test": few}, "", 257, 2)


class Contest:
    """The three loops on one model and shape."""

    def __init__(self, model: str, shape: Shape, length: int, batch: int, between: int):
        make = mixer_factory(model, {}, heads=shape.heads, qkv=shape.qkv, dropout=shape.attention_dropout, layers=2)
        module = Encoder(
            make, vocab=257, classes=2, length=length, dim=shape.dim, layers=shape.layers, mlp=shape.mlp,
            positions=shape.positions, rngs=nnx.Rngs(0),
        )  # fmt: skip
        seeds = (0, 1, 2)
        recipe = Recipe(shape, Optimizer(1e-4), Schedule("constant", 10), Train(10**6, batch, between, "float32"))
        self.splits, self.batch = splits_of(length), batch
        self.training = Trainer([module], self.splits, recipe, seeds[:1], TrainOptions(), Hooks())
        self.training._compile()
        self.seeds = Trainer([module] * len(seeds), self.splits, recipe, seeds, TrainOptions(), Hooks())
        self.seeds._compile()
        self.program = self.training.program
        source = self.training.source.chunk(0, 1)
        self.one = self.program.compile_chunk(self.program.init(), source, 1)
        self.bare_state, self.plain_state = self.program.init(), self.program.init()
        given = self.host_batch(0)
        self.fed = self.program.compile_chunk(self.plain_state, given, 1)

    def host_batch(self, step: int) -> Batch:
        rows = data.batch_indices(np.arange(step, step + 1), self.batch, EXAMPLES, 0, np)[:, None]
        split = self.splits.splits["train"]
        documents = split.index[rows]
        labels = split.labels[rows].astype(np.int32)
        return Batch(*map(jnp.asarray, (self.splits.values[documents], self.splits.lengths[documents], labels)))

    def plain(self, seconds: float) -> float:
        state: State = self.plain_state
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            state, told = self.fed(state, self.program.fixed, self.host_batch(steps))
            float(told[0][0, 0])
            steps += 1
        self.plain_state = state
        return steps / (time.perf_counter() - started)

    def bare(self, steps: int) -> float:
        state, source = self.bare_state, self.training.source.chunk(0, 1)
        started = time.perf_counter()
        for _ in range(steps):
            state, told = self.one(state, self.program.fixed, source)
        jax.block_until_ready(told)
        self.bare_state = state
        return steps / (time.perf_counter() - started)

    def ours(self, seconds: float, training: Trainer) -> float:
        outcome = training.outcome
        first, started = outcome.steps, time.perf_counter()
        while time.perf_counter() - started < seconds:
            training._run_chunk(None)
        training.recent = []
        return (outcome.steps - first) / (time.perf_counter() - started)

    def rounds(self, count: int, seconds: float) -> dict[str, list[float]]:
        steps = max(1, round(self.plain(seconds) * seconds))
        loops: dict[str, Callable[[], float]] = {
            "plain": lambda: self.plain(seconds),
            "bare": lambda: self.bare(steps),
            "ours": lambda: self.ours(seconds, self.training),
            "together": lambda: self.ours(seconds, self.seeds),
        }
        found: dict[str, list[float]] = {name: [] for name in loops}
        for loop in loops.values():
            loop()
        for number in range(count):
            names = list(loops)
            for name in names[number % 4 :] + names[: number % 4]:
                found[name].append(loops[name]())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="fnet,transformer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop in each round")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = describe()
    where = f"{device['host_cores']} cores of {device['host_cpu']}" if device["platform"] == "cpu" else device["kind"]
    lines = [
        "# The training loop",
        "",
        f"Steps per second of three loops around the same step: {where}, jax {jax.__version__}, medians of "
        f"{args.rounds} rounds in turn. Written by `python -m tests.benchmarks.training --out=docs/training.md`; "
        "`tests/benchmarks/training.py` describes the loops.",
        "",
        "| shape | model | plain | bare | ours | ours ÷ plain | ours ÷ bare | 3 × together ÷ ours |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (shape, length, batch, between) in SHAPES.items():
        for model in args.models.split(","):
            rates = Contest(model, shape, length, batch, between).rounds(args.rounds, args.seconds)
            ratios = [
                median(times * a / b for a, b in zip(rates[one], rates[other], strict=True))
                for times, one, other in ((1, "ours", "plain"), (1, "ours", "bare"), (3, "together", "ours"))
            ]
            shown = " | ".join(f"{median(rates[loop]):.3g}" for loop in ("plain", "bare", "ours"))
            lines.append(f"| {name} | {model} | {shown} | {ratios[0]:.2f} | {ratios[1]:.3f} | {ratios[2]:.2f} |")
            print(lines[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
