"""LRU's recipe (arXiv:2303.06349), *unverified*: its authors published no code.

H, N, steps, batch, dropout, factor, ring and phase are those of the paper's table as unofficial reproductions have
them, not checked against the paper. Where these differ: ListOps 80,000 steps (or 90,000) and r_max 0.99 (or 0.9);
Pathfinder's phase 2π (or π/10). Rates: of reproductions in Image, ListOps, Pathfinder and Path-X; in Text and Retrieval
the default of NicolasZucchet/minimal-LRU. The warm-up of a tenth, the momentum 0.99 (Flax's default) and both
directions in every task are assumptions. The paper's Image is in colour, here it is grey. It normalises before each
mixer and has no final norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from configs.families.frame import EXAMPLES, GREY, HALF, encoder, optimizer
from configs.recipe import Recipe, Schedule, Train


class LRURow(NamedTuple):
    """What differs between the tasks in LRU's recipe."""

    dim: int
    dropout: float
    rate: float
    factor: float
    """By which A, B and γ learn more slowly."""
    batch: int
    steps: int
    mixer: Mapping[str, Any]


LRU = {
    "listops": LRURow(128, 0.0, 3e-3, 0.5, 32, 80_000, {"state": 256, "r_max": 0.99}),
    "text": LRURow(256, 0.1, 1e-3, 0.1, 32, 50_000, {"state": 192, "r_max": 0.9}),
    "retrieval": LRURow(128, 0.1, 1e-3, 0.5, 64, 100_000, {"state": 256, "r_min": 0.5, "r_max": 0.9}),
    "image": LRURow(512, 0.1, 5e-3, 0.25, 50, 180_000, {"state": 384, "r_min": 0.9, "r_max": 0.999}),
    "pathfinder": LRURow(192, 0.0, 4e-3, 0.25, 64, 500_000, {"state": 256, "r_min": 0.9, "r_max": 0.999}),
    "pathx": LRURow(
        128, 0.0, 4e-3, 0.25, 32, 250_000,
        {"state": 256, "r_min": 0.999, "r_max": 0.9999, "max_phase": math.pi / 10},
    ),
}  # fmt: skip


def recipe(task: str) -> Recipe:
    """LRU's recipe of a task."""
    row = LRU[task]
    return Recipe(
        encoder(
            task, row.dim, 6, row.dropout, GREY if task == "image" else HALF, block="full_glu", final_norm=False,
            norm_momentum=0.99,
        ),
        optimizer(row.rate, 0.05, "A,B", row.factor, "A,B"),
        Schedule("cosine", row.steps // 10),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(row.mixer.items())),
    )  # fmt: skip
