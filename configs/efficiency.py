"""Protocols for `bench`: a quick look at speed and memory, and the efficiency tables of two papers.

- `efficiency_quick`: 2 layers, width 64, 256 to 2,048 bytes of text, batch 2; under 5 minutes on a laptop's 2 cores.
- `efficiency`: table 2 of the Long Range Arena paper (arXiv:2011.04006): byte-level text at 1K to 4K, batch 32, with
  the Text recipe. It has the table's models and both Transformers: the paper's materialises all L×L weights.
- `fnet`: FNet's comparison (arXiv:2105.03824, section 4): the Text recipe at 512 to 16,384 tokens, batch 32. As in the
  paper, a length counts the CLS token, here and in `fnet_bert`: Fourier transforms are of 4,096 positions, not 4,097.
- `fnet_bert`: FNet's comparison with BERT: an encoder of BERT-base size at 512 tokens, batch 64, both passes.
  It embeds bytes and ends in a classifier, so the cost of BERT's vocabulary is not included.

Command: python run.py bench --protocol=efficiency --models=all --device=gpu
"""

from __future__ import annotations

from configs import lra
from configs.recipe import Encoder, Optimizer, Protocol, Recipe, Schedule, Train


def _quick(task: str, model: str) -> Recipe:
    return Recipe(
        Encoder(dim=64, heads=2, layers=2, qkv=64, mlp=128),
        Optimizer(1e-3, eps=1e-8),
        Schedule("constant", 0),
        Train(1_000, batch=2, eval_every=100),
    )


def _lra(task: str, model: str) -> Recipe:
    return lra.recipe(task, model)


def _bert(task: str, model: str) -> Recipe:
    return Recipe(
        Encoder(dim=768, heads=12, layers=12, qkv=768, mlp=3072),
        Optimizer(1e-4, weight_decay=0.01, eps=1e-6),
        Schedule("linear", 0),
        Train(1_000, batch=64, eval_every=100),
    )


EFFICIENCY_QUICK = Protocol(
    "efficiency_quick", "bench: minutes on a laptop, 256 to 2,048 bytes of text, batch 2", ("text",), _quick,
    default_models=("transformer", "transformer_naive", "fnet", "linear_transformer", "performer"),
    lengths={"text": (256, 512, 1_024, 2_048)},
)  # fmt: skip
EFFICIENCY = Protocol(
    "efficiency", "bench: the LRA paper's speed table, text at 1K to 4K, batch 32", ("text",), _lra,
    default_models=(
        "transformer", "transformer_naive", "local", "linformer", "reformer", "sinkhorn", "synthesizer", "bigbird",
        "linear_transformer", "performer",
    ),
    lengths={"text": (1_000, 2_000, 3_000, 4_000)},
)  # fmt: skip
FNET = Protocol(
    "fnet", "bench: FNet's speed table, text at 512 to 16,384, batch 32", ("text",), _lra,
    default_models=("transformer", "transformer_naive", "fnet", "fnet_hybrid", "performer"),
    lengths={"text": (512, 1_024, 2_048, 4_096, 8_192, 16_384)}, counts_cls=True,
)  # fmt: skip
FNET_BERT = Protocol(
    "fnet_bert", "bench: an encoder of BERT-base size at 512 tokens, batch 64", ("text",), _bert,
    default_models=("transformer", "transformer_naive", "fnet", "fnet_hybrid"),
    lengths={"text": (512,)}, counts_cls=True,
)  # fmt: skip
