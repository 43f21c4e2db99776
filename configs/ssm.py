"""Models that were published with recipes of their own: each with its family's widths, depths and schedules.

Command: python run.py run --protocol=ssm --tasks=listops,image --models=s4d,s5,lru --seeds=0,1,2

Rows of this protocol are always *free for all*: they compare tuned systems. Compare mixers alone with `--protocol=lra`
or `--protocol=small`, whose encoder all models share. `configs/families` has a module for each family, with its source
and what differs from it. Another model (short_conv, transformer, a mixer of yours) takes S4D's frame here: its width,
depth, norms, gate and schedule, with the mixer's own defaults.

What holds for all of them:

Steps. Where a source states steps, these are taken. Where it states epochs, one has ⌊examples / batch⌋ steps, as its
loader drops the last batch if that is smaller, and the examples are those of our training split. That changes Text
alone: we hold a tenth of its 25,000 reviews out for validation, where S4 and S5 select on the test split. One epoch
lies between validations. S4D and LRU warm up for a tenth of the steps, S5 for its epochs.

Norms. `norm_momentum` is the share of the old statistics in batch norm: 0.9 is PyTorch's momentum of 0.1. The sources'
statistics count padding, ours do not.

Inputs. No positions, but where a family says so. Pixels and, in S5 and LRU, tokens as one-hot rows enter by a linear
map; the others embed tokens. Pixels are (v − 122.6/255) / (61/255) in Image; in Pathfinder and Path-X (v − ½) / ½.
S4 and S5 read Text as 4,096 characters of a vocabulary of 135, Retrieval as characters too, and ListOps padded to
2,048; here they are the benchmark's 4,000 bytes and 2,000 symbols, in all families.
"""

from __future__ import annotations

from collections.abc import Callable

from configs.families import hgrn, lru, mega, s4d, s5, sgconv
from configs.families.frame import EXAMPLES
from configs.lra import VARIANTS
from configs.recipe import Protocol, Recipe

FAMILIES: dict[str, Callable[[str], Recipe]] = {
    "s4d": s4d.recipe,
    "s5": s5.recipe,
    "lru": lru.recipe,
    "sgconv": sgconv.recipe,
    "mega": mega.recipe,
    "mega_chunk": mega.recipe_of_chunk,
    "hgrn": hgrn.recipe,
}
"""By model, its published recipe of a task."""


def recipe(task: str, model: str) -> Recipe:
    """The published recipe of a model; any other model takes S4D's frame."""
    task = VARIANTS.get(task, task)
    return FAMILIES[model](task) if model in FAMILIES else s4d.frame_of_s4d(task, {})


SSM = Protocol(
    "ssm",
    "state-space models, long convolutions, MEGA and HGRN, each with its family's published recipe",
    tuple(EXAMPLES),
    recipe,
    default_tasks=("listops",),
    default_models=tuple(FAMILIES),
    variants=tuple(VARIANTS),
    own_recipes=True,
    remarks={
        "s4d": "recipe of its authors' last configs, later than the paper's",
        "lru": "recipe unverified: put together from reproductions, as its authors published no code",
        "sgconv": "recipe of its authors' preview branch, but for Pathfinder's pooling: theirs takes the last position",
        "hgrn": "recipe unverified: its authors published commands, and not the code; theirs sees pictures in 2-D",
    },
)
