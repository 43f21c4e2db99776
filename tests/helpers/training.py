"""A model and data so small that training them takes a second, trained in this process."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipe import Encoder as Shape
from configs.recipe import Optimizer, Recipe, Schedule, Train
from lra.grid.spec import TrainOptions
from lra.train.checkpoint import Checkpoints
from lra.train.data import DeviceData
from lra.train.loop import Hooks, TrainResult, fit
from lra.train.step import Program
from lra.train.worker import build
from tasks.task import Dataset, Split

RECIPE = Recipe(
    Shape(dim=16, heads=2, layers=1, qkv=16, mlp=32, dropout=0.1, attention_dropout=0.1),
    Optimizer(learning_rate=3e-3, eps=1e-8),
    Schedule("constant", warmup=10),
    Train(steps=200, batch=32, eval_every=50, precision="float32"),
)


def first_token_splits(counts=(512, 101, 103), length=8, seed=0) -> Dataset:
    """Tokens 0 … 3 of random lengths; the class is the first token. Split sizes that no batch divides."""
    rng = np.random.default_rng(seed)
    total = sum(counts)
    values = rng.integers(0, 4, (total, length)).astype(np.uint8)
    index = np.arange(total, dtype=np.int32)[:, None]
    cuts = np.cumsum([0, *counts])
    splits = {
        name: Split(index[a:b], values[a:b, 0])
        for name, a, b in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False)
    }
    lengths = rng.integers(1, length + 1, total).astype(np.int32)
    return Dataset(values, lengths, splits, "made up", vocab=5, classes=4)


def encoder(model="transformer", seed=0, shape=RECIPE.encoder):
    recipe = dataclasses.replace(RECIPE, encoder=shape)
    return build(model, recipe, vocab=5, classes=4, pair=False, length=8, seed=seed)


def train(recipe=RECIPE, seeds=(0,), model="fnet", **options) -> TrainResult:
    hooks = {name: options.pop(name) for name in ("checkpoints", "stop", "on_progress") if name in options}
    models = [build(model, recipe, vocab=5, classes=4, pair=False, length=8, seed=seed) for seed in seeds]
    return fit(models, first_token_splits(), recipe, seeds, TrainOptions(**options), Hooks(**hooks))


def session(
    folder: Path | None,
    chunks: int | None = None,
    key: str = "k",
    recipe: Recipe = RECIPE,
    seeds=(0, 3),
    model="fnet",
    **options: Any,
) -> tuple[TrainResult, list[str]]:
    """Trains for some chunks, or to the end; with a checkpoint after each where there is a folder for them.

    Returns:
        The outcome, and the warnings about checkpoints.
    """
    warnings: list[str] = []
    checkpoints = Checkpoints(folder, key, 0, warnings.append) if folder else None
    calls = iter(range(10**6))

    def stop() -> str:
        return "enough" if chunks is not None and next(calls) >= chunks else ""

    outcome = train(recipe, seeds, model, checkpoints=checkpoints, stop=stop, **options)
    if checkpoints:
        checkpoints.close()
    return outcome, warnings


@functools.cache
def trained(recipe=RECIPE, seeds=(0,), model="fnet") -> TrainResult:
    """`train`, once in this process for the same arguments."""
    return train(recipe, seeds, model)


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """Compiles the programs of a recipe once for all trainings within, as tracing them takes longest."""
    programs: dict[str, Any] = {}

    def shared(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Program, *arguments: Any) -> Any:
            shapes = jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), arguments)
            steps = [a for a in arguments if isinstance(a, int)]
            key = repr((method.__name__, self.graph, self.recipe, self.seeds, shapes, steps))
            if key not in programs:
                programs[key] = method(self, *arguments)
            return programs[key]

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile_chunk", "compile_evaluate", "flops"):
            patch.setattr(Program, name, shared(getattr(Program, name)))
        yield


def with_train(**changes) -> Recipe:
    return dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, **changes))


def program_of(recipe=RECIPE, seeds=(3,), model="transformer") -> tuple[Program, DeviceData]:
    program = Program([encoder(model, s, recipe.encoder) for s in seeds], recipe, 512, 1, seeds, jax.devices()[:1])
    return program, DeviceData(first_token_splits(), program.sharding)
