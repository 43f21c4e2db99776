"""No mixing at all: the baseline of feed-forward layers and pooling alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class FeedForwardOnly(nnx.Module):
    """The FF-only encoder of FNet's ablations. Lee-Thorp et al. 2021, arXiv:2105.03824, section 4.

        out = 0,    so that a block is x + mlp(norm(x))

    No parameters; time and memory L, in the feed-forward layers only. Positions meet only in the pooling:
    with MEAN pooling this is a bag of (token, position) pairs; with CLS pooling the classifier sees the CLS
    token only, which no other token reaches, so every input gets the same logits and the score is chance.
    Padding changes no logit. In the paper's post-norm block, omitting the sublayer and passing x through it are
    equivalent; in a pre-norm block only a zero omits it.
    """

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        pass

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return jnp.zeros_like(x)
