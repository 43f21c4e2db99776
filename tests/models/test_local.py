"""Block-local attention against dense attention with the pattern written out."""

import pytest

from tests.helpers.mixing import (
    assert_equals,
    build,
    dense,
    full_attention,
    inputs,
    padding_changes,
    pairs,
    parameter_count,
)


def reference(block):
    def run(mixer, x, mask):
        pattern = pairs(x.shape[1], lambda i, j: i // block == j // block)
        return mixer.join(dense(*mixer.project(x), pattern & mask[:, None, None, :]))

    return run


@pytest.mark.parametrize(("lengths", "block", "rounded"), [((35, 14), 8, 4e-2), ((24, 21), 1, None)])
def test_equals_the_pattern(lengths, block, rounded):
    mixer, (x, mask) = build("local", lengths[0], 16, block=block), inputs(lengths[0], 16, lengths)
    assert_equals(mixer, reference(block), x, mask, rounded=rounded, rounded_gradients=rounded, at_padding=True)


def test_one_block_is_full_attention():
    x, mask = inputs(21, 16, (21, 17))
    assert_equals(build("local", 21, 16, block=50), full_attention, x, mask, rounded=None, at_padding=True)


def test_padding_changes_nothing():
    assert padding_changes("local", 53, (29, 12), rebuilt=True, pool="mean", layers=2, block=8) < 1e-5


def test_parameters_and_options():
    assert parameter_count("local") == 3_487_490
    with pytest.raises(ValueError, match="block"):
        build("local", block=0)
