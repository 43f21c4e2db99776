"""What the published recipes of state-space models and their kin have in common."""

from __future__ import annotations

from typing import Any

from configs.recipe import Encoder, Optimizer

EXAMPLES = {
    "listops": 96_000, "text": 22_500, "retrieval": 147_086, "image": 45_000, "pathfinder": 160_000, "pathx": 160_000,
}  # fmt: skip
"""Examples of our training splits, by task."""

PICTURES = ("image", "pathfinder", "pathx")
GREY = (122.6 / 255, 61 / 255)
"""Mean and standard deviation of Image's pixels in S4's and S5's loaders."""
HALF = (0.5, 0.5)


def encoder(task: str, dim: int, layers: int, dropout: float, pixels: tuple[float, float], **family: Any) -> Encoder:
    """S4's frame; `heads`, `qkv` and attention's dropout are for other models; `mlp` counts in a feed-forward only.

    Args:
        task: only pictures have pixels.
        dim, layers, dropout: as in `Encoder`.
        pixels: mean and standard deviation.
        family: fields of the family that differ from `Encoder`'s defaults.
    """
    mean, std = pixels if task in PICTURES else HALF
    fields: dict[str, Any] = {
        "dim": dim, "layers": layers, "heads": 8, "qkv": dim, "mlp": dim,
        "dropout": dropout, "attention_dropout": dropout, "tied_dropout": True,
        "input": "linear", "input_mean": mean, "input_std": std, "positions": "none", "norm": "batch",
        "pool": "mean", "head": "linear",
    }  # fmt: skip
    return Encoder(**fields | family)


def optimizer(rate: float, decay: float, slow: str, factor: float, undecayed: str) -> Optimizer:
    """AdamW as in PyTorch and Optax, with roles that learn more slowly by `factor`, and roles that do not decay."""
    return Optimizer(rate, weight_decay=decay, b2=0.999, eps=1e-8, slow=slow, slow_factor=factor, undecayed=undecayed)
