"""The protocol of the Long Range Arena (Tay et al. 2020, arXiv:2011.04006), from its released configs.

Where they differ from the paper's appendix, the maintainers call the released configs final (issue #17 of
google-research/long-range-arena); `lra_paper` has the appendix's values.

Command: python run.py run --protocol=lra --tasks=listops,image,pathfinder --models=all --seeds=0,1,2

Parameters start from what the released code draws them from (`models.core.initial`).

Choices that the released configs leave open: a model without a shape takes the task's Transformer shape. Text has the
paper's length of 4,000 (the released base config has 1,000: `--lengths=1000`). Pathfinder keeps the config's fixed
positions, although training is reported to stay at 50 % with them (issue #60): `--set encoder.positions=learned`.
State-space models are in this encoder as any other mixer, with their default sizes; `ssm` has their own recipes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

_IMAGE = Encoder(
    dim=32, heads=1, layers=1, qkv=32, mlp=64, positions="learned", dropout=0.3, attention_dropout=0.2, init="xavier"
)  # fmt: skip
_PATH = Encoder(dim=32, heads=2, layers=1, qkv=16, mlp=32, pool="mean", init="xavier")

TASKS = {
    "listops": Recipe(
        Encoder(dim=512, heads=8, layers=4, qkv=512, mlp=1024, init="xavier"),
        Optimizer(0.05, weight_decay=0.1), Schedule("rsqrt", 1_000), Train(5_000, batch=32, eval_every=50),
    ),
    "text": Recipe(
        Encoder(dim=256, heads=4, layers=4, qkv=256, mlp=1024, init="xavier"),
        Optimizer(0.05, weight_decay=0.1), Schedule("rsqrt", 8_000), Train(20_000, batch=32, eval_every=100),
    ),
    "retrieval": Recipe(
        Encoder(dim=128, heads=4, layers=4, qkv=128, mlp=512, init="xavier"),
        Optimizer(0.05, weight_decay=0.1), Schedule("rsqrt", 8_000), Train(5_000, batch=32, eval_every=100),
    ),
    "image": Recipe(_IMAGE, Optimizer(5e-4), Schedule("cosine", 175), Train(35_000, batch=256, eval_every=175)),
    "pathfinder": Recipe(_PATH, Optimizer(1e-3), Schedule("cosine", 312), Train(62_400, batch=512, eval_every=312)),
    "pathx": Recipe(
        dataclasses.replace(_PATH, positions="learned"),
        Optimizer(1e-3, clip=1.0), Schedule("cosine", 2_500), Train(500_000, batch=64, eval_every=2_500),
    ),
}  # fmt: skip

Change = tuple[dict[str, Any], dict[str, Any]]
"""A model's changes to a task's recipe: fields of the encoder, and options of the mixer."""

_IMAGE_WIDE = {"dim": 128, "qkv": 64, "mlp": 128, "heads": 8}


def _path(layers: int, heads: int, dim: int, qkv: int, mlp: int, **mixer: Any) -> Change:
    shape = {"layers": layers, "heads": heads, "dim": dim, "qkv": qkv, "mlp": mlp}
    return shape | {"dropout": 0.2, "attention_dropout": 0.2}, mixer


MODELS: dict[str, dict[str, Change]] = {
    "image": {
        "transformer": (_IMAGE_WIDE, {}),
        "local": (_IMAGE_WIDE | {"heads": 2, "pool": "mean"}, {"block": 64}),
        "bigbird": (_IMAGE_WIDE | {"heads": 1}, {"block": 64}),
        "longformer": (_IMAGE_WIDE | {"heads": 4, "layers": 4, "pool": "mean"}, {}),
        "reformer": ({"dim": 64, "qkv": 32, "mlp": 64, "heads": 8, "layers": 4}, {}),
        "sinkhorn": ({"dropout": 0.1}, {"block": 64}),
    },
    "pathfinder": {
        "transformer": _path(4, 4, 32, 16, 32),
        "linear_transformer": _path(1, 2, 128, 64, 128),
        # The maintainers call the released Performer config wrong (issue #37); this is the corrected one.
        "performer": _path(1, 8, 128, 64, 128),
        "bigbird": _path(4, 2, 64, 32, 64, block=64),
        "synthesizer": _path(2, 4, 64, 32, 64),
        "reformer": _path(2, 8, 64, 32, 64),
        "sinkhorn": _path(2, 4, 32, 16, 64, block=64),
        "sparse": _path(1, 8, 32, 16, 32),
    },
    "text": {"linformer": ({}, {"rank": 32})},
    # Not in the released configs: what state-space models start from on 16,384 pixels, as their authors have it.
    "pathx": {
        "s4d": ({}, {"step_min": 1e-4}),
        "s5": ({}, {"step_min": 1e-4}),
        "lru": ({}, {"r_min": 0.999, "r_max": 0.9999, "max_phase": math.pi / 10}),
    },
}
"""Changes by task and model. A model that is not listed takes the Transformer's."""

VARIANTS = {f"{task}_{difficulty}": task for task in ("pathfinder", "pathx") for difficulty in ("easy", "intermediate")}
"""Tasks of another difficulty, and the tasks whose recipes they take."""


def recipe(task: str, model: str) -> Recipe:
    """The released config of a task and model."""
    task = VARIANTS.get(task, task)
    base = TASKS[task]
    models = MODELS.get(task, {})
    shape, mixer = models.get(model, models.get("transformer", ({}, {})))
    changed = dataclasses.replace(
        base, encoder=dataclasses.replace(base.encoder, **shape), mixer=tuple(sorted(mixer.items()))
    )
    if (task, model) == ("image", "sinkhorn"):
        decay = dataclasses.replace(base.optimizer, weight_decay=0.7)
        changed = dataclasses.replace(changed, optimizer=decay)
    return changed


LRA = Protocol("lra", "the paper's protocol, from the released configs", tuple(TASKS), recipe, variants=tuple(VARIANTS))
