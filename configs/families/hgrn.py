"""HGRN's recipe: script_lra.py of OpenNLPLab/HGRN at 135e414, as far as it goes; *unverified*.

That repository has the command lines, and not the code that they call (S4's with another model). So these are
assumptions: S4's batch norm, AdamW with its betas, embedding, head and cosine to 0; sinusoids where the script says
"position"; and a GLU with SiLU, as wide as the script's `expand_ratio_glu` says. Both directions are read, each with a
θ of its own: `param_share` is False.

Pictures are not the paper's: there the script's settings belong to a variant in two dimensions, and Image is in colour
and augmented. Here they are grey pixels in one dimension.
"""

from __future__ import annotations

from typing import NamedTuple

from configs.families.frame import EXAMPLES, GREY, HALF, PICTURES, encoder, optimizer
from configs.recipe import Recipe, Schedule, Train


class HGRNRow(NamedTuple):
    """What differs between the tasks in HGRN's recipe."""

    layers: int
    dim: int
    glu: int
    """Width of the feed-forward, as a multiple of `dim`."""
    rate: float
    decay: float
    dropout: float
    batch: int
    steps: int
    warmup: int


HGRN = {
    "listops": HGRNRow(6, 32, 1, 5e-4, 0.01, 0.0, 128, 50_000, 5_000),
    "text": HGRNRow(4, 128, 1, 5e-3, 0.0, 0.1, 32, 50_000, 10_000),
    "retrieval": HGRNRow(2, 64, 2, 5e-3, 0.0, 0.0, 64, 50_000, 312),
    "image": HGRNRow(6, 512, 1, 3e-3, 0.0, 0.0, 50, 50_000, 30_000),
    "pathfinder": HGRNRow(6, 128, 1, 2e-3, 0.0, 0.0, 128, 500_000, 50_000),
    "pathx": HGRNRow(6, 64, 1, 7.5e-4, 0.0, 0.0, 16, 500_000, 150_000),
}


def recipe(task: str) -> Recipe:
    """HGRN's recipe of a task."""
    row, picture = HGRN[task], task in PICTURES
    return Recipe(
        encoder(
            task, row.dim, row.layers, row.dropout, GREY if task == "image" else HALF, mlp=row.glu * row.dim,
            positions="none" if task in ("pathfinder", "pathx") else "sinusoidal", norm_momentum=0.9,
            input="linear" if picture else "embedding", init="torch", block="silu_glu",
        ),
        optimizer(row.rate, row.decay, "A", 1.0, ""),
        Schedule("cosine", row.warmup),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=(("expand", 1.0),),
    )  # fmt: skip
