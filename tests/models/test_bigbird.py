"""BigBird against dense attention with its blocks written out, and the draw of the random blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.attention.bigbird import random_blocks
from tests.helpers.mixing import (
    assert_equals,
    build,
    dense,
    full_attention,
    inputs,
    jit,
    padding_changes,
    parameter_count,
)


def seen(draws, block, length, real):
    """bool [H, L, L] for one example with `real` tokens: from the random draws and lists of blocks."""
    heads, blocks, _ = draws.shape
    last = max(0, -(-real // block) - 1)
    out = np.zeros((heads, length, length), bool)
    for head in range(heads):
        for i in range(blocks):
            chosen = {0, last} | {b for b in (i - 1, i, i + 1) if 0 <= b <= last}
            for draw in draws[head, i]:
                left = [b for b in range(last + 1) if b not in chosen]
                if left:
                    chosen.add(left[int(np.float32(draw) * np.float32(len(left)))])
            if i in (0, last):
                chosen = set(range(blocks))
            for b in chosen:
                out[head, i * block : (i + 1) * block, b * block : (b + 1) * block] = True
    return out


def reference(block, lengths):
    def attend(mixer, x, mask):
        pattern = np.stack([seen(np.asarray(mixer.draws[...]), block, x.shape[1], length) for length in lengths])
        return mixer.join(dense(*mixer.project(x), pattern & mask[:, None, None, :]))

    return attend


@pytest.mark.parametrize(("lengths", "block", "heads", "rounded"), [((75, 58), 6, 2, 4e-2), ((41, 24), 5, 1, None)])
def test_equals_the_pattern(lengths, block, heads, rounded):
    mixer, (x, mask) = build("bigbird", lengths[0], 16, heads, block=block), inputs(lengths[0], 16, lengths)
    assert_equals(mixer, reference(block, lengths), x, mask, rounded=rounded, rounded_gradients=rounded)


@pytest.mark.parametrize(("length", "block", "random"), [(40, 8, 3), (7, 64, 0)])
def test_with_all_blocks_it_is_full_attention(length, block, random):
    mixer = build("bigbird", length, 16, block=block, random=random)
    assert_equals(mixer, full_attention, *inputs(length, 16, (length, length)), rounded=None, at_padding=True)


def test_random_blocks_are_distinct_and_uniform():
    draws = jnp.asarray(np.random.default_rng(0).random((3000, 12, 3), np.float32))
    picked = np.asarray(jit(random_blocks)(draws, jnp.array([11])))[0]
    for i in (0, 5, 10):
        allowed = set(range(1, 11)) - {i - 1, i, i + 1}
        counts = np.bincount(picked[:, i].ravel(), minlength=12)
        assert set(np.flatnonzero(counts)) == allowed
        assert all(len(set(row)) == 3 for row in picked[:, i].tolist())
        each = 3000 * 3 / len(allowed)
        assert np.abs(counts[sorted(allowed)] - each).max() < 5 * np.sqrt(each)


def test_padding_changes_nothing():
    assert padding_changes("bigbird", 53, (29, 12), rebuilt=True, pool="mean", layers=2, block=3) < 1e-5


def test_parameters_and_options():
    assert parameter_count("bigbird") == 3_487_490
    for wrong in ({"block": 0}, {"random": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("bigbird", **wrong)
