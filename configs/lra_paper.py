"""The protocol of the Long Range Arena paper's appendix (arXiv:2011.04006), where it differs from `lra`.

Command: python run.py run --protocol=lra_paper --tasks=listops --models=transformer,fnet --seeds=0,1,2

The appendix gives no embedding width for Image and Pathfinder: 128 is used. Everything it does not name is as in `lra`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from configs import lra
from configs.recipe import Protocol, Recipe

_SHAPES: dict[str, dict[str, Any]] = {
    "listops": {"dim": 512, "heads": 8, "layers": 6, "qkv": 512, "mlp": 2048},
    "text": {"dim": 512, "heads": 8, "layers": 6, "qkv": 512, "mlp": 2048},
    "retrieval": {"dim": 128, "heads": 4, "layers": 4, "qkv": 128, "mlp": 512, "pair_head": "nli"},
    "image": {"dim": 128, "heads": 4, "layers": 3, "qkv": 64, "mlp": 128},
    "pathfinder": {"dim": 128, "heads": 8, "layers": 4, "qkv": 128, "mlp": 128},
}
_RATES = {"retrieval": 0.5, "image": 0.01, "pathfinder": 0.01}


def recipe(task: str, model: str) -> Recipe:
    """The appendix's recipe of a task; all models have the same shape."""
    base = lra.TASKS[task]
    encoder = dataclasses.replace(base.encoder, **_SHAPES[task])
    rate = _RATES.get(task, base.optimizer.learning_rate)
    return dataclasses.replace(base, encoder=encoder, optimizer=dataclasses.replace(base.optimizer, learning_rate=rate))


LRA_PAPER = Protocol("lra_paper", "the paper's appendix, where it differs from the configs", tuple(_SHAPES), recipe)
