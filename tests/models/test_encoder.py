"""The encoder: shapes, parameter counts, pooling, and attention against a naive softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention import Attention, attend
from models.core.encoder import Encoder, sinusoidal
from models.core.factory import load_mixer, mixer_factory


def encoder(model="transformer", heads=4, rate=0.0, seed=0, **shape):
    shape = {"vocab": 20, "classes": 3, "length": 12, "dim": 16, "layers": 2, "mlp": 32} | shape
    factory = mixer_factory(model, {}, heads=heads, qkv=shape["dim"], dropout=rate, layers=shape["layers"])
    return Encoder(factory, **shape, rate=rate, rngs=nnx.Rngs(seed))


def parameters(module):
    return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


def tokens(length=12, real=12, documents=1, batch=2):
    ids = jax.random.randint(jax.random.key(0), (batch, documents, length), 1, 20)
    mask = jnp.broadcast_to(jnp.arange(length) < real, ids.shape)
    return jnp.where(mask, ids, 0), mask


def test_text_shape_has_the_official_parameter_count():
    shape = {"vocab": 260, "classes": 2, "length": 1000, "dim": 256, "layers": 4, "mlp": 1024}
    assert parameters(nnx.eval_shape(lambda: encoder(**shape))) == 3_487_490


def test_fnet_has_no_mixing_parameters():
    shape = {"dim": 16, "layers": 2}
    assert parameters(encoder(**shape)) - parameters(encoder("fnet", **shape)) == 2 * 4 * 16 * 16


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("pair_head", [None, "concat", "nli"])
def test_logits_have_the_right_shape(pool, positions, pair_head):
    more = {"pair": True, "pair_head": pair_head} if pair_head else {}
    logits = encoder("fnet", pool=pool, positions=positions, **more)(*tokens(documents=2 if pair_head else 1))
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all()


def test_the_nli_head_sees_product_and_difference():
    assert encoder(pair=True).head[0].kernel[...].shape == (32, 32)
    assert encoder(pair=True, pair_head="nli").head[0].kernel[...].shape == (64, 32)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_transformer_does_not_see_padding(pool):
    short, mask = tokens(length=9, real=9)
    model = encoder(length=9, pool=pool)
    padded = jnp.pad(short, ((0, 0), (0, 0), (0, 5)))
    padded_mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 5)))
    # The same parameters in an encoder that is built for the longer input.
    longer = encoder(length=14, pool=pool)
    nnx.update(longer, nnx.state(model, nnx.Param))
    np.testing.assert_allclose(model(short, mask), longer(padded, padded_mask), atol=1e-5)
    # What the padding holds does not matter either.
    np.testing.assert_allclose(
        longer(padded, padded_mask), longer(jnp.where(padded_mask, padded, 7), padded_mask), atol=1e-5
    )


def test_mean_pooling_averages_real_positions_only():
    model = encoder("fnet", layers=0, pool="mean")
    ids, mask = tokens(real=5)
    x = model.embedding(ids[:, 0]) + sinusoidal(12, 16)
    np.testing.assert_allclose(model.encode(ids[:, 0], mask[:, 0]), model.norm(x)[:, :5].mean(1), atol=1e-5)


def test_a_document_without_tokens_gives_finite_logits():
    for pool in ("cls", "mean"):
        assert np.isfinite(encoder(pool=pool)(*tokens(real=0))).all()


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
    q, k, v = (jax.random.normal(key, (2, 7, 3, 4)).astype(dtype) for key in jax.random.split(jax.random.key(0), 3))
    mask = jnp.array([[True] * 7, [True] * 4 + [False] * 3])
    out = attend(q, k, v, mask).astype(jnp.float32)
    np.testing.assert_allclose(out, naive_attention(q, k, v, mask), atol=tolerance)


def test_attention_dropout_keeps_the_mean_and_is_off_in_evaluation():
    q, k, v = (jax.random.normal(key, (1, 6, 2, 4)) for key in jax.random.split(jax.random.key(0), 3))
    mask = jnp.ones((1, 6), bool)
    draw = jax.jit(lambda key: attend(q, k, v, mask, 0.3, nnx.Rngs(dropout=key)))
    drawn = jnp.stack([draw(key) for key in jax.random.split(jax.random.key(1), 600)])
    exact = attend(q, k, v, mask, 0.3, None)
    assert float(drawn.std(0).max()) > 0.1
    np.testing.assert_allclose(drawn.mean(0), exact, atol=5 * float(drawn.std(0).max()) / 600**0.5)


def test_dropout_only_with_keys():
    model = encoder(rate=0.5)
    ids, mask = tokens()
    assert np.array_equal(model(ids, mask), model(ids, mask))
    one, two = (model(ids, mask, nnx.Rngs(dropout=k)) for k in (0, 1))
    assert not np.allclose(one, two)
    assert np.array_equal(one, model(ids, mask, nnx.Rngs(dropout=0)))


def test_wrong_options_are_told():
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(16, 8, heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no option 'speed'"):
        mixer_factory("fnet", {"speed": 2})
    with pytest.raises(ValueError, match="cannot import"):
        load_mixer("no_such_module:Mixer")
    with pytest.raises(ValueError, match="unknown model"):
        load_mixer("fnett")
