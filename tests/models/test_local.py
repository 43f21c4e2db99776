"""Block-local attention against dense attention with the pattern written out."""

import jax.numpy as jnp
import pytest

from tests.helpers.mixers import agree, build, dense, inputs, padding_changes, pairs, parameter_count


def reference(block):
    def run(mixer, x, mask):
        pattern = pairs(x.shape[1], lambda i, j: i // block == j // block)
        return mixer.join(dense(*mixer.project(x), pattern & mask[:, None, None, :]))

    return run


@pytest.mark.parametrize(("length", "block", "padded"), [(35, 8, 21), (24, 1, 3)])
def test_equals_the_pattern(length, block, padded):
    agree(build("local", 16, length, heads=2, block=block), reference(block), *inputs(length, 16, padded=padded))


def test_equals_the_pattern_in_bfloat16():
    mixer = build("local", 16, 35, heads=2, block=8)
    agree(mixer, reference(8), *inputs(35, 16), dtype=jnp.bfloat16, tolerance=4e-2)


def test_one_block_is_full_attention():
    agree(build("local", 16, 21, heads=2, block=50), reference(21), *inputs(21, 16, padded=4))


def test_padding_changes_nothing():
    assert padding_changes("local", 29, 53, block=8) < 1e-5


def test_parameters_and_options():
    assert parameter_count("local") == 3_487_490
    with pytest.raises(ValueError, match="block"):
        build("local", 16, 8, block=0)
