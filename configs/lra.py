"""The Long Range Arena's own protocol (Tay et al. 2020), by its released configs, which its maintainers call final.

Command: python run.py run --protocol=lra --tasks=listops --models=all --seeds=0,1,2
"""

from lra.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train

TASKS = {
    "listops": Recipe(
        Encoder(dim=512, heads=8, layers=4, qkv=512, mlp=1024),
        Optimizer(learning_rate=0.05, weight_decay=0.1),
        Schedule("rsqrt", warmup=1_000),
        Train(steps=5_000, batch=32, eval_every=50),
    ),
}


def recipe(task: str, model: str) -> Recipe:
    """The task's recipe, the same for every model."""
    return TASKS[task]


LRA = Protocol("lra", "the paper's protocol, by the released configs", tuple(TASKS), recipe, seeds=(0,))
