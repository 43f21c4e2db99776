"""Longformer against dense attention with window and global tokens written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.core.layers import split_heads
from tests.helpers.mixers import agree, build, dense, inputs, padding_changes, pairs, parameter_count, run


def reference(window, tokens):
    def run(mixer, x, mask):
        pattern = pairs(x.shape[1], lambda i, j: abs(i - j) <= window // 2 or j < tokens)
        o = dense(*mixer.project(x), pattern & mask[:, None, None, :])
        if tokens:
            layers = (mixer.global_query, mixer.global_key, mixer.global_value)
            wide = dense(*(split_heads(layer(x), mixer.heads) for layer in layers), mask[:, None, None, :])
            o = jnp.where((jnp.arange(x.shape[1]) < tokens)[:, None, None], wide, o)
        return mixer.join(o)

    return run


@pytest.mark.parametrize(
    ("length", "window", "tokens", "padded"),
    [(75, 10, 1, 41), (133, 70, 0, 9), (17, 2, 17, 5)],
)
def test_equals_the_pattern(length, window, tokens, padded):
    mixer = build("longformer", 16, length, heads=2, window=window, tokens=tokens)
    agree(mixer, reference(window, tokens), *inputs(length, 16, padded=padded))


def test_equals_the_pattern_in_bfloat16():
    mixer = build("longformer", 16, 75, heads=2, window=20)
    agree(mixer, reference(20, 1), *inputs(75, 16), dtype=jnp.bfloat16, tolerance=4e-2)


def test_wide_window_is_full_attention():
    def full(mixer, x, mask):
        return mixer.join(dense(*mixer.project(x), mask[:, None, None, :]))

    agree(build("longformer", 16, 37, heads=2, window=74, tokens=0), full, *inputs(37, 16, padded=4))


def test_padding_changes_nothing():
    assert padding_changes("longformer", 29, 53, window=8) < 1e-5


def test_parameters_and_options():
    assert parameter_count("longformer") == 4_273_922
    for wrong in ({"window": 7}, {"window": 0}, {"tokens": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("longformer", 16, 8, **wrong)
    assert np.isfinite(run(build("longformer", 16, 1), *inputs(1, 16))).all()
