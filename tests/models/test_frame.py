"""The frame of state-space models: input, blocks without feed-forward, head, dropout and rotary positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.blocks import Frame
from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory
from models.core.layers import BatchRngs, dropout
from models.core.positions import rotate
from tests.helpers.mixing import build, build_encoder, error, inputs, jit, normal, randomised, run

erf = np.vectorize(math.erf)
DIM = 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def value(variable):
    return np.asarray(variable[...], np.float64)


def linear(layer, x):
    return x @ value(layer.kernel) + value(layer.bias)


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * value(layer.scale) + value(layer.bias)


GATES = {
    "gelu": lambda b, y: gelu_tanh(y),
    "half_glu1": lambda b, y: gelu_tanh(y) * sigmoid(linear(b.gate, gelu_tanh(y))),
    "half_glu2": lambda b, y: y * sigmoid(linear(b.gate, gelu_tanh(y))),
    "full_glu": lambda b, y: linear(b.value, gelu_tanh(y)) * sigmoid(linear(b.gate, gelu_tanh(y))),
    "glu": lambda b, y: linear(b.value, gelu_erf(y)) * sigmoid(linear(b.gate, gelu_erf(y))),
}


class Sums(nnx.Module):
    """A mixer: each position gets the sum of the real ones up to it, times a weight."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((DIM,)))

    def __call__(self, x, mask, rngs=None):
        return jnp.cumsum(jnp.where(mask[..., None], x, 0), 1) * self.weight[...][None, None]


class Updates(Sums):
    """A mixer that takes a quarter of the old stream, and of the sums the rest."""

    def update_stream(self, stream, x, mask, rngs=None):
        return 0.25 * stream + 0.75 * self(x, mask, rngs)


def block(mixer=Sums, **frame):
    return randomised(lambda: Frame(DIM, 8, rate=0.0, **frame).make_block(mixer(), nnx.Rngs(0)))


def sums(b, x, mask):
    return np.cumsum(np.where(mask[..., None], x, 0), 1) * value(b.mixer.weight)


FEEDS = {"mlp": gelu_tanh, "silu_mlp": lambda x: x * sigmoid(x), "silu_glu": lambda x: x * sigmoid(x)}


def feed(b, kind, x):
    gate = linear(b.mlp.gate, x) if kind == "silu_glu" else 1
    return linear(b.mlp.out, FEEDS[kind](linear(b.mlp.into, x)) * gate)


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("kind", [*GATES, *FEEDS])
def test_blocks_are_their_equations(kind, prenorm):
    b = block(block=kind, prenorm=prenorm)
    x, mask = inputs(9, DIM, (9, 4))
    got, carried = jit(lambda x: b(x, mask, None))(x)
    x, mask = np.asarray(x, np.float64), np.asarray(mask)
    if kind in FEEDS:
        if prenorm:
            x = x + sums(b, layer_norm(b.norm_mixer, x), mask)
            want = x + feed(b, kind, layer_norm(b.norm_mlp, x))
        else:
            x = layer_norm(b.norm_mixer, x + sums(b, x, mask))
            want = layer_norm(b.norm_mlp, x + feed(b, kind, x))
    elif prenorm:
        want = x + GATES[kind](b, sums(b, layer_norm(b.norm_mixer, x), mask))
    else:
        want = layer_norm(b.norm_mixer, x + GATES[kind](b, sums(b, x, mask)))
    assert carried is None and error(got, want) < 1e-5


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("kind", ["mlp", "silu_mlp", "half_glu1"])
def test_a_mixer_s_own_update_of_the_stream(kind, prenorm):
    """It takes the sum's place; a gate takes what it adds."""
    b = block(Updates, block=kind, prenorm=prenorm)
    x, mask = inputs(9, DIM, (9, 4))
    got, carried = jit(lambda x: b(x, mask, None))(x)
    x, mask = np.asarray(x, np.float64), np.asarray(mask)
    into = layer_norm(b.norm_mixer, x) if prenorm else x
    updated = 0.25 * x + 0.75 * sums(b, into, mask)
    if kind in FEEDS and prenorm:
        want = updated + feed(b, kind, layer_norm(b.norm_mlp, updated))
    elif kind in FEEDS:
        x = layer_norm(b.norm_mixer, updated)
        want = layer_norm(b.norm_mlp, x + feed(b, kind, x))
    else:
        want = x + GATES[kind](b, updated - x)
        want = want if prenorm else layer_norm(b.norm_mixer, want)
    assert carried is None and error(got, want) < 1e-5


def test_an_update_is_not_dropped_by_the_block():
    frame = Frame(DIM, 8, rate=0.9, block="silu_mlp")
    b = randomised(lambda: frame.make_block(Updates(), nnx.Rngs(0)))
    b.mlp.out.kernel[...], b.mlp.out.bias[...] = jnp.zeros((8, DIM)), jnp.zeros(DIM)
    x, mask = inputs(9, DIM, (9, 4))
    got, _ = b(x, mask, BatchRngs(jax.random.key(0)))
    assert error(got, b(x, mask, None)[0]) < 1e-6


@pytest.mark.parametrize(
    ("kind", "places"),
    [("mlp", 3), ("silu_mlp", 2), ("silu_glu", 3), ("gelu", 1), ("half_glu2", 2), ("full_glu", 2), ("glu", 3)],
)
def test_tied_dropout_zeroes_a_feature_everywhere_or_nowhere(kind, places, monkeypatch):
    frame, kept = Frame(DIM, 8, rate=0.5, tied_dropout=True, block=kind), []
    b = randomised(lambda: frame.make_block(Sums(), nnx.Rngs(0)))

    def record(x, rate, rngs, shared=False, tied=False):
        kept.append(dropout(jnp.ones_like(x), rate, rngs, shared, tied))
        return x

    monkeypatch.setattr("models.core.blocks.dropout", record)
    x, mask = inputs(40, DIM, (40,) * 64)
    b(x, mask, BatchRngs(jax.random.key(0)))
    assert len(kept) == places
    for ones in map(np.asarray, kept):
        assert set(np.unique(ones)) == {0.0, 2.0} and (ones == ones[:, :1]).all()
        assert 0.35 < (ones[:, 0] > 0).mean() < 0.65
    assert len({ones[:, 0, :DIM].tobytes() for ones in map(np.asarray, kept)}) == places


def test_a_linear_input_of_tokens_is_one_of_one_hot_rows():
    model = build_encoder("ff_only", 5, dim=DIM, input="linear", positions="none", vocab=7)
    tokens = np.array([[1, 6, 3, 0, 0]])
    assert error(model.embed(jnp.asarray(tokens)), linear(model.input, np.eye(7)[tokens])) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_linear_input_of_pixels_is_their_normalised_value(dtype):
    model = build_encoder("ff_only", 256, dim=DIM, input="linear", positions="none", vocab=257, pixels=(0.4, 0.2))
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.tree.map(lambda p: p.astype(dtype), state))
    got = model.embed(jnp.arange(1, 257)[None])
    assert got.dtype == dtype
    grey = (np.arange(256)[None, :, None] / 255 - 0.4) / 0.2
    assert error(got, linear(model.input, grey)) < (1e-6 if dtype == jnp.float32 else 4e-3)
    # No two grey levels are the same.
    assert len(np.unique(np.asarray(got[0], np.float32), axis=0)) == 256


def test_gated_blocks_meet_an_input_that_is_not_dropped():
    def seen(kind):
        model = build_encoder("ff_only", 5, dim=DIM, rate=0.9, positions="none", block=kind, layers=1)
        tokens, mask = jnp.ones((4, 5), jnp.int32), jnp.ones((4, 5), bool)
        met = []
        model._run = lambda x, mask, rngs: met.append(x) or x
        model.encode(tokens, mask, BatchRngs(jax.random.key(0)))
        return float((met[0] == 0).mean())

    assert seen("half_glu1") == 0 and seen("mlp") > 0.5 and seen("silu_mlp") > 0.5


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("kind", ["glu", "full_glu"])
def test_the_linear_head(pair, kind):
    model = build_encoder("ff_only", 5, dim=DIM, head="linear", pair=pair, block=kind, rate=0.0, final_norm=False)
    assert model.norm is None
    tokens = np.random.default_rng(0).integers(1, 11, (3, 1 + pair, 5))
    mask = np.ones(tokens.shape, bool)
    e = [np.asarray(model.encode(tokens[:, i], mask[:, i]), np.float64) for i in range(1 + pair)]
    if pair:
        activation = gelu_erf if kind == "glu" else gelu_tanh
        (hidden,) = model.head
        x = activation(linear(hidden, np.concatenate([*e, e[0] - e[1], e[0] * e[1]], -1)))
    else:
        assert not model.head
        x = e[0]
    assert error(run(model, tokens, mask), linear(model.classifier, x)) < 1e-5


@pytest.mark.parametrize("pair", [False, True])
def test_the_head_of_mega(pair):
    """The second document first, the exact GELU, and a classifier without bias."""
    model = build_encoder("ff_only", 5, dim=DIM, head="gelu_mlp", pair=pair, mlp=10, rate=0.0)
    tokens = np.random.default_rng(0).integers(1, 11, (3, 1 + pair, 5))
    mask = np.ones(tokens.shape, bool)
    e = [np.asarray(model.encode(tokens[:, i], mask[:, i]), np.float64) for i in range(1 + pair)]
    (hidden,) = model.head
    assert hidden.kernel.shape == (DIM * (1 + pair), 10) and model.classifier.bias is None
    want = gelu_erf(linear(hidden, np.concatenate(e[::-1], -1))) @ value(model.classifier.kernel)
    assert error(run(model, tokens, mask), want) < 1e-5


def test_the_head_of_mega_drops_before_its_activation():
    model = build_encoder("ff_only", 5, dim=DIM, head="gelu_mlp", mlp=4000, rate=0.5)
    model.encode = lambda tokens, mask, rngs=None: jnp.ones((tokens.shape[0], DIM))
    met = []
    model.classifier = lambda x: met.append(x) or x
    tokens = jnp.ones((2, 1, 5), jnp.int32)
    model(tokens, tokens > 0, BatchRngs(jax.random.key(0)))
    (hidden,) = model.head
    whole = gelu_erf(2 * linear(hidden, np.ones((2, DIM))))
    kept = np.asarray(met[0], np.float64)
    assert (kept == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert error(kept, np.where(kept == 0, 0, whole)) < 1e-5


def test_without_positions_order_is_not_seen():
    tokens, mask = np.arange(1, 9)[None, None], np.ones((1, 1, 8), bool)
    for positions, same in (("none", True), ("sinusoidal", False), ("rotary", False)):
        context = {"heads": 2, "qkv": 8, "dropout": 0.0, "rotary": positions == "rotary"}
        make = mixer_factory("transformer", {}, **context)
        shape = {"vocab": 11, "classes": 3, "mlp": 8, "dim": 8, "layers": 1, "length": 8, "pool": "mean"}
        model = randomised(lambda: Encoder(make, positions=positions, rate=0.0, rngs=nnx.Rngs(0), **shape))  # noqa: B023
        assert (error(run(model, tokens[..., ::-1].copy(), mask), run(model, tokens, mask)) < 1e-5) == same, positions


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rotation_is_a_product_of_complex_numbers(dtype):
    x = normal(2, 300, 3, 8).astype(dtype)
    got = np.asarray(rotate(x), np.float64)
    assert rotate(x).dtype == dtype
    z = np.asarray(x[..., :4], np.float64) + 1j * np.asarray(x[..., 4:], np.float64)
    turned = z * np.exp(1j * np.arange(300)[:, None, None] * 10_000.0 ** (-2 * np.arange(4) / 8))
    want = np.concatenate([turned.real, turned.imag], -1)
    assert error(got, want) < (1e-6 if dtype == jnp.float32 else 1e-2)


ROTARY = ("transformer", "transformer_naive", "local", "sparse", "longformer", "bigbird", "sinkhorn", "nystromformer")
ROTARY += ("performer", "skyformer")


@pytest.mark.parametrize("model", ROTARY)
def test_rotary_mixers_are_themselves_on_rotated_queries_and_keys(model, monkeypatch):
    x, mask = inputs()
    assert "rotary" in load_mixer(model).__init__.__annotations__
    rotary, plain = build(model, rotary=True), build(model)
    before = run(plain, x, mask)
    got = run(rotary, x, mask)
    monkeypatch.setattr("models.core.layers.rotate", lambda x: x)
    monkeypatch.setattr("models.attention.longformer.rotate", lambda x: x)
    unrotated = jit(lambda x: build(model, rotary=True)(x, mask))(x)
    real = np.asarray(mask)
    assert error(np.asarray(unrotated)[real], before[real]) < 1e-6
    assert error(got[real], before[real]) > 1e-2


def test_scores_depend_on_the_distance_alone():
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)
    scores = jnp.einsum("blhk,bmhk->lm", rotate(jnp.tile(q, (1, 50, 1, 1))), rotate(jnp.tile(k, (1, 50, 1, 1))))
    for distance in (-20, 0, 3):
        along = np.diagonal(scores, distance)
        np.testing.assert_allclose(along, along[0], atol=2e-5)


def test_what_cannot_rotate_says_so():
    with pytest.raises(ValueError, match="fnet has no rotary positions"):
        mixer_factory("fnet", {}, rotary=True)
    with pytest.raises(ValueError, match="even width"):
        build("transformer", dim=6, heads=2, rotary=True)


@pytest.mark.parametrize("frame", [{"block": "glu"}, {"block": "silu_mlp"}, {"prenorm": False}, {"norm": "batch"}])
def test_what_cannot_be_reversible_says_so(frame):
    with pytest.raises(ValueError, match="reversible"):
        build_encoder("fnet", 5, reversible=True, **frame)


def test_what_updates_the_stream_cannot_be_reversible():
    shape = {"vocab": 11, "classes": 3, "length": 5, "dim": DIM, "layers": 1, "mlp": 8}
    with pytest.raises(ValueError, match="updates the residual stream"):
        Encoder(lambda *_: Updates(), reversible=True, rngs=nnx.Rngs(0), **shape)


def test_what_updates_the_stream_is_recomputed_as_it_was():
    """In blocks that are rematerialised."""
    shape = {"vocab": 11, "classes": 3, "length": 9, "dim": DIM, "layers": 2, "mlp": 8, "rate": 0.3}
    tokens = np.random.default_rng(0).integers(1, 11, (2, 1, 9)).astype(np.int32)
    found = []
    for remat in (False, True):
        model = randomised(lambda: Encoder(lambda *_: Updates(), remat=remat, rngs=nnx.Rngs(0), **shape))  # noqa: B023
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params):
            logits = nnx.merge(graph, params, rest)(tokens, tokens > 0, BatchRngs(jax.random.key(1)))  # noqa: B023
            return (logits**2).sum()

        found.append(jax.tree.leaves(jit(jax.grad(loss))(params)))
    for plain, recomputed in zip(*found, strict=True):
        assert error(recomputed, plain) < 1e-5
