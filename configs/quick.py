"""The default protocol: real training in minutes on a laptop's CPU. Not the protocol of any paper.

Command: python run.py run --protocol=quick     (44 % and 40 % on listops_short, 71 s on 2 cores)

By default it runs short ListOps expressions only. The other tasks are for trying things out: few steps, and text and
retrieval cut to 256 bytes. `pathfinder_short` has a narrower model, and enough steps for FNet to learn: 11 minutes.
"""

import dataclasses

from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

_STEPS = {
    "listops_short": 2_000,
    "text": 1_000,
    "retrieval": 500,
    "image": 300,
    "pathfinder": 300,
    "pathfinder_easy": 300,
    "pathfinder_short": 6_000,
}
_LENGTHS = {"text": (256,), "retrieval": (256,)}

_MIXERS: dict[str, tuple[tuple[str, int], ...]] = {
    "local": (("block", 16),),
    "longformer": (("window", 16),),
    "bigbird": (("block", 8),),
    "reformer": (("chunk", 16), ("hashes", 2)),
    "sinkhorn": (("block", 16),),
    "performer": (("features", 64),),
    "nystromformer": (("landmarks", 16),),
    "skyformer": (("landmarks", 32),),
    "mega_chunk": (("chunk", 16),),
    "s5": (("clip_eigs", True),),
}
"""Mixer options, such as blocks and windows, for 64 tokens; and what keeps a mixer stable at a high learning rate."""


_PATHFINDER = Recipe(
    Encoder(
        dim=32, heads=4, layers=2, qkv=32, mlp=64, pool="mean", positions="learned", dropout=0.0, attention_dropout=0.0
    ),
    Optimizer(2e-3, weight_decay=0.01, eps=1e-8),
    Schedule("cosine", warmup=600),
    Train(_STEPS["pathfinder_short"], batch=16, eval_every=_STEPS["pathfinder_short"] // 8),
)
"""For pathfinder_short, on which FNet rises above chance after about 30,000 images."""


def recipe(task: str, model: str) -> Recipe:
    """One small recipe for all models and tasks but pathfinder_short; the number of steps depends on the task."""
    if task == "pathfinder_short":
        return dataclasses.replace(_PATHFINDER, mixer=_MIXERS.get(model, ()))
    return Recipe(
        Encoder(dim=64, heads=4, layers=2, qkv=64, mlp=128, positions="learned", dropout=0.0, attention_dropout=0.0),
        Optimizer(1e-3, weight_decay=0.01, eps=1e-8),
        Schedule("cosine", warmup=_STEPS[task] // 10),
        Train(_STEPS[task], batch=32, eval_every=_STEPS[task] // 8),
        mixer=_MIXERS.get(model, ()),
    )


QUICK = Protocol(
    "quick",
    "minutes on a laptop: 2 layers, width 64, short inputs",
    tuple(name for name in _STEPS if not name.startswith("pathfinder_")),
    recipe,
    default_tasks=("listops_short",),
    variants=("pathfinder_easy", "pathfinder_short"),
    lengths=_LENGTHS,
)
