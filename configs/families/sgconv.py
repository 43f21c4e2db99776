"""SGConv's published recipe: the configs of ctlllll/SGConv, branch `preview`, at 0c2b3ab (configs/experiment/lra).

That code is S4's with another mixer, and the frame is S4D's. All parameters decay: the branch asks for no groups. The
small kernels have the rate 1e-3. A warm-up that a config does not state is the scheduler's default, 1,000 steps.

Not reproduced: Pathfinder is read at its last position there, here by the mean of all. Of the two dropouts in a block,
here the GELU before the second is approximated by tanh; without dropout it is exact. Retrieval and Path-X are trained
on 2 and 4 GPUs, whose batches are one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from configs.families.frame import EXAMPLES, GREY, PICTURES, encoder, optimizer
from configs.recipe import Recipe, Schedule, Train


class SGConvRow(NamedTuple):
    """What differs between the tasks in SGConv's recipe."""

    layers: int
    dim: int
    prenorm: bool
    dropout: float
    rate: float
    decay: float
    batch: int
    steps: int
    warmup: int
    mixer: Mapping[str, Any]


SGCONV = {
    "listops": SGConvRow(8, 128, False, 0.0, 0.01, 0.05, 50, 80_000, 1_000, {"taps": 1}),
    "text": SGConvRow(6, 256, True, 0.0, 0.01, 0.05, 16, 50_000, 1_000, {"taps": 2}),
    "retrieval": SGConvRow(6, 256, True, 0.0, 0.01, 0.05, 64, 50_000, 2_500, {"taps": 1}),
    "image": SGConvRow(
        6, 512, False, 0.2, 0.01, 0.05, 50, 200_000, 1_000, {"alpha_min": 1.0, "alpha_max": 1.0, "power": 1.0}
    ),
    "pathfinder": SGConvRow(6, 256, True, 0.2, 0.004, 0.03, 64, 500_000, 2_500, {}),
    "pathx": SGConvRow(
        6, 256, True, 0.0, 0.004, 0.03, 64, 125_000, 10_000,
        {"taps": 64, "alpha_min": 1.0, "alpha_max": 3.0, "scale": 1, "init": "cosine"},
    ),
}  # fmt: skip


def recipe(task: str) -> Recipe:
    """SGConv's recipe of a task."""
    row = SGCONV[task]
    return Recipe(
        encoder(
            task, row.dim, row.layers, row.dropout, GREY if task == "image" else (0.0, 1.0), init="torch",
            block="full_glu" if row.dropout else "glu", norm="layer" if task == "image" else "batch",
            prenorm=row.prenorm, final_norm=row.prenorm, norm_momentum=0.9,
            input="linear" if task in PICTURES else "embedding",
        ),
        optimizer(row.rate, row.decay, "A", 1e-3 / row.rate, ""),
        Schedule("cosine", row.warmup),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(row.mixer.items())),
    )  # fmt: skip
