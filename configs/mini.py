"""The mini arena: five small tasks on which every model of the zoo takes minutes on two cores.

Command: python run.py run --protocol=mini --models=fnet,their_package.module:Mixer

Width 64, 4 heads, batches of 32, mean pooling, batch norm, a linear head and no dropout, for all. What surrounds a
mixer is one of two *frames* of the field, of equal size:

- `transformer`: two blocks of a mixer and a feed-forward, and learned positions;
- `state_space`: more blocks, of a mixer and GLU (S4's), and no positions, but for mixers that are their own mirror
  image (`MIRRORED`). As many blocks as come closest to the size.

Each family of mixers has one frame and one learning rate, tuned for all its models by the same few trials of one of
them (`docs/mini.md`); a mixer of a user's has the recipe that was best over all families. Sizes of feed-forwards, or
of mixers, are such that a model has the Transformer's number of parameters to 10 %, positions aside, but for two
whose parameters grow with the length (`OVERSIZED`).

Validation on 1,000 examples costs ±3 points at 50 %, and chooses among five steps; the test on 4,000, which is scored
once or twice, has ±1.5.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

STEPS = {
    "listops_mini": 3_000,
    "text_mini": 800,
    "retrieval_mini": 3_000,
    "image_mini": 1_500,
    "pathfinder_mini": 4_000,
}
"""Training steps by task: two to five minutes of two cores for most models."""

ORDERED_PAIRS = {f"ordered_pair_{distance}": 4 * distance for distance in (1, 4, 16, 64, 256)}
"""Lengths of the tasks that measure range (`tasks.ordered_pair`): four times the distance, so that each distance is the
same task at another scale. They run where they are named."""
PAIR_STEPS = 3_000


@dataclass(frozen=True)
class Tuned:
    """What was tuned for a family."""

    frame: Literal["transformer", "state_space"]
    learning_rate: float


FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": (
        "transformer", "transformer_naive", "local", "sparse", "longformer", "bigbird", "reformer", "sinkhorn",
        "synthesizer",
    ),
    "mixing": ("fnet", "fnet_hybrid", "linear_mixing", "random_mixing", "ff_only"),
    "approximate": (
        "linformer", "linear_transformer", "performer", "nystromformer", "luna", "cosformer", "skyformer",
    ),
    "state_space": ("s4d", "s5", "lru", "mamba"),
    "moving_average": ("mega", "mega_chunk"),
    "convolution": ("short_conv", "long_conv", "sgconv", "hyena", "chordmixer"),
    "recurrent": ("retnet", "gla", "lion_d", "lion_s", "hgrn", "mamba2", "deltanet", "gated_deltanet"),
}  # fmt: skip
"""The families of `models.FAMILIES`, which protocols do not import."""

_TUNED: dict[str, Tuned] = {
    "attention": Tuned("transformer", 2e-3),
    "mixing": Tuned("transformer", 5e-3),
    "approximate": Tuned("transformer", 2e-3),
    "state_space": Tuned("state_space", 5e-3),
    "moving_average": Tuned("transformer", 5e-3),
    "convolution": Tuned("state_space", 5e-3),
    "recurrent": Tuned("state_space", 5e-3),
    "default": Tuned("transformer", 5e-3),
}
_FAMILY_OF = {model: family for family, models in FAMILIES.items() for model in models}

_MIXERS: dict[str, tuple[tuple[str, Any], ...]] = {
    "local": (("block", 32),),
    "longformer": (("window", 32),),
    "bigbird": (("block", 16),),
    "reformer": (("chunk", 16), ("hashes", 2)),
    "sinkhorn": (("block", 16),),
    "synthesizer": (("kind", "factorised_random"), ("rank", 4)),
    "performer": (("features", 64),),
    "nystromformer": (("landmarks", 32),),
    "skyformer": (("landmarks", 32),),
    "mega_chunk": (("chunk", 32),),
    "s5": (("clip_eigs", True),),
    "lru": (("state", 36),),
    "mamba": (("expand", 1.5),),
    "sgconv": (("taps", 20),),
    "hyena": (("filter_width", 44),),
    "chordmixer": (("hidden", 96),),
    "hgrn": (("expand", 0.47),),
}
"""Mixer options: blocks and windows for 128 to 512 positions, sizes, and what keeps S5 stable at a high rate."""

_SIZES: dict[str, dict[str, Any]] = {
    "longformer": {"mlp": 32}, "reformer": {"mlp": 160}, "sinkhorn": {"mlp": 88}, "fnet": {"mlp": 256},
    "random_mixing": {"mlp": 256}, "ff_only": {"mlp": 256}, "linformer": {"mlp": 88}, "luna": {"mlp": 88},
    "mega": {"mlp": 56}, "mega_chunk": {"mlp": 64}, "short_conv": {"layers": 8},
    "retnet": {"qkv": 40}, "gla": {"qkv": 48}, "lion_d": {"qkv": 48}, "lion_s": {"qkv": 48}, "mamba2": {"layers": 2},
    "deltanet": {"qkv": 48}, "gated_deltanet": {"qkv": 48}, "s4d": {"layers": 4}, "mamba": {"layers": 2},
    "hyena": {"layers": 2},
}  # fmt: skip
"""Fields of the encoder by which a model comes close to the Transformer's size."""
_MLP_BY_TASK: dict[tuple[str, str], int] = {
    ("synthesizer", "listops_mini"): 160,
    ("synthesizer", "text_mini"): 64,
    ("linear_mixing", "listops_mini"): 96,
}
_TAPS_BY_TASK: dict[tuple[str, str], int] = {("sgconv", "listops_mini"): 24, ("sgconv", "retrieval_mini"): 24}
"""Sizes of mixers whose parameters grow with the length."""
MIRRORED = ("lion_d", "lion_s")
"""Mixers that see distances alone, and so without positions could not tell a text from its reverse."""
OVERSIZED = ("linear_mixing", "long_conv")
"""Models that are larger than the Transformer: their matrices and kernels are as long as the input, and no part of them
can be left out. Tables mark them and do not rank them."""


def recipe(task: str, model: str) -> Recipe:
    """The recipe of a task and a model: its family's, or `default`."""
    tuned = _TUNED[_FAMILY_OF.get(model, "default")]
    steps = PAIR_STEPS if task in ORDERED_PAIRS else STEPS[task]
    pictures = task in ("image_mini", "pathfinder_mini")
    encoder = Encoder(
        dim=64, heads=4, layers=2, qkv=64, mlp=128, pool="mean", positions="learned", dropout=0.0,
        attention_dropout=0.0, input="linear" if pictures else "embedding", norm="batch", head="linear",
    )  # fmt: skip
    if tuned.frame == "state_space":
        encoder = dataclasses.replace(encoder, layers=3, block="glu")
        if model not in MIRRORED:
            encoder = dataclasses.replace(encoder, positions="none")
    encoder = dataclasses.replace(encoder, **_SIZES.get(model, {}))
    mlp = _MLP_BY_TASK.get((model, task), encoder.mlp)
    taps = _TAPS_BY_TASK.get((model, task))
    return Recipe(
        dataclasses.replace(encoder, mlp=mlp),
        Optimizer(tuned.learning_rate, weight_decay=0.01, eps=1e-8, clip=1.0),
        Schedule("cosine", warmup=steps // 10),
        Train(steps, batch=32, eval_every=steps // 5, precision="float32"),
        mixer=(("taps", taps),) if taps else _MIXERS.get(model, ()),
    )


MINI = Protocol(
    "mini",
    "the mini arena: five small tasks, minutes a cell on two cores, each family of models tuned alike",
    tuple(STEPS),
    recipe,
    variants=tuple(ORDERED_PAIRS),
    lengths={task: (length,) for task, length in ORDERED_PAIRS.items()},
)
