"""Full attention: tiles against the dense equation, dropout, memory, the choice of a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention import transformer
from models.attention.transformer import attend, attend_naive, choose_kernel, tile_rows
from models.core import flash_attention
from tests.helpers.mixing import (
    QUICK,
    assert_equals,
    build,
    full_attention,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
)


@pytest.mark.parametrize(
    ("name", "lengths", "dim", "heads", "rounded"),
    [
        ("transformer", (37, 14), 16, 4, None),
        ("transformer", (16, 0), 16, 2, None),
        ("transformer", (75, 55), 32, 2, 4e-2),
        ("transformer_naive", (37, 0), 16, 1, None),
    ],
)
def test_equals_the_equation(name, lengths, dim, heads, rounded):
    mixer, (x, mask) = build(name, lengths[0], dim, heads), inputs(lengths[0], dim, lengths)
    assert_equals(mixer, full_attention, x, mask, rounded=rounded, rounded_gradients=rounded, at_padding=True)


@pytest.fixture
def in_tiles(monkeypatch):
    """Attention in tiles of 16 queries, as long inputs have it, and not all at once."""
    for module in (flash_attention, transformer):
        monkeypatch.setattr(module, "is_single_tile", lambda backend, scores: False)
    monkeypatch.setattr(transformer, "tile_rows", lambda *sizes: 16)


@pytest.mark.parametrize("lanes", [1, 2, 6])
def test_any_number_of_lanes_agrees(monkeypatch, in_tiles, lanes):
    monkeypatch.setattr(flash_attention, "plan_tiles", lambda backend, problems, blocks, tile: (lanes, 1))
    q, k, v = normal(3, 3, 40, 2, 8)
    mask = np.arange(40) < np.array([[40], [17], [0]])
    actual, expected = (jit(f)(q, k, v, mask) for f in (attend, attend_naive))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_dropout_is_the_same_in_both_passes_and_both_forms(whole, request):
    """Naive and tiled draw the same mask from the same key, so that outputs and gradients must agree."""
    if not whole:
        request.getfixturevalue("in_tiles")
    q, k, v, weight = normal(4, 2, 45, 2, 8)
    mask = np.arange(45) < np.array([[45], [30]])

    def gradients(f, rngs):
        def loss(q, k, v):
            return (f(q, k, v, mask, 0.4, rngs and nnx.Rngs(dropout=7)) * weight).sum()

        return jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    got, want = gradients(attend, True), gradients(attend_naive, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)
    assert abs(got[0] - gradients(attend, None)[0]) > 1e-3  # and something was dropped


def test_dropout_mask_is_fair():
    rows, columns = flash_attention.draw_dropout_seeds((600,), (500,), 0.3, nnx.Rngs(dropout=1))
    kept = np.asarray(flash_attention.dropout_mask(rows, columns, 0.3), np.float64)
    assert abs(kept.mean() - 0.7) < 0.003  # four deviations of 300,000 draws
    assert abs(kept.mean(0) - 0.7).max() < 0.1 and abs(kept.mean(1) - 0.7).max() < 0.1
    for axis in (0, 1):  # neighbouring rows and columns are uncorrelated
        a, b = np.take(kept, range(499), axis), np.take(kept, range(1, 500), axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_memory_grows_with_length_not_its_square():
    def temporaries(length, f):
        q = jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32)
        mask = jax.ShapeDtypeStruct((1, length), jnp.bool)
        grad = jax.jit(jax.grad(lambda q, mask: f(q, q, q, mask).sum()))
        return grad.lower(q, mask).compile(QUICK).memory_analysis().temp_size_in_bytes

    assert temporaries(4096, attend) < 2.3 * temporaries(2048, attend)
    assert temporaries(2048, attend) < temporaries(2048, attend_naive) / 10


def test_choice_of_kernel():
    def chosen(backend="gpu", capability=8.0, dtype=jnp.bfloat16, width=64, dropping=False):
        return choose_kernel(backend, capability, jnp.dtype(dtype), width, dropping)

    assert chosen() == chosen(dtype=jnp.float16) == chosen(width=8) == chosen(width=128) == "fused"
    assert chosen(width=12) == chosen(dropping=True) == chosen(capability=9.0) == "fused"
    others = [{"backend": "cpu"}, {"capability": 7.5}, {"width": 136}, {"dtype": jnp.float32}]
    assert all(chosen(**other) == "blocks" for other in others)


def test_a_kernel_that_does_not_apply_is_refused():
    with pytest.raises(ValueError, match="cudnn does not apply to float32 heads of width 8 on cpu"):
        build("transformer", dim=16, kernel="cudnn")(*inputs(dim=16))


def test_a_gpu_s_record_says_that_attention_was_not_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(transformer, "_used_kernels", set())
    jax.eval_shape(build("transformer"), *inputs())
    assert transformer.used_kernels() == ["blocks"]
    assert "16-bit floats" in transformer.fallback_notice("gpu", 9.0)
    assert not transformer.fallback_notice("cpu", 0.0) and not transformer.fallback_notice(
        "gpu", 7.0
    )  # there is no other there
    monkeypatch.setattr(transformer, "_used_kernels", {"fused"})
    assert not transformer.fallback_notice("gpu", 9.0)


def test_plans():
    assert tile_rows("cpu", 4, 4096, 4096) == 344 and tile_rows("cpu", 4, 4096, 2**17) == 32
    assert tile_rows("gpu", 4, 4096, 4096) == 1024 and tile_rows("gpu", 4, 99, 99) == 99
    assert tile_rows("cpu", 4, 512, 512) == 512 and tile_rows("cpu", 4, 513, 513) == 264  # 4 MB of scores
    assert tile_rows("gpu", 256, 4096, 4096) == 64 and tile_rows("cpu", 4, 7, 7) == 7
    for backend in ("cpu", "gpu"):
        lanes, step = flash_attention.plan_tiles(backend, 12, 100, 64 * 512)
        assert 12 % lanes == 0 and 1 <= step <= 100
    assert flash_attention.plan_tiles("gpu", 8, 64, 64 * 512) == (8, 64)
    assert flash_attention.plan_tiles("cpu", 4, 328, 2500) == (1, 82)  # not 104 three times and 16


def test_padding_changes_nothing():
    assert padding_changes("transformer", 53, (29, 12), rebuilt=True, pool="mean", layers=2) < 1e-5


def test_parameters_and_options():
    assert parameter_count("transformer") == parameter_count("transformer_naive") == 3_487_490
    for wrong in ({"heads": 3}, {"dropout": 1.0}, {"kernel": "fast"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("transformer", **({"dim": 16} | wrong))
