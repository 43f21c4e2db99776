"""Speed and memory, for `bench`: the two tables of the papers.

`efficiency` is table 2 of the Long Range Arena paper (arXiv:2011.04006): byte-level text at 1K to 4K, batch 32, the
Text recipe. `fnet` is FNet's comparison (arXiv:2105.03824, section 4): an encoder of BERT-base size, 512 to 16,384
tokens, a batch of 1 at every length.

Command: python run.py bench --protocol=efficiency --models=all --device=gpu
"""

from __future__ import annotations

from configs import lra
from lra.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train


def _lra(task: str, model: str) -> Recipe:
    return lra.recipe(task, model)


def _fnet(task: str, model: str) -> Recipe:
    return Recipe(
        Encoder(dim=768, heads=12, layers=12, qkv=768, mlp=3072),
        Optimizer(1e-4, weight_decay=0.01, eps=1e-6),
        Schedule("linear", 0),
        Train(1_000, batch=1, eval_every=100),
    )


EFFICIENCY = Protocol(
    "efficiency", "bench: the LRA paper's speed table, text at 1K to 4K, batch 32", ("text",), _lra,
    lengths={"text": (1_000, 2_000, 3_000, 4_000)},
)  # fmt: skip
FNET = Protocol(
    "fnet", "bench: BERT-base size, 512 to 16,384 tokens", ("text",), _fnet,
    lengths={"text": (512, 1_024, 2_048, 4_096, 8_192, 16_384)},
)  # fmt: skip
