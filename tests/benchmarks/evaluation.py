"""What an evaluated example costs by the size of its batch: the measurements behind `lra.train.step.evaluation_batch`.

    python -m tests.benchmarks.evaluation --out=docs/evaluation.md

Models of the `quick` protocol on random tokens of three shapes. The batches of a shape take turns, for some rounds;
times are of a round's, relative to that of the training batch, and the median over rounds is given. Memory is what the
compiled program plans, relative to the compiled training step's.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import jax
import numpy as np

from configs.quick import recipe
from lra.train import device
from lra.train.benchmark import random_splits
from lra.train.data import DeviceData
from lra.train.step import Program, evaluation_batch, part_of, program_bytes
from lra.train.worker import build
from tasks import TASKS

SHAPES = (("listops_short", 64, 512), ("text", 256, 256), ("image", 1_024, 128))
"""Task, length, and examples that are evaluated in each turn."""
MODELS = ("transformer", "fnet", "s4d")
BATCHES = (2, 4, 8, 16, 32, 64, 128)


_RULE = (
    "On a CPU a larger batch costs more per example, not less, as its arrays leave the caches: cells are evaluated in "
    "divisors of the training batch (of its part, with `train.accumulate`) of at most 4,096 tokens. On accelerators, "
    "where small batches leave most of the device idle, it is the largest multiple of at most 65,536 tokens, and of at "
    "most as many parts as layers, so that evaluation fits wherever training does; if the compiled program planned "
    "more memory than the training step's, the part itself. That gain has not been measured yet."
)
"""How `evaluation_batch` follows from the measurements."""


def row(task: str, length: int, examples: int, model: str, rounds: int) -> str:
    """One line of the table."""
    made, known = recipe(task, model), TASKS[task]
    made = dataclasses.replace(made, train=dataclasses.replace(made.train, precision="float32"))
    data = random_splits(known.vocab, known.classes, known.pair, length, examples)
    module = build(model, made, known.vocab, known.classes, known.pair, length, 0, bool(known.shape))
    program = Program([module], made, examples, 1, [0], jax.devices()[:1])
    source = DeviceData(data, program.sharding).data["train"]
    programs = {size: program.compile_evaluate(source, size) for size in BATCHES}
    training = program_bytes(program.compile_chunk(program.init(), source, 1)) or 0

    def seconds(size: int) -> float:
        started, count = time.perf_counter(), np.int32(examples)
        starts = range(0, examples, size)
        jax.device_get(
            [programs[size](program.params, program.other_state, source, np.int32(i), count) for i in starts]
        )
        return time.perf_counter() - started

    turns = [{size: seconds(size) for size in BATCHES} for _ in range(rounds + 1)][1:]  # the first warms up
    part, chosen = part_of(made.train), evaluation_batch(made, length, examples, 1, jax.default_backend())
    cells = []
    for size in BATCHES:
        text = f"{median(turn[size] / turn[part] for turn in turns):.2f}"
        memory = (program_bytes(programs[size]) or 0) / training
        cells.append(f"**{text}** ({memory:.2f})" if size == chosen else f"{text} ({memory:.2f})")
    return f"| {task}, {length:,} tokens | {model} | {' | '.join(cells)} |"


def page(rounds: int) -> Iterator[str]:
    """The lines of the page, one after the other as they are measured."""
    used = device.describe()
    yield "# Evaluation\n"
    yield (
        f"Time per evaluated example by the examples per batch, relative to the training batch's 32: {used['kind']} "
        f"({used['host_cpu']}, {used['host_cores']} cores), jax {jax.__version__}, medians of {rounds} rounds in turn. "
        "In brackets: memory relative to a training step's. Bold: the batch that cells are evaluated in here. Written "
        "by `python -m tests.benchmarks.evaluation --out=docs/evaluation.md`.\n"
    )
    yield f"{_RULE}\n"
    yield f"| shape | model | {' | '.join(map(str, BATCHES))} |"
    yield f"|---|---|{'---:|' * len(BATCHES)}"
    for task, length, examples in SHAPES:
        for model in MODELS:
            yield row(task, length, examples, model, rounds)


def main() -> None:
    """Measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evaluation.md"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    lines = []
    for line in page(args.rounds):
        print(line, flush=True)
        lines.append(line)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
