"""Our models with the official ones' weights give the official ones' logits, at 10⁻⁵.

Nine of the eleven models, where they compute the same; `tests/helpers/official.py` says where it leaves out what the
official code does by mistake. Reformer and Sinkhorn cannot be compared: there, Reformer has no output projection and
keys of any length, and Sinkhorn's sort has no effect (see their docstrings).
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tests.helpers import official
from tests.helpers.mixing import error, jit

VOCAB, CLASSES, DIM, HEADS, MLP, LAYERS = 11, 3, 12, 3, 10, 2
WIDTH = DIM // HEADS
BLOCKS, BLOCK, RANDOM = 9, 3, 2


def convert(params, model):
    """Puts the official parameters into our encoder."""
    encoder = params.get("encoder", params)

    def put(variable, value):
        variable[...] = jnp.asarray(value.reshape(variable.shape), jnp.float32)

    def put_affine(layer, tree):
        put(layer.kernel, tree["kernel"])
        put(layer.bias, tree["bias"])

    def put_norm(layer, tree):
        put(layer.scale, tree["scale"])
        put(layer.bias, tree["bias"])

    put(model.embedding.embedding, encoder["Embed_0"]["embedding"])
    put_norm(model.norm, encoder["encoder_norm"])
    if "cls" in encoder:
        put(model.cls, encoder["cls"])
    if "posembed_input" in encoder:
        put(model.positions, encoder["posembed_input"]["pos_embedding"])
    for layer, block in enumerate(model.blocks):
        tree = encoder[f"encoderblock_{layer}"]
        put_norm(block.norm_mixer, tree["LayerNorm_0"])
        put_norm(block.norm_mlp, tree["LayerNorm_2"])
        put_affine(block.mlp.into, tree["MlpBlock_3"]["Dense_0"])
        put_affine(block.mlp.out, tree["MlpBlock_3"]["Dense_1"])
        (attention,) = (part for name, part in tree.items() if "Attention" in name)
        projections = getattr(block.mixer, "projections", block.mixer)
        for name in ("query", "key", "value", "out"):
            kernel = attention.get(f"{name}_sliding_window", attention.get(name))["kernel"]
            put(getattr(projections, name).kernel, kernel)
        if "lr_kernel" in attention:
            put(block.mixer.shortening, attention["lr_kernel"])
        if "random" in attention:
            # Our mixture has weights that sum to 1, and starts from a half for each: S = (2 R + (2 q)·k / √K) / 2.
            put(block.mixer.random, 2 * attention["random"])
            put(projections.query.kernel, 2 * attention["query"]["kernel"])
    names = ["mlp", "mlp2"] if "mlp2" in params else ["mlp"]
    for layer, name in zip([*model.head, model.classifier], [*names, "logits"], strict=True):
        put_affine(layer, params[name])


def documents(pairs, length, real):
    """Token ids [B, P, L] of four examples; from `real` on, some end early."""
    tokens = np.random.default_rng(1).integers(1, VOCAB, (4, 1 + pairs, length))
    ends = np.where(np.arange(4) % 2, real, length)[:, None, None]
    return np.where(np.arange(length) < ends, tokens, 0).astype(np.int32)


def random_blocks(seed=0):
    """Random blocks of each head and block [H, N, R] as drawn there: none that is seen anyway, and none twice."""
    rng = np.random.default_rng(seed)
    picked = np.zeros((HEADS, BLOCKS, RANDOM), int)
    for h, i in np.ndindex(HEADS, BLOCKS):
        left = sorted(set(range(BLOCKS)) - {0, BLOCKS - 1, i - 1, i, i + 1})
        picked[h, i] = rng.permutation(left)[:RANDOM]
    return picked


def draws_of(picked):
    """The uniform numbers with which our BigBird picks these blocks: each is a rank among those that are left."""
    draws = np.zeros(picked.shape)
    for h, i in np.ndindex(picked.shape[:2]):
        left = sorted(set(range(BLOCKS)) - {0, BLOCKS - 1, i - 1, i, i + 1})
        for r, block in enumerate(picked[h, i]):
            draws[h, i, r] = (left.index(block) + 0.5) / len(left)
            left.remove(block)
    return draws


def directions():
    return np.random.default_rng(5).normal(size=(7, WIDTH))


RELU, SOFTMAX = official.relu_features(directions()), official.softmax_features(directions())
# By case: model, options of our mixer, the official attention, and whether it masks padding.
CASES = {
    "transformer": ("transformer", {}, official.pattern(official.everything), True),
    "longformer": ("longformer", {"window": 4, "tokens": 0}, official.window(5), True),
    "sparse": ("sparse", {"block": 5, "c": 3}, official.fixed(5, 3), True),
    "bigbird": ("bigbird", {"block": BLOCK, "random": RANDOM}, official.bigbird(BLOCK, random_blocks()), False),
    "synthesizer": ("synthesizer", {"kind": "random+dot"}, official.random_and_dot, True),
    "linformer": ("linformer", {"rank": 16}, official.linformer, False),
    "linear": ("linear_transformer", {}, official.kernelised(official.elu_features, 1e-6), False),
    "performer": ("performer", {"kernel": "plain_relu"}, official.kernelised(official.relu_features(None)), False),
    "performer-relu": ("performer", {"kernel": "relu", "features": 7}, official.kernelised(RELU), False),
    "performer-softmax": ("performer", {"features": 7}, official.kernelised(SOFTMAX), False),
}


def ours(name, options, params, length, cls, learned=False, pair=False):
    factory = mixer_factory(name, options, heads=HEADS, qkv=DIM, layers=LAYERS)
    model = Encoder(
        factory, vocab=VOCAB, classes=CLASSES, length=length, dim=DIM, layers=LAYERS, mlp=MLP, rate=0.0,
        pool="cls" if cls else "mean", positions="learned" if learned else "sinusoidal", pair=pair, rngs=nnx.Rngs(0),
    )  # fmt: skip
    convert(params, model)
    for block in model.blocks:
        if name == "bigbird":
            block.mixer.draws[...] = jnp.asarray(draws_of(random_blocks()), jnp.float32)
        if name == "performer" and block.mixer.directions is not None:
            block.mixer.directions[...] = jnp.asarray(directions(), jnp.float32)
    return model


@pytest.mark.parametrize("head", ["cls", "mean", "pair"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_official_ones(case, head):
    name, options, attend, masks = CASES[case]
    cls, pair, learned = head != "mean", head == "pair", head == "mean"
    length = BLOCKS * BLOCK - 1 - cls
    params = official.draw(
        name, vocab=VOCAB, classes=CLASSES, length=length, dim=DIM, heads=HEADS, mlp=MLP, layers=LAYERS, cls=cls,
        learned=learned, pair=pair,
    )  # fmt: skip
    # The mean there is over padding as well, and some models do not mask it.
    tokens = documents(pair, length, 11 if masks and cls else length)
    model = ours(name, options, params, length, cls, learned, pair)
    got = jit(lambda tokens: model(tokens, tokens > 0))(tokens)
    want = official.logits(params, tokens, attend)
    assert np.ptp(want, axis=0).max() > 0.02  # logits do depend on the document
    assert error(got, want) < 1e-5


def test_local_attention_is_the_official_one_on_positions_in_another_order():
    """There, a block is every position with the same remainder; here, the positions in a row."""
    block, blocks = 5, 3
    length = blocks * (block - 1)  # filled up by one position per block
    params = official.draw(
        "local", vocab=VOCAB, classes=CLASSES, length=length, dim=DIM, heads=HEADS, mlp=MLP, layers=LAYERS, cls=False,
        learned=True,
    )  # fmt: skip
    tokens = documents(False, length, length)
    want = official.logits(params, tokens, official.strided(block))
    order = np.argsort(np.arange(length) % blocks, kind="stable")
    positions = params["posembed_input"]["pos_embedding"][:, order]
    params |= {"posembed_input": {"pos_embedding": positions}}
    model = ours("local", {"block": block - 1}, params, length, cls=False, learned=True)
    assert error(jit(lambda tokens: model(tokens, tokens > 0))(tokens[..., order]), want) < 1e-5
