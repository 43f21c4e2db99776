"""Sparse Transformer's fixed pattern against dense attention with the pattern written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.mixers import QUICK, agree, build, dense, inputs, padding_changes, pairs, parameter_count, run


def reference(block, c, heads):
    def attends(head):
        run = head % (block // c)
        first = block - (run + 1) * c
        return lambda i, j: i // block == j // block or first <= j % block < first + c

    def run(mixer, x, mask):
        pattern = np.stack([pairs(x.shape[1], attends(head)) for head in range(heads)])
        return mixer.join(dense(*mixer.project(x), pattern & mask[:, None, None, :]))

    return run


@pytest.mark.parametrize(("length", "block", "c", "heads", "padded"), [(35, 8, 3, 4, 20), (29, 5, 5, 2, 3)])
def test_equals_the_pattern(length, block, c, heads, padded):
    mixer = build("sparse", 16, length, heads=heads, block=block, c=c)
    agree(mixer, reference(block, c, heads), *inputs(length, 16, padded=padded))


def test_equals_the_pattern_in_bfloat16():
    mixer = build("sparse", 16, 35, heads=2, block=8, c=2)
    agree(mixer, reference(8, 2, 2), *inputs(35, 16), dtype=jnp.bfloat16, tolerance=4e-2)


def test_default_block_is_the_root():
    mixer = build("sparse", 16, 101, heads=2)
    assert (mixer.block, mixer.c) == (11, 8)
    assert (build("sparse", 16, 16).block, build("sparse", 16, 16).c) == (4, 4)
    agree(mixer, reference(11, 8, 2), *inputs(101, 16, padded=30))


def test_one_block_is_full_attention():
    agree(build("sparse", 16, 21, heads=2, block=50, c=4), reference(21, 21, 2), *inputs(21, 16, padded=4))


def test_dropout_trains():
    """Both softmaxes drop, and the mean over many masks is the output without dropout."""
    mixer = build("sparse", 8, 20, heads=1, block=5, c=2, dropout=0.3)
    x, mask = inputs(20, 8, padded=4)
    keys = jax.random.split(jax.random.key(5), 400)
    drop = jax.vmap(lambda key: mixer(x, mask, nnx.Rngs(dropout=key)))
    outs = np.asarray(jax.jit(drop, compiler_options=QUICK)(keys))
    spread = outs.std(0) / np.sqrt(400)
    assert (spread > 0).any()
    assert (np.abs(outs.mean(0) - run(mixer, x, mask)) <= 6 * spread + 1e-6).all()


def test_padding_changes_nothing():
    assert padding_changes("sparse", 29, 53, block=8, c=2) < 1e-5


def test_parameters_and_options():
    assert parameter_count("sparse") == 3_487_490
    for wrong in ({"block": -1}, {"c": 0}, {"c": 9, "block": 8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("sparse", 16, 8, **wrong)
