"""ChordMixer: groups of features that are rotated along the document by powers of two."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.layers import at_least, dropout, take_positions


class ChordMixer(nnx.Module):
    """ChordMixer: A Scalable Neural Attention Model for Sequences with Different Lengths.

    Khalitov, Yu, Cheng, Yang 2022, arXiv:2206.05852, section 3. A network with one hidden layer makes new features of
    each position; these are split into M = ⌈log₂ L⌉ + 1 tracks, and each track is rotated by a distance of its own:

        z = W₂ GELU(W₁ x + b₁) + b₂,    y_t[track 0] = z_t,    y_t[track m] = z_{(t + 2^{m−1}) mod n},  m = 1 … M − 1

    where n is the document's own length, up to its last real position. Rotations have no parameters. In ⌈log₂ L⌉ layers
    each position can hear of every other. Time L·D², memory L·D. A masked position gives zeros, as padding does, so
    padding changes no logit. The encoder's dropout applies after GELU; attention dropout does not apply.

    Departs from the paper: this is what its block adds to the residual stream, and the block has nothing else but
    norms; the encoder's blocks add a feed-forward or a gate. Its tracks are equally wide, 8 to 28 features on these
    tasks, and set the model's width; here M tracks share the encoder's width, the first ones having one feature more
    where M does not divide it. It has ⌈log₂ L⌉ layers, here any number. A CLS token takes part as the first position.
    Linear maps start as the recipe asks, theirs as `xavier` with biases of 0.

    Parameters: into [H, hidden] and bias, out [hidden, H] and bias.

    Args:
        dim: H, at least M.
        length: L, the longest input.
        hidden: width of the hidden layer; 0: 2 H, with which the network has as many weights as attention. The
            authors' is 88 to 420 wide, about H.
        residual_dropout: the encoder's.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `hidden` is negative, or there are fewer features than tracks.
    """

    def __init__(self, dim: int, length: int, *, hidden: int = 0, residual_dropout: float = 0.0, rngs: nnx.Rngs):
        at_least(0, hidden=hidden)
        tracks = (length - 1).bit_length() + 1
        if dim < tracks:
            raise ValueError(f"{length} positions need {tracks} tracks: too many for {dim} features")
        self.rate = residual_dropout
        self.ends = tuple(accumulate((dim // tracks + (m < dim % tracks) for m in range(tracks)), initial=0))
        self.into = Linear(dim, hidden or 2 * dim, rngs=rngs)
        self.out = Linear(hidden or 2 * dim, dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        z = dropout(jax.nn.gelu(self.into(x), approximate=False), self.rate, rngs)
        z = jnp.where(mask[..., None], self.out(z), 0)
        length = jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1)[None], 0), axis=1)
        tracks = [z[..., start:end] for start, end in pairwise(self.ends)]
        rotated = [rotate(track, length, 2**m) for m, track in enumerate(tracks[1:])]
        return jnp.concatenate([tracks[0], *rotated], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rotate(x: jax.Array, length: jax.Array, shift: int) -> jax.Array:
    """x[b, (t + shift) mod length[b]] for the first length[b] positions of x [B, L, D]; what follows stays."""
    at = jnp.arange(x.shape[1])[None]
    real = length[:, None]
    order = jnp.where(at < real, (at + shift) % jnp.maximum(real, 1), at)
    return take_positions(x, order)


def _rotate_forward(x: jax.Array, length: jax.Array, shift: int) -> tuple[jax.Array, jax.Array]:
    return rotate(x, length, shift), length


def _rotate_backward(shift: int, length: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
    return rotate(g, length, -shift), None  # as the scatter-add that JAX would derive, which is slow


rotate.defvjp(_rotate_forward, _rotate_backward)
