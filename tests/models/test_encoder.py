"""The encoder: shapes, parameter counts, pooling, and attention against a naive softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention.transformer import Attention, attend
from models.core.factory import load_mixer, mixer_factory
from models.core.positions import sinusoidal
from tests.helpers.mixing import build_encoder, jit, normal, parameter_count, run


def encoder(model="transformer", length=12, **shape):
    return build_encoder(model, length, **({"dim": 16, "heads": 4, "rate": 0.0, "vocab": 20, "mlp": 32} | shape))


def parameters(module):
    return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


def tokens(length=12, real=12, documents=1, batch=2):
    """Token ids [B, P, L], and the mask of the first `real`."""
    ids = np.random.default_rng(0).integers(1, 20, (batch, documents, length), np.int32)
    mask = np.broadcast_to(np.arange(length) < real, ids.shape)
    return np.where(mask, ids, 0), mask


def test_text_shape_has_the_official_parameter_count():
    assert parameter_count("transformer") == 3_487_490


def test_fnet_has_no_mixing_parameters():
    assert parameters(encoder(layers=2)) - parameters(encoder("fnet", layers=2)) == 2 * 4 * 16 * 16


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("pair_head", [None, "concat", "nli"])
def test_logits_have_the_right_shape(pool, positions, pair_head):
    more = {"pair": True, "pair_head": pair_head} if pair_head else {}
    logits = run(encoder("fnet", pool=pool, positions=positions, **more), *tokens(documents=2 if pair_head else 1))
    assert logits.shape == (2, 3) and logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_the_nli_head_sees_product_and_difference():
    assert encoder(pair=True).head[0].kernel[...].shape == (32, 32)
    assert encoder(pair=True, pair_head="nli").head[0].kernel[...].shape == (64, 32)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_transformer_does_not_see_padding(pool):
    short, mask = tokens(length=9, real=9)
    model = encoder(length=9, pool=pool)
    padded, padded_mask = (np.pad(array, ((0, 0), (0, 0), (0, 5))) for array in (short, mask))
    # The same parameters in an encoder that is built for the longer input.
    longer = encoder(length=14, pool=pool)
    nnx.update(longer, nnx.state(model, nnx.Param))
    logits = run(longer, padded, padded_mask)
    np.testing.assert_allclose(run(model, short, mask), logits, atol=1e-5)
    # What the padding holds does not matter either.
    np.testing.assert_allclose(logits, run(longer, np.where(padded_mask, padded, 7), padded_mask), atol=1e-5)


def test_mean_pooling_averages_real_positions_only():
    model = encoder("fnet", layers=0, pool="mean")
    ids, mask = tokens(real=5)
    x = model.embedding(ids[:, 0]) + sinusoidal(12, 16)[None]
    np.testing.assert_allclose(model.encode(ids[:, 0], mask[:, 0]), model.norm(x)[:, :5].mean(1), atol=1e-5)


@pytest.mark.parametrize(("length", "dim"), [(16_385, 6), (300, 5), (1, 2)])
def test_sinusoids_are_exact_at_every_position(length, dim):
    angle = np.arange(length)[:, None] / 10_000 ** (2 * (np.arange(dim) // 2) / dim)
    want = np.where(np.arange(dim) % 2, np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(jit(lambda: sinusoidal(length, dim))(), want, atol=3e-7)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_document_without_tokens_gives_finite_logits(pool):
    assert np.isfinite(run(encoder(pool=pool), *tokens(real=0))).all()


def naive_attention(q, k, v, mask):
    """softmax(q kᵀ / √K) v, a query and a head at a time, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros_like(q)
    for b, l, h in np.ndindex(q.shape[:3]):
        scores = np.array([q[b, l, h] @ k[b, m, h] for m in range(k.shape[1])]) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max()) * mask[b]
        out[b, l, h] = (weights / weights.sum()) @ v[b, :, h]
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_attention_is_a_naive_softmax(dtype, tolerance):
    q, k, v = (normal(2, 7, 3, 4, seed=seed).astype(dtype) for seed in range(3))
    mask = np.arange(7) < np.array([[7], [4]])
    out = jit(attend)(q, k, v, mask).astype(jnp.float32)
    np.testing.assert_allclose(out, naive_attention(q, k, v, mask), atol=tolerance)


def test_attention_dropout_keeps_the_mean_and_is_off_in_evaluation():
    (q, k, v), mask = normal(3, 1, 6, 2, 4), np.ones((1, 6), bool)
    draw = jit(jax.vmap(lambda key: attend(q, k, v, mask, 0.3, nnx.Rngs(dropout=key))))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 600)))
    exact = jit(lambda: attend(q, k, v, mask, 0.3, None))()
    assert drawn.std(0).max() > 0.1
    np.testing.assert_allclose(drawn.mean(0), exact, atol=5 * drawn.std(0).max() / 600**0.5)


def test_dropout_only_with_keys():
    model = encoder(rate=0.5)
    ids, mask = tokens()
    assert np.array_equal(run(model, ids, mask), run(model, ids, mask))
    one, two, same = (run(model, ids, mask, seed) for seed in (0, 1, 0))
    assert not np.allclose(one, two)
    assert np.array_equal(one, same)


def test_wrong_options_are_reported():
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(16, 8, heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no option 'speed'"):
        mixer_factory("fnet", {"speed": 2})
    with pytest.raises(ValueError, match="cannot import"):
        load_mixer("no_such_module:Mixer")
    with pytest.raises(ValueError, match="unknown model"):
        load_mixer("fnett")
