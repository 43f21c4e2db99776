"""Each state-space family's published recipe: S4D, S5 and LRU, with their own widths, depths and schedules.

Command: python run.py run --protocol=ssm --tasks=listops,image --models=s4d,s5,lru --seeds=0,1,2

Rows of this protocol are always *free for all*: they compare tuned systems. Compare mixers alone with `--protocol=lra`
or `--protocol=small`, whose encoder all models share. Another model (short_conv, transformer, a mixer of yours) takes
S4D's frame here: its width, depth, norms, gate and schedule, with the mixer's own defaults.

Sources. S4D: the configs of state-spaces/s4 at e757cef (configs/experiment/lra, with `model/layer=s4d`), its authors'
last. The S4D paper (arXiv:2206.11893) had earlier ones: by that repository's older configs, ListOps with 8 layers of
width 128 and 64 states, Image with layer norm, Pathfinder with decay 0.03 and read at its last position, Path-X with a
rate of 5e-4, and both with a warm-up of one epoch. S4D starts as S4D-Inv, the better of the paper's two that solve
Path-X; the repository's default is S4D-Lin (`--models=s4d:init=lin`). S5: the commands in bin/run_experiments of
lindermanlab/S5 at 3c18fdb. LRU: its authors published no code, and its recipe is *unverified*; see below.

Steps. Where a source states steps, these are taken: S4D, LRU. (S4's Retrieval stops after 20 epochs, at 45,960 of
its schedule's 50,000 steps; here the schedule ends.) Where it states epochs, one has ⌊examples / batch⌋ steps, as
its loader drops the last batch if that is smaller, and the examples are those of our training split. That changes
Text alone: we hold a tenth of its 25,000 reviews out for validation, where S4 and S5 select on the test split. One
epoch lies between validations. S4D and LRU warm up for a tenth of the steps, S5 for its epochs.

Norms. Batch norm everywhere; `norm_momentum` is the share of the old statistics: 0.9 is PyTorch's momentum of 0.1.
S5 and LRU normalise before each mixer and have no final norm; S4D has one exactly where it normalises before.

Inputs. No positions. Pixels and, in S5 and LRU, tokens as one-hot rows enter by a linear map; S4D embeds tokens.
Pixels are (v − 122.6/255) / (61/255) in Image; in Pathfinder and Path-X (v − ½) / ½, but S4's config leaves v.
S4 and S5 read Text as 4,096 characters of a vocabulary of 135, Retrieval as characters too, and ListOps padded to
2,048; here they are the benchmark's 4,000 bytes and 2,000 symbols, in all three families.

Groups of parameters. S4D: A and B take the rate 1e-3; Δ and C do so on pictures, and take the full rate on text. A,
B, Δ, norms and biases do not decay. (S4's code spares the backbone's biases, not those of the first and last map, and
decays the embedding; here all biases are spared, and the embedding decays.) S5: 'standard' has A, B and Δ, without
decay, at the small rate; in 'BandCdecay' B decays; in 'BfastandCdecay' it takes the full rate as well; `dt_global`
(Text, Retrieval) puts Δ among all other parameters, which decay, biases and norms too: the code's list of spared names
has "norm", which matches none (issue #10).

Not reproduced: S5's very first step at the peak rate (its schedule is applied after the step), and its cosine, which
reaches 0 `warmup` epochs before the end, so that the last epochs barely train; here cosine goes from the end of the
warm-up to the last step. Nor S5's padding, which its backward scan reads; S4's batch statistics over padding; selection
on the test split.

LRU (arXiv:2303.06349): H, N, steps, batch, dropout, factor, ring and phase are those of the paper's table as unofficial
reproductions have them, not checked against the paper. Where these differ: ListOps 80,000 steps (or 90,000) and r_max
0.99 (or 0.9); Pathfinder's phase 2π (or π/10). Rates: of reproductions in Image, ListOps, Pathfinder and Path-X;
in Text and Retrieval the default of NicolasZucchet/minimal-LRU. The warm-up of a tenth, the momentum 0.99 (Flax's
default) and both directions in every task are assumptions. The paper's Image is in colour, here it is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from configs.lra import VARIANTS
from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

EXAMPLES = {
    "listops": 96_000, "text": 22_500, "retrieval": 147_086, "image": 45_000, "pathfinder": 160_000, "pathx": 160_000,
}  # fmt: skip
"""Examples of our training splits, by task."""

_PICTURES = ("image", "pathfinder", "pathx")
_GREY = (122.6 / 255, 61 / 255)
"""Mean and standard deviation of Image's pixels in S4's and S5's loaders."""
_HALF = (0.5, 0.5)


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


_TEXT, _PICTURE = "A,B", "A,step,B,C"

S4D = {
    "listops": S4DRow(256, False, 0.0, 0.01, _TEXT, 32, 120_000, {"state": 4}),
    "text": S4DRow(256, True, 0.0, 0.01, _TEXT, 16, 50_000, {"state": 4}),
    "retrieval": S4DRow(256, True, 0.0, 0.01, _TEXT, 64, 50_000, {"state": 4}),
    "image": S4DRow(512, False, 0.1, 0.01, _PICTURE, 50, 180_000, {}),
    "pathfinder": S4DRow(256, True, 0.0, 0.004, _PICTURE, 64, 500_000, {"n_ssm": 0}),
    "pathx": S4DRow(256, True, 0.0, 0.001, _PICTURE, 16, 500_000, {"n_ssm": 0, "step_min": 1e-4}),
}

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


def recipe(task: str, model: str) -> Recipe:
    """The published recipe of a family; any other model takes S4D's frame."""
    task = VARIANTS.get(task, task)
    if model == "s5":
        return _s5(task)
    if model == "lru":
        return _lru(task)
    return _s4d(task, {**S4D[task].mixer, "init": "inv"} if model == "s4d" else {})


def _s4d(task: str, mixer: Mapping[str, Any]) -> Recipe:
    row = S4D[task]
    return Recipe(
        _encoder(
            task, row.dim, 6, row.dropout, _GREY if task == "image" else (0.0, 1.0), block="glu", init="torch",
            prenorm=row.prenorm, final_norm=row.prenorm, norm_momentum=0.9,
            input="linear" if task in _PICTURES else "embedding",
        ),
        _optimizer(row.rate, 0.05, row.slow, 1e-3 / row.rate, "A,step,B,bias,norm"),
        Schedule("cosine", row.steps // 10),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(mixer.items())),
    )  # fmt: skip


def _s5(task: str) -> Recipe:
    row, (slow, undecayed) = S5[task], S5_GROUPS[S5[task].groups]
    epoch = EXAMPLES[task] // row.batch
    return Recipe(
        _encoder(
            task, row.dim, row.layers, row.dropout, _GREY if task == "image" else _HALF, block=row.block,
            final_norm=False, norm_momentum=row.momentum,
        ),
        _optimizer(row.rate, row.decay, slow, row.slow_rate / row.rate, undecayed),
        Schedule("cosine", row.warmup * epoch),
        Train(row.epochs * epoch, row.batch, epoch),
        mixer=tuple(sorted(row.mixer.items())),
    )  # fmt: skip


def _lru(task: str) -> Recipe:
    row = LRU[task]
    return Recipe(
        _encoder(
            task, row.dim, 6, row.dropout, _GREY if task == "image" else _HALF, block="full_glu", final_norm=False,
            norm_momentum=0.99,
        ),
        _optimizer(row.rate, 0.05, "A,B", row.factor, "A,B"),
        Schedule("cosine", row.steps // 10),
        Train(row.steps, row.batch, EXAMPLES[task] // row.batch),
        mixer=tuple(sorted(row.mixer.items())),
    )  # fmt: skip


def _encoder(task: str, dim: int, layers: int, dropout: float, pixels: tuple[float, float], **family: Any) -> Encoder:
    """The encoder; `heads`, `qkv` and attention's dropout are for other models, and `mlp` has no effect.

    Args:
        task: only pictures have pixels.
        dim, layers, dropout: as in `Encoder`.
        pixels: mean and standard deviation.
        family: fields of the family that differ from `Encoder`'s defaults.
    """
    mean, std = pixels if task in _PICTURES else _HALF
    fields: dict[str, Any] = {
        "dim": dim, "layers": layers, "heads": 8, "qkv": dim, "mlp": dim,
        "dropout": dropout, "attention_dropout": dropout, "tied_dropout": True,
        "input": "linear", "input_mean": mean, "input_std": std, "positions": "none", "norm": "batch",
        "pool": "mean", "head": "linear",
    }  # fmt: skip
    return Encoder(**fields | family)


def _optimizer(rate: float, decay: float, slow: str, factor: float, undecayed: str) -> Optimizer:
    return Optimizer(rate, weight_decay=decay, b2=0.999, eps=1e-8, slow=slow, slow_factor=factor, undecayed=undecayed)


SSM = Protocol(
    "ssm",
    "state-space models, each with its family's published recipe",
    tuple(EXAMPLES),
    recipe,
    default_tasks=("listops",),
    default_models=("s4d", "s5", "lru"),
    variants=tuple(VARIANTS),
    own_recipes=True,
    remarks={
        "s4d": "recipe of its authors' last configs, later than the paper's",
        "lru": "recipe unverified: put together from reproductions, as its authors published no code",
    },
)
