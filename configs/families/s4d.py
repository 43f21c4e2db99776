"""S4D's published recipe: its authors' last.

Source: the configs of state-spaces/s4 at e757cef (configs/experiment/lra, with `model/layer=s4d`). The S4D paper
(arXiv:2206.11893) had earlier ones: by that repository's older configs, ListOps with 8 layers of width 128 and 64
states, Image with layer norm, Pathfinder with decay 0.03 and read at its last position, Path-X with a rate of 5e-4, and
both with a warm-up of one epoch. S4D starts as S4D-Inv, the better of the paper's two that solve Path-X; the
repository's default is S4D-Lin (`--models=s4d:init=lin`).

Groups of parameters. A and B take the rate 1e-3; Δ and C do so on pictures, and take the full rate on text. A, B, Δ,
norms and biases do not decay. (S4's code spares the backbone's biases, not those of the first and last map, and decays
the embedding; here all biases are spared, and the embedding decays.) It has a final norm exactly where it normalises
before the mixers. Retrieval stops after 20 epochs there, at 45,960 of its schedule's 50,000 steps; here the schedule
ends. Its Pathfinder and Path-X leave pixels at 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from configs.families.frame import EXAMPLES, GREY, PICTURES, encoder, optimizer
from configs.recipe import Recipe, Schedule, Train


class S4DRow(NamedTuple):
    """What differs between the tasks in S4D's recipe."""

    dim: int
    prenorm: bool
    dropout: float
    rate: float
    slow: str
    """Roles with the rate 1e-3."""
    batch: int
    steps: int
    mixer: Mapping[str, Any]
    """Options of the mixer other than `init`."""


_TEXT, _PICTURE = "A,B", "A,step,B,C"

S4D = {
    "listops": S4DRow(256, False, 0.0, 0.01, _TEXT, 32, 120_000, {"state": 4}),
    "text": S4DRow(256, True, 0.0, 0.01, _TEXT, 16, 50_000, {"state": 4}),
    "retrieval": S4DRow(256, True, 0.0, 0.01, _TEXT, 64, 50_000, {"state": 4}),
    "image": S4DRow(512, False, 0.1, 0.01, _PICTURE, 50, 180_000, {}),
    "pathfinder": S4DRow(256, True, 0.0, 0.004, _PICTURE, 64, 500_000, {"n_ssm": 0}),
    "pathx": S4DRow(256, True, 0.0, 0.001, _PICTURE, 16, 500_000, {"n_ssm": 0, "step_min": 1e-4}),
}


def recipe(task: str) -> Recipe:
    """S4D's recipe of a task."""
    return frame_of_s4d(task, {**S4D[task].mixer, "init": "inv"})


def frame_of_s4d(task: str, mixer: Mapping[str, Any]) -> Recipe:
    """S4D's recipe around any mixer with these options."""
    row = S4D[task]
    return Recipe(
        encoder(
            task, row.dim, 6, row.dropout, GREY if task == "image" else (0.0, 1.0), block="glu", init="torch",
            prenorm=row.prenorm, final_norm=row.prenorm, norm_momentum=0.9,
            input="linear" if task in PICTURES else "embedding",
        ),
        optimizer(row.rate, 0.05, row.slow, 1e-3 / row.rate, "A,step,B,bias,norm"),
        Schedule("cosine", row.steps // 10),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(mixer.items())),
    )  # fmt: skip
