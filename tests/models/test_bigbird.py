"""BigBird against dense attention with its blocks written out, and the draw of the random blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.bigbird import random_blocks
from tests.helpers.mixers import QUICK, agree, build, dense, inputs, padding_changes, parameter_count


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


def reference(block):
    def run(mixer, x, mask):
        draws, real = np.asarray(mixer.draws[...]), [x.shape[1] - PADDED * b for b in range(x.shape[0])]
        pattern = np.stack([seen(draws, block, x.shape[1], n) for n in real])
        allowed = pattern & mask[:, None, None, :]
        return mixer.join(dense(*mixer.project(x), allowed))

    return run


PADDED = 17


@pytest.mark.parametrize(("length", "block", "heads"), [(75, 6, 2), (41, 5, 1)])
def test_equals_the_pattern(length, block, heads):
    mixer = build("bigbird", 16, length, heads=heads, block=block)
    agree(mixer, reference(block), *inputs(length, 16, padded=PADDED), padded_too=False)


def test_equals_the_pattern_in_bfloat16():
    mixer = build("bigbird", 16, 75, heads=2, block=6)
    x, mask = inputs(75, 16, padded=PADDED)
    agree(mixer, reference(6), x, mask, dtype=jnp.bfloat16, tolerance=4e-2, padded_too=False)


@pytest.mark.parametrize(("length", "block", "random"), [(40, 8, 3), (7, 64, 0)])
def test_with_all_blocks_it_is_full_attention(length, block, random):
    def full(mixer, x, mask):
        return mixer.join(dense(*mixer.project(x), mask[:, None, None, :]))

    agree(build("bigbird", 16, length, heads=2, block=block, random=random), full, *inputs(length, 16))


def test_random_blocks_are_distinct_and_uniform():
    draws = jnp.asarray(np.random.default_rng(0).random((3000, 12, 3), np.float32))
    found = np.asarray(jax.jit(random_blocks, compiler_options=QUICK)(draws, jnp.array([11])))[0]
    for i in (0, 5, 10):
        allowed = set(range(1, 11)) - {i - 1, i, i + 1}
        counts = np.bincount(found[:, i].ravel(), minlength=12)
        assert set(np.flatnonzero(counts)) == allowed
        assert all(len(set(row)) == 3 for row in found[:, i].tolist())
        each = 3000 * 3 / len(allowed)
        assert np.abs(counts[sorted(allowed)] - each).max() < 5 * np.sqrt(each)


def test_padding_changes_nothing():
    assert padding_changes("bigbird", 29, 53, block=3) < 1e-5


def test_parameters_and_options():
    assert parameter_count("bigbird") == 3_487_490
    for wrong in ({"block": 0}, {"random": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("bigbird", 16, 8, **wrong)
