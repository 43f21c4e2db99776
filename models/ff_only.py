"""No mixing at all: what the feed-forward layers and the pooling can do by themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class FeedForwardOnly(nnx.Module):
    """The FF-only encoder of FNet's ablations. Lee-Thorp et al. 2021, arXiv:2105.03824, section 4.

        out = 0,    so that a block is x + mlp(norm(x))

    No parameters; time and memory L in the feed-forward layers only. Positions meet in the pooling alone:
    with MEAN pooling this is a bag of (token, position) pairs; with CLS pooling the classifier sees the CLS
    token only, which no other token reaches, so every input gets the same logits and the score is chance.
    Padding changes no logit. In the paper's post-norm block leaving the sublayer out and feeding x through it
    are the same; in a pre-norm block only a zero leaves it out.
    """

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        pass

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return jnp.zeros_like(x)
