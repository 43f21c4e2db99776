"""Floating-point operations of a cell's whole training, counted on abstract shapes: nothing is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import PROTOCOLS
from configs.recipe import Recipe
from lra.train import flops
from lra.train.data import SplitArrays
from lra.train.step import Program
from lra.train.worker import build
from tasks import TASKS
from tests.scale.examples import EXAMPLES


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one cell."""

    task: str
    model: str
    length: int
    steps: int
    step: float
    """Operations of a training step."""
    scoring: float
    """Operations of all validations and tests together."""

    @property
    def operations(self) -> float:
        return self.steps * self.step + self.scoring

    @property
    def in_steps(self) -> float:
        """The cell's time, in steps, where scoring runs at the speed of training."""
        return self.operations / self.step


def abstract(
    task: str, model: str, protocol: str = "lra", length: int | None = None
) -> tuple[Recipe, SplitArrays, Callable[[], Program]]:
    """A cell's recipe in bfloat16 as on accelerators, the shapes of its data, and what makes its program.

    The last is to be called with abstract values alone (`jax.eval_shape`): the model is never made.
    """
    recipe, known = PROTOCOLS[protocol].recipe(task, model), TASKS[task]
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision="bfloat16"))
    examples, documents, length = EXAMPLES[task][0], 2 if known.pair else 1, length or known.length
    kinds = np.uint8, np.int32, np.int32, np.int32
    shapes = (1000, length), (1000,), (examples, documents), (examples,)
    source = SplitArrays(*(jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)))

    def program() -> Program:
        module = build(model, recipe, known.vocab, known.classes, known.pair, length, 0)
        return Program([module], recipe, examples, documents, (0,), jax.devices()[:1])

    return recipe, source, program


def work_of(task: str, model: str, protocol: str = "lra") -> Work:
    """A cell's work on one device, in bfloat16 as on accelerators; NaN where the program cannot be counted."""
    recipe, source, make = abstract(task, model, protocol)
    (_, validation, test), batch = EXAMPLES[task], recipe.train.batch
    operations: list[float] = []

    def counted() -> None:
        program = make()
        operations.append(program.flops(source))
        some = jnp.int32(0)
        evaluate = partial(program.evaluate, size=batch)
        operations.append(flops.count(evaluate, program.params, program.other_state, source, some, some))

    jax.eval_shape(counted)
    step, forward = operations
    steps = recipe.train.steps
    validations = math.ceil(steps / recipe.train.eval_every)
    batches = validations * math.ceil(validation / batch) + 2 * math.ceil(test / batch)
    return Work(task, model, TASKS[task].length, steps, step, batches * forward)


def as_row(work: Work) -> dict[str, Any]:
    """Plain values, to be kept."""
    return dataclasses.asdict(work)
