"""The default protocol: real training in minutes on a laptop's CPU. Not the protocol of any paper.

Command: python run.py run --protocol=quick     (44 % and 40 % on listops_short, 71 s on 2 cores)

By default it runs short ListOps expressions only. The other tasks are for trying things out: few steps, and text and
retrieval cut to 256 bytes, with samples of validation and test (`_EVALUATION`). `pathfinder_short` has a narrower
model, and enough steps for FNet to learn: 11 minutes.
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

_EVALUATION = {
    "text": (8, 1_000, 5_000),
    "retrieval": (4, 1_000, 5_000),
    "image": (4, 1_000, 2_500),
    "pathfinder": (4, 1_000, 2_500),
    "pathfinder_easy": (4, 1_000, 2_500),
}
"""Validations, and examples of each validation and test, so that evaluation takes at most a quarter of a cell.

An example takes about a third of its time in training. 95 % of tests of n examples are right to within, at 50 and at
20 % accuracy: 1,000: ±3.1 and ±2.5 points; 2,500: ±2.0 and ±1.6; 5,000: ±1.4 and ±1.1. Image's whole test, of
10,000, is right to within ±1.0 and ±0.8; with its 5,000 of validation, evaluation took more than two thirds of a cell.
The other tasks validate 8 times and evaluate everything, which takes less than a quarter of theirs.
"""

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
    validations, validation_examples, test_examples = _EVALUATION.get(task, (8, 0, 0))
    return Recipe(
        Encoder(dim=64, heads=4, layers=2, qkv=64, mlp=128, positions="learned", dropout=0.0, attention_dropout=0.0),
        Optimizer(1e-3, weight_decay=0.01, eps=1e-8),
        Schedule("cosine", warmup=_STEPS[task] // 10),
        Train(
            _STEPS[task],
            batch=32,
            eval_every=_STEPS[task] // validations,
            validation_examples=validation_examples,
            test_examples=test_examples,
        ),
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
