"""The FLOPs of a step are those of both passes, of all seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lra.train.data import SplitArrays
from lra.train.step import Program
from tests.helpers.training import with_train

BATCH, WIDTH = 1024, 64


class TwoProducts(nnx.Module):
    """Two square linear maps of the first token."""

    def __init__(self) -> None:
        self.maps = nnx.List([nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=nnx.Rngs(i)) for i in range(2)])

    def __call__(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = jnp.broadcast_to(tokens[:, 0, :1].astype(jnp.float32), (tokens.shape[0], WIDTH))
        return self.maps[1](self.maps[0](x))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_step_has_two_products_forwards_and_three_backwards(seeds):
    """Both maps forwards, the gradients of both weights, and that of what is between them."""
    program = Program([TwoProducts() for _ in seeds], with_train(batch=BATCH), BATCH, 1, seeds, jax.devices()[:1])
    shapes = (BATCH, 3), (BATCH,), (BATCH, 1), (BATCH,)
    kinds = np.uint8, np.int32, np.int32, np.int32
    source = SplitArrays(*(jnp.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)))
    assert program.flops(source) == pytest.approx(len(seeds) * 5 * 2 * BATCH * WIDTH**2, rel=0.05)
