"""MEGA's published recipe: the commands in examples/mega/README.lra.md of facebookresearch/mega at aeaa4b4.

Adam with decay of every parameter, gradients clipped at a norm of 1, a linear warm-up and a linear decay to 0. Tasks of
text normalise after each sum, without a final norm; pictures before, with one. MEGA-chunk is the same with attention
inside chunks. Averages reach 1,024 positions, 4,096 on Path-X.

Not reproduced: the warm-up begins at a rate of 1e-7, here at 0; on Path-X it rises with the square of the step. Path-X
is trained on 8 GPUs, with 2 pictures each and 8 batches summed: a batch of 128 here.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from configs.families.frame import EXAMPLES, HALF, PICTURES, encoder
from configs.recipe import Optimizer, Recipe, Schedule, Train


class MegaRow(NamedTuple):
    """What differs between the tasks in MEGA's recipe."""

    layers: int
    dim: int
    z: int
    norm: Literal["layer", "scale", "batch"]
    rate: float
    decay: float
    dropout: float
    batch: int
    steps: int
    warmup: int
    pixels: tuple[float, float]
    """Mean and standard deviation; of no effect in tasks of text."""


MEGA = {
    "listops": MegaRow(6, 80, 64, "layer", 1e-3, 0.01, 0.1, 64, 90_000, 3_000, HALF),
    "text": MegaRow(4, 128, 64, "scale", 4e-3, 0.01, 0.1, 50, 25_000, 10_000, HALF),
    "retrieval": MegaRow(6, 128, 64, "scale", 3e-3, 0.04, 0.1, 64, 91_960, 10_000, HALF),
    "image": MegaRow(8, 160, 96, "batch", 0.01, 0.02, 0.0, 50, 180_000, 9_000, (0.48, 0.24)),
    "pathfinder": MegaRow(6, 128, 64, "batch", 0.01, 0.01, 0.0, 128, 250_000, 50_000, HALF),
    "pathx": MegaRow(4, 64, 32, "batch", 0.01, 0.01, 0.0, 128, 125_000, 25_000, HALF),
}


def recipe(task: str) -> Recipe:
    """MEGA's recipe of a task."""
    return _recipe(task, {})


def recipe_of_chunk(task: str) -> Recipe:
    """MEGA-chunk's recipe of a task: chunks of 128 positions, and of 4,096 on Path-X."""
    return _recipe(task, {"chunk": 4_096} if task == "pathx" else {})


def _recipe(task: str, options: dict[str, Any]) -> Recipe:
    row, picture = MEGA[task], task in PICTURES
    mixer = options | {"z": row.z, "hidden": 2 * row.dim, "truncation": 4_096 if task == "pathx" else 1_024}
    if picture:
        mixer["attention"] = "laplace"
    return Recipe(
        encoder(
            task, row.dim, row.layers, row.dropout, row.pixels, mlp=2 * row.dim, attention_dropout=0.0,
            tied_dropout=False, norm=row.norm, norm_momentum=0.9, prenorm=picture, final_norm=picture,
            input="linear" if picture else "embedding", init="mega", block="silu_mlp", head="gelu_mlp",
        ),
        Optimizer(row.rate, weight_decay=row.decay, eps=1e-8, clip=1.0, undecayed=""),
        Schedule("linear", row.warmup),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(mixer.items())),
    )  # fmt: skip
