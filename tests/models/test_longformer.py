"""Longformer against dense attention with window and global tokens written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.core.layers import split_heads
from tests.helpers.mixing import (
    assert_equals,
    build,
    dense,
    full_attention,
    inputs,
    padding_changes,
    pairs,
    parameter_count,
    run,
)


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
    ("lengths", "window", "tokens", "rounded"),
    [((75, 34), 10, 1, 4e-2), ((133, 124), 70, 0, None), ((17, 12), 2, 17, None)],
)
def test_equals_the_pattern(lengths, window, tokens, rounded):
    mixer = build("longformer", lengths[0], 16, window=window, tokens=tokens)
    x, mask = inputs(lengths[0], 16, lengths)
    assert_equals(
        mixer, reference(window, tokens), x, mask, rounded=rounded, rounded_gradients=rounded, at_padding=True
    )


def test_wide_window_is_full_attention():
    mixer, (x, mask) = build("longformer", 37, 16, window=74, tokens=0), inputs(37, 16, (37, 33))
    assert_equals(mixer, full_attention, x, mask, rounded=None, at_padding=True)


def test_padding_changes_nothing():
    assert padding_changes("longformer", 53, (29, 12), rebuilt=True, pool="mean", layers=2, window=8) < 1e-5


def test_parameters_and_options():
    assert parameter_count("longformer") == 4_273_922
    for wrong in ({"window": 7}, {"window": 0}, {"tokens": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("longformer", **wrong)
    assert np.isfinite(run(build("longformer", 1), *inputs(1, lengths=(1,)))).all()
