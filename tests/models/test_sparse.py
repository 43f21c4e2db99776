"""Sparse Transformer's fixed pattern against dense attention with the pattern written out."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.helpers.mixing import assert_equals, build, dense, inputs, jit, padding_changes, pairs, parameter_count, run


def reference(block, c, heads):
    def attends(head):
        run = head % (block // c)
        first = block - (run + 1) * c
        return lambda i, j: i // block == j // block or first <= j % block < first + c

    def run(mixer, x, mask):
        pattern = np.stack([pairs(x.shape[1], attends(head)) for head in range(heads)])
        return mixer.join(dense(*mixer.project(x), pattern & mask[:, None, None, :]))

    return run


@pytest.mark.parametrize(
    ("lengths", "block", "c", "heads", "rounded"),
    [((35, 15), 8, 3, 4, None), ((35, 35), 8, 2, 2, 4e-2), ((29, 26), 5, 5, 2, None)],
)
def test_equals_the_pattern(lengths, block, c, heads, rounded):
    length = lengths[0]
    mixer, (x, mask) = build("sparse", length, 16, heads, block=block, c=c), inputs(length, 16, lengths)
    pattern = reference(block, c, heads)
    assert_equals(mixer, pattern, x, mask, rounded=rounded, rounded_gradients=rounded, at_padding=True)


def test_default_block_is_the_root():
    mixer = build("sparse", 101, 16)
    assert (mixer.block, mixer.c) == (11, 8)
    assert (build("sparse", 16).block, build("sparse", 16).c) == (4, 4)
    assert_equals(mixer, reference(11, 8, 2), *inputs(101, 16, (101, 71)), rounded=None, at_padding=True)


def test_one_block_is_full_attention():
    mixer, (x, mask) = build("sparse", 21, 16, block=50, c=4), inputs(21, 16, (21, 17))
    assert_equals(mixer, reference(21, 21, 2), x, mask, rounded=None, at_padding=True)


def test_dropout_trains():
    """Both softmaxes drop, and the mean over many masks is the output without dropout."""
    mixer = build("sparse", 20, heads=1, block=5, c=2, dropout=0.3)
    x, mask = inputs(20, lengths=(20, 16))
    keys = jax.random.split(jax.random.key(5), 400)
    drop = jax.vmap(lambda key: mixer(x, mask, nnx.Rngs(dropout=key)))
    outs = np.asarray(jit(drop)(keys))
    spread = outs.std(0) / np.sqrt(400)
    assert (spread > 0).any()
    assert (np.abs(outs.mean(0) - run(mixer, x, mask)) <= 6 * spread + 1e-6).all()


def test_padding_changes_nothing():
    assert padding_changes("sparse", 53, (29, 12), rebuilt=True, pool="mean", layers=2, block=8, c=2) < 1e-5


def test_parameters_and_options():
    assert parameter_count("sparse") == 3_487_490
    for wrong in ({"block": -1}, {"c": 0}, {"c": 9, "block": 8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("sparse", **wrong)
