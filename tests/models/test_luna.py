import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import PROTOCOLS
from lra.train import worker
from tests.helpers.mixing import (
    DIM,
    LENGTH,
    assert_equals,
    assert_limit,
    build,
    build_encoder,
    error,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    permissively,
    run,
)


def heads(x):
    return x.reshape(*x.shape[:-1], 2, -1).swapaxes(1, 2)


def softmax_attention(query, context, mask):
    scores = heads(query) @ heads(context).swapaxes(-1, -2) / np.sqrt(query.shape[-1] // 2)
    y = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -jnp.inf)) @ heads(context)
    return y.swapaxes(1, 2).reshape(query.shape)


def naive_carry(mixer, x, mask, packed):
    """Pack and unpack attention by their equations; a row of padding alone attends to all of it."""
    mask = mask | ~mask.any(1, keepdims=True)
    w = {name: getattr(mixer, name).kernel[...] for name in ("query", "context", "pack_query", "pack_context")}
    mean, variance = packed.mean(-1, keepdims=True), packed.var(-1, keepdims=True)
    normed = (packed - mean) / jnp.sqrt(variance + 1e-6) * mixer.norm.scale[...] + mixer.norm.bias[...]
    y = softmax_attention(normed @ w["pack_query"], x @ w["pack_context"], mask)
    unpacked = softmax_attention(x @ w["query"], y @ w["context"], jnp.ones(y.shape[:2], bool))
    return unpacked @ mixer.out.kernel[...], packed + y


def naive(mixer, x, mask):
    packed = mixer.packed[...]
    return naive_carry(mixer, x, mask, jnp.broadcast_to(packed, (x.shape[0], *packed.shape)))[0]


def test_equals_its_equation():
    x, mask = inputs()
    assert_equals(build("luna", packed=3), naive, x, mask)


def test_carries_what_the_equation_says():
    x, mask = inputs()
    later, packed = build("luna", layer=1, packed=3), normal(3, 3, DIM, seed=4)
    actual = jit(later.carry)(x, mask, packed)
    expected = jit(permissively(lambda *a: naive_carry(later, *a)))(x, mask, packed)
    assert all(error(a, e) < 1e-5 for a, e in zip(actual, expected, strict=True))
    assert later.packed is None
    with pytest.raises(ValueError, match="of the previous layer"):
        later(x, mask)


def test_one_packed_row_gives_one_value_to_all():
    # With P = 1 the unpacking softmax has one key: every position gets the pack attention's only row.
    x, mask = inputs()
    mixer = build("luna", packed=1)

    def limit(mixer, x, mask):
        query = mixer.pack_query(mixer.norm(jnp.broadcast_to(mixer.packed[...], (x.shape[0], 1, DIM))))
        y = softmax_attention(query, x @ mixer.pack_context.kernel[...], mask)
        row = y @ mixer.context.kernel[...] @ mixer.out.kernel[...]
        return jnp.broadcast_to(row, x.shape)

    assert_limit(mixer, limit, x, mask)


def test_encoder_hands_the_packed_sequence_on():
    model = build_encoder("luna", 5, layers=2, mixer={"packed": 3})
    first, second = model.blocks
    assert first.mixer.packed is not None and second.mixer.packed is None
    x, mask = inputs(length=6, lengths=(6, 4))

    def by_hand(x):
        packed = jnp.broadcast_to(first.mixer.packed[...], (2, 3, DIM))
        for block in (first, second):
            mixed, packed = naive_carry(block.mixer, block.norm_mixer(x), mask, packed)
            x = x + mixed
            x = x + block.mlp(block.norm_mlp(x), None)
        return x

    def by_blocks(x):
        y, carried = first(x, mask, None)
        return second(y, mask, None, carried)[0]

    actual, expected = (jit(f)(x) for f in (by_blocks, permissively(by_hand)))
    assert error(actual, expected) < 1e-5
    # The encoder itself carries: without what the first layer hands on, the second cannot be called.
    tokens = np.array([[[1, 2, 3, 4, 5]]])
    assert np.isfinite(run(model, tokens, tokens > 0)).all()


def test_parameters_and_options():
    count = parameter_count("luna")
    assert count == 3_487_490 + 4 * 256**2 + 16 * 256 + 4 * 2 * 256
    assert count < 1.1 * 3_487_490
    with pytest.raises(ValueError, match="packed must be"):
        build("luna", packed=0)
    with pytest.raises(ValueError, match="multiples of heads"):
        build("luna", heads=3)


def test_narrow_heads_and_dropout():
    x, mask = inputs()
    mixer = build("luna", qkv=4, dropout=0.3)
    first, same, other = (run(mixer, x, mask, seed) for seed in (0, 0, 1))
    assert first.shape == x.shape
    np.testing.assert_array_equal(first, same)
    assert error(first, other) > 1e-3


def test_what_is_added_to_the_packed_sequence_is_dropped_at_the_encoder_s_rate():
    x, mask = inputs()
    mixer, packed = build("luna", layer=1, packed=200, residual_dropout=0.4), normal(3, 200, DIM, seed=4)

    def added(key):
        rngs = None if key is None else nnx.Rngs(dropout=key)
        return np.asarray(mixer.carry(x, mask, packed, rngs)[1] - packed)

    whole, dropped = added(None), added(jax.random.key(0))
    kept = np.abs(dropped) > 1e-5
    np.testing.assert_allclose(dropped, np.where(kept, whole / 0.6, 0), atol=2e-5)
    assert abs(kept.mean() - 0.6) < 0.05


def test_padding_changes_nothing():
    assert padding_changes("luna", layers=2, packed=3) < 1e-5


def test_the_encoder_passes_its_dropout_on():
    recipe = PROTOCOLS["quick"].recipe("listops_short", "luna")
    shape = dataclasses.replace(recipe.encoder, dropout=0.3, attention_dropout=0.2)
    model = nnx.eval_shape(
        lambda: worker.build("luna", dataclasses.replace(recipe, encoder=shape), 9, 3, False, LENGTH, 0)
    )
    assert [(b.mixer.rate, b.mixer.residual_rate) for b in model.blocks] == [(0.2, 0.3)] * 2
