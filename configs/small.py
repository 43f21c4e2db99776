"""The 2-layer, 64-wide protocol of Nyströmformer (Xiong et al. 2021), Skyformer and their successors.

Command: python run.py run --protocol=small --tasks=all --models=all --seeds=0,1,2

Values are those of LRA/code/lra_config.py in mlpen/Nystromformer: mean pooling, learned positions, Adam 1e-4 with
linear warm-up and decay, no weight decay; 256 features for Performer, rank 256 for Linformer, 2 hashes for Reformer,
128 landmarks and a convolution over 35 positions for Nyströmformer. Adam's betas and epsilon are PyTorch's, and so are
the distributions that parameters start from.

Performer is softmax FAVOR+ whose features are never redrawn. The config says `kernel_type: relu`, but the code
(LRA/code/attention_performer.py) hands it to lucidrains/performer-pytorch's FastAttention as `kernel_fn` without
`generalized_attention=True`, and there `kernel_fn` is read with it only; redrawing is done by that library's model
class, which is not used. (It also divides queries and keys by K^(1/4) before FastAttention does so again, so its logits
are q·k / K; here they are q·k / √K.)

What differs from that code: its projections of queries, keys, values and outputs have biases; mean pooling divides by
the padded length; GELU is exact; a pair's head has one hidden layer; and Linformer has one projection per head, shared
by all layers. State-space models, which that code lacks, take their default sizes: 64 states beside width 64.
"""

from __future__ import annotations

from typing import Any

from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

_BUDGETS = {
    "listops": (5_000, 32, 50, 1_000),
    "text": (20_000, 32, 500, 8_000),
    "retrieval": (30_000, 32, 300, 800),
    "image": (35_000, 256, 175, 175),
    "pathfinder": (62_400, 256, 312, 312),
}
"""By task: steps, batch, steps between validations, warm-up steps."""

_MIXERS: dict[str, tuple[tuple[str, Any], ...]] = {
    "linformer": (("rank", 256),),
    "performer": (("features", 256), ("redraw", 0)),
    "reformer": (("hashes", 2),),
    "nystromformer": (("kernel", 35), ("landmarks", 128)),
}


def recipe(task: str, model: str) -> Recipe:
    """The small recipe of a task."""
    steps, batch, eval_every, warmup = _BUDGETS[task.partition("_")[0]]
    return Recipe(
        Encoder(
            dim=64, heads=2, layers=2, qkv=64, mlp=128, pool="mean", positions="learned", pair_head="nli", init="torch"
        ),
        Optimizer(1e-4, b2=0.999, eps=1e-8),
        Schedule("linear", warmup),
        Train(steps, batch, eval_every),
        mixer=_MIXERS.get(model, ()),
    )


SMALL = Protocol(
    "small",
    "2 layers, width 64, as in Nyströmformer and its successors",
    tuple(_BUDGETS),
    recipe,
    variants=("pathfinder_easy", "pathfinder_intermediate"),
)
