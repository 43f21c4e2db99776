"""`python run.py`: minutes on a laptop's CPU. Real training on short ListOps expressions; no paper's protocol.

Command: python run.py run --protocol=quick
"""

from lra.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train


def recipe(task: str, model: str) -> Recipe:
    """One small recipe for every task and model."""
    return Recipe(
        Encoder(dim=64, heads=4, layers=2, qkv=64, mlp=128, pool="cls", positions="learned", dropout=0.0,
                attention_dropout=0.0),
        Optimizer(learning_rate=1e-3, weight_decay=0.01, eps=1e-8),
        Schedule("cosine", warmup=200),
        Train(steps=2_000, batch=32, eval_every=250),
    )  # fmt: skip


QUICK = Protocol("quick", "minutes on a laptop: short ListOps, 2 layers, width 64", ("listops_short",), recipe)
