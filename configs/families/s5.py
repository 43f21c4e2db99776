"""S5's published recipe: the commands in bin/run_experiments of lindermanlab/S5 at 3c18fdb.

Groups of parameters. 'standard' has A, B and Δ, without decay, at the small rate; in 'BandCdecay' B decays; in
'BfastandCdecay' it takes the full rate as well; `dt_global` (Text, Retrieval) puts Δ among all other parameters, which
decay, biases and norms too: the code's list of spared names has "norm", which matches none (issue #10). It normalises
before each mixer and has no final norm.

Not reproduced: its very first step at the peak rate (the schedule is applied after the step), and its cosine, which
reaches 0 `warmup` epochs before the end, so that the last epochs barely train; here cosine goes from the end of the
warm-up to the last step. Nor its padding, which its backward scan reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from configs.families.frame import EXAMPLES, GREY, HALF, encoder, optimizer
from configs.recipe import Recipe, Schedule, Train


class S5Row(NamedTuple):
    """What differs between the tasks in S5's recipe."""

    layers: int
    dim: int
    block: Literal["half_glu1", "half_glu2"]
    dropout: float
    momentum: float
    rate: float
    slow_rate: float
    groups: str
    """A key of `S5_GROUPS`."""
    decay: float
    batch: int
    epochs: int
    warmup: int
    """Epochs."""
    mixer: Mapping[str, Any]


S5 = {
    "listops": S5Row(
        8, 128, "half_glu2", 0.0, 0.95, 3e-3, 1e-3, "BfastandCdecay", 0.04, 50, 40, 1, {"state": 16, "blocks": 8}
    ),
    "text": S5Row(
        6, 256, "half_glu2", 0.1, 0.95, 4e-3, 1e-3, "standard, dt_global", 0.07, 50, 35, 0,
        {"state": 192, "blocks": 12},
    ),
    "retrieval": S5Row(
        6, 128, "half_glu1", 0.0, 0.95, 2e-3, 1e-3, "standard, dt_global", 0.05, 32, 20, 1,
        {"state": 256, "blocks": 16, "c_init": "trunc"},
    ),
    "image": S5Row(
        6, 512, "half_glu1", 0.1, 0.95, 4.5e-3, 1e-3, "BfastandCdecay", 0.07, 50, 250, 1,
        {"state": 384, "blocks": 3, "clip_eigs": True},
    ),
    "pathfinder": S5Row(
        6, 192, "half_glu1", 0.05, 0.9, 4.5e-3, 9e-4, "standard", 0.03, 64, 200, 1,
        {"state": 256, "blocks": 8, "c_init": "trunc"},
    ),
    "pathx": S5Row(
        6, 128, "half_glu1", 0.0, 0.9, 1.8e-3, 6e-4, "BandCdecay", 0.06, 32, 75, 1,
        {"state": 256, "blocks": 16, "c_init": "complex", "step_min": 1e-4},
    ),
}  # fmt: skip

S5_GROUPS = {
    "standard": ("A,step,B", "A,step,B"),
    "standard, dt_global": ("A,B", "A,B"),
    "BandCdecay": ("A,step,B", "A,step"),
    "BfastandCdecay": ("A,step", "A,step"),
}
"""By name of `opt_config`: the roles with the small rate, and those without decay."""


def recipe(task: str) -> Recipe:
    """S5's recipe of a task."""
    row, (slow, undecayed) = S5[task], S5_GROUPS[S5[task].groups]
    epoch = EXAMPLES[task] // row.batch
    return Recipe(
        encoder(
            task, row.dim, row.layers, row.dropout, GREY if task == "image" else HALF, block=row.block,
            final_norm=False, norm_momentum=row.momentum,
        ),
        optimizer(row.rate, row.decay, slow, row.slow_rate / row.rate, undecayed),
        Schedule("cosine", row.warmup * epoch),
        Train(row.epochs * epoch, row.batch, epoch),
        mixer=tuple(sorted(row.mixer.items())),
    )  # fmt: skip
