"""The suite's side of `tests/benchmarks/peers.py`: the training step and the inference that `bench` measures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.recipe import Encoder as Shape
from configs.recipe import Optimizer, Recipe, Schedule, Train
from lra.train.benchmark import prepare, random_splits
from lra.train.data import Batch, tokens_of
from lra.train.device import describe
from models.attention.transformer import tile_rows
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from models.core.layers import Constant
from tests.benchmarks.peer import Case, serve, timed

OPTIONS: dict[str, dict[str, Any]] = {"performer": {"redraw": 0}}
"""Options of a mixer in this comparison."""


def build(case: Case) -> Encoder:
    """The suite's model."""
    options = OPTIONS.get(case.model, {})
    make = mixer_factory(case.model, options, heads=case.heads, qkv=case.dim, dropout=0.0, layers=case.layers)
    return Encoder(
        make, vocab=case.vocab, classes=case.classes, length=case.length, dim=case.dim, layers=case.layers,
        mlp=case.mlp, rate=0.0, rngs=nnx.Rngs(0),
    )  # fmt: skip


def documents(case: Case) -> Batch:
    """The batch that both sides train on: full-length documents of random tokens."""
    splits = random_splits(case.vocab, case.classes, False, case.length, case.batch)
    train = splits.splits["train"]
    arrays = splits.values[train.index], splits.lengths[train.index], train.labels.astype(np.int32)
    return Batch(*map(jnp.asarray, arrays))


def arrays_of(case: Case) -> dict[str, np.ndarray]:
    """Initial parameters and constants by name, and the batch: what the other side starts from."""
    state = nnx.state(build(case), nnx.Any(nnx.Param, Constant))
    named = {".".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}
    batch = documents(case)
    tokens, mask = (np.asarray(array)[:, 0] for array in tokens_of(batch))
    return named | {"batch.tokens": tokens, "batch.mask": mask, "batch.labels": np.asarray(batch.labels)}


class Suite:
    """One model that trains on one batch. `mode` has no meaning here: everything is compiled."""

    def __init__(self, case: Case, file: Path, mode: str):
        np.savez(file, **arrays_of(case))
        shape = Shape(case.dim, case.heads, case.layers, case.dim, case.mlp, dropout=0.0, attention_dropout=0.0)
        optimizer = Optimizer(case.rate, weight_decay=case.decay)
        train = Train(1000, case.batch, 1000, "float32")
        splits = random_splits(case.vocab, case.classes, False, case.length, case.batch)
        prepared = prepare(build(case), splits, Recipe(shape, optimizer, Schedule("constant", 0), train))
        self.program, self.data, self.state = prepared.program, prepared.data, prepared.state
        self.one = self.program.compile_chunk(self.state, self.data, 1)
        self.evaluate = prepared.evaluate
        self.batch = documents(case)

    def step(self) -> None:
        self.state, metrics = self.one(self.state, self.program.fixed, self.data)
        jax.device_get(metrics)

    def infer(self) -> None:
        count = jnp.int32(len(self.batch.labels))
        fixed = self.state.params, self.program.other_state, self.data
        jax.device_get(self.evaluate(*fixed, jnp.int32(0), count))

    def logits(self) -> np.ndarray:
        params, other = (jax.tree.map(lambda x: x[0], tree) for tree in (self.state.params, self.program.other_state))
        run = jax.jit(lambda params, other, batch: self.program.forward(params, other, batch, None)[0])
        return np.asarray(run(params, other, self.batch))

    def time(self, phase: str, seconds: float) -> list[float]:
        return timed(self.step if phase == "train" else self.infer, seconds)


def rates(rows: int, keys: int, width: int, repeats: int = 32) -> tuple[float, float]:
    """What this machine reaches in products of a tile of attention, and in exponentials of it: a second, both.

    Args:
        rows: queries of the tile.
        keys: its keys.
        width: of a head.
        repeats: tiles in a row, in one program.
    """
    q, k, s = jnp.ones((rows, width)), jnp.ones((keys, width)), jnp.ones((rows, keys))

    def products(_: int, q: jax.Array) -> jax.Array:
        return (q @ k.T) @ k * 1e-6 + q

    def powers(_: int, s: jax.Array) -> jax.Array:
        return jnp.exp(s * 0.5 - 1)

    found = []
    for body, value, count in ((products, q, 4 * rows * keys * width), (powers, s, rows * keys)):
        run = jax.jit(functools.partial(jax.lax.fori_loop, 0, repeats, body)).lower(value).compile()
        times = timed(functools.partial(lambda run, value: jax.block_until_ready(run(value)), run, value), 1.0)
        found.append(repeats * count / min(times))
    return found[0], found[1]


def host() -> str:
    """The processor's name and the number of cores."""
    device = describe()
    return f"{device['host_cores']} cores of {device['host_cpu']}"


if __name__ == "__main__":
    serve(Suite, f"jax {jax.__version__}", {"host": host, "rates": rates, "tile": tile_rows})
