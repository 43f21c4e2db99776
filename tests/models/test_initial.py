"""What every parameter starts from, against the distributions of the code that each protocol comes from."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest
from flax import nnx

from configs import PROTOCOLS
from lra.train.worker import build
from models.core.encoder import Encoder
from models.core.initial import InitialRngs, Linear, head_kernels, init_of, over_positions

VOCAB, LENGTH = 300, 120


def uniform(bound):
    return bound**2 / 3, bound, 0.99 * bound


def normal(std):
    """Within 6 and beyond 2.5 standard deviations."""
    return std**2, 6 * std, 2.5 * std


def truncated(std):
    """Cut at 2 standard deviations of the normal law, which is scaled so that `std` remains."""
    most = 2 * std / 0.87962566103423978
    return std**2, most, 0.95 * most


def always(value):
    return value, None, None


def xavier(inputs, outputs):
    return uniform(math.sqrt(6 / (inputs + outputs)))


def rules(e, length):
    """Pattern of a parameter's name → its law under `lra`, by the official code of common_layers.py and the mixers."""
    seen, d = length + 1, e.dim
    return {
        "embedding/embedding": normal(1),
        "cls": always(0),
        "positions": normal(0.02),
        r".*norm(_mixer|_mlp)?/scale": always(1),
        r".*norm(_mixer|_mlp)?/bias": always(0),
        r"blocks/0/mlp/(into|out)/kernel": xavier(d, e.mlp),
        r"blocks/0/mlp/(into|out)/bias": normal(1e-6),
        r"blocks/0/mixer/(projections/)?(query|key|value|out)/kernel": xavier(d, e.qkv),
        "blocks/0/mixer/shortening": xavier(seen, 16),
        # Flax counts the heads among the inputs and the outputs of [H, L, L].
        "blocks/0/mixer/random": xavier(e.heads * seen, e.heads * seen),
        "head/0/kernel": truncated((2 * d) ** -0.5),
        "head/1/kernel": truncated(e.mlp**-0.5),
        "classifier/kernel": truncated((e.mlp // 2) ** -0.5),
        r"(head/\d|classifier)/bias": always(0),
    }


def torch_rules(e, length):
    """The same under `small`: torch.nn.Linear draws kernels and biases from U(±1/√inputs)."""
    d, pair = e.dim, 4
    return {
        r"embedding/embedding|positions": normal(0.02),
        r".*norm(_mixer|_mlp)?/scale": always(1),
        r".*norm(_mixer|_mlp)?/bias": always(0),
        r"blocks/0/mlp/into/(kernel|bias)": uniform(d**-0.5),
        r"blocks/0/mlp/out/(kernel|bias)": uniform(e.mlp**-0.5),
        r"blocks/0/mixer/(projections/)?(query|key|value)/kernel": uniform(d**-0.5),
        r"blocks/0/mixer/(projections/)?out/kernel": uniform(e.qkv**-0.5),
        "blocks/0/mixer/filters": uniform(35**-0.5),
        r"head/0/(kernel|bias)": uniform((pair * d) ** -0.5),
        r"head/1/(kernel|bias)": uniform(e.mlp**-0.5),
        r"classifier/(kernel|bias)": uniform((e.mlp // 2) ** -0.5),
    }


def parameters(model):
    """Name → values."""
    paths, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(p, np.float64) for path, p in paths}


def assert_follows(values, law):
    variance, most, reached = law
    if most is None:
        assert (values == variance).all()
        return
    assert np.abs(values).max() <= most * (1 + 1e-6)
    assert abs(np.square(values).mean() / variance - 1) < 6 * math.sqrt(2 / values.size)
    assert abs(values.mean()) < 6 * math.sqrt(variance / values.size)
    if values.size > 2_000:
        assert np.abs(values).max() > reached


def built(protocol, mixer, **shape):
    recipe = PROTOCOLS[protocol].recipe("retrieval", mixer)
    recipe = dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, layers=1, **shape))
    return build(mixer, recipe, VOCAB, 2, True, LENGTH, 0), recipe.encoder


def assert_all_follow(model, laws):
    for name, values in parameters(model).items():
        fitting = [law for pattern, law in laws.items() if re.fullmatch(pattern, name)]
        assert len(fitting) == 1, name
        assert_follows(values, fitting[0])


@pytest.mark.parametrize("mixer", ["transformer", "synthesizer", "linformer", "performer", "bigbird"])
def test_lra_starts_as_the_official_code_does(mixer):
    model, encoder = built("lra", mixer, positions="learned" if mixer == "bigbird" else "sinusoidal")
    assert_all_follow(model, rules(encoder, LENGTH))


@pytest.mark.parametrize("mixer", ["transformer", "nystromformer"])
def test_small_starts_as_pytorch_does(mixer):
    model, encoder = built("small", mixer)
    assert_all_follow(model, torch_rules(encoder, LENGTH))


@pytest.mark.parametrize("protocol", ["lra", "lra_paper"])
def test_protocols_of_the_official_code_ask_for_its_distributions(protocol):
    for task in PROTOCOLS[protocol].tasks:
        assert PROTOCOLS[protocol].recipe(task, "transformer").encoder.init == "xavier"
    assert PROTOCOLS["quick"].recipe("listops_short", "transformer").encoder.init == "lecun"


def test_matrices_of_mixers():
    """A head's linear map counts its own inputs and outputs; without a wish, the mixer's own law."""
    key = jax.random.key(0)
    draws = {init: (lambda init=init: InitialRngs(key, init)) for init in ("xavier", "torch")} | {
        "": lambda: nnx.Rngs(0)
    }
    for init, law in (("xavier", xavier(80, 40)), ("torch", uniform(80**-0.5)), ("", normal(80**-0.5))):
        assert_follows(np.asarray(head_kernels(draws[init](), (3, 80, 40)), np.float64), law)
    for init, law in (("xavier", xavier(3 * 80, 3 * 40)), ("torch", normal(0.5)), ("", normal(0.5))):
        assert_follows(np.asarray(over_positions(draws[init](), (3, 80, 40), 0.5), np.float64), law)


class Foreign(nnx.Module):
    """A mixer that knows nothing of initial distributions in one map, and asks for them in the other."""

    def __init__(self, dim, rngs):
        self.plain, self.asking = nnx.Linear(dim, dim, rngs=rngs), Linear(dim, dim, rngs=rngs)
        self.asked = init_of(rngs)

    def __call__(self, x, mask, rngs=None):
        return x


def test_a_foreign_mixer_follows_if_it_asks():
    def make(init):
        return Encoder(
            lambda layer, dim, length, rngs: Foreign(dim, rngs), vocab=9, classes=3, length=5, dim=64, layers=1, mlp=8,
            init=init, rngs=nnx.Rngs(0),
        ).blocks[0].mixer  # fmt: skip

    official, flax = make("xavier"), make("lecun")
    assert (official.asked, flax.asked) == ("xavier", "lecun")
    assert_follows(np.asarray(official.plain.kernel[...], np.float64), truncated(64**-0.5))
    assert_follows(np.asarray(official.asking.kernel[...], np.float64), xavier(64, 64))
    assert_follows(np.asarray(flax.asking.kernel[...], np.float64), truncated(64**-0.5))


@pytest.mark.parametrize("pixels", [None, (0.5, 0.5)])
def test_mega_starts_as_its_authors_code_does(pixels):
    """Embedding.reset_parameters, RealNumberEmbedding, NormalizedFeedForwardNetwork and LRAModel's Linear."""
    dim, mlp = 96, 160
    model = Encoder(
        lambda layer, dim, length, rngs: Foreign(dim, rngs), vocab=VOCAB, classes=30, length=LENGTH, dim=dim, layers=1,
        mlp=mlp, init="mega", input="linear" if pixels else "embedding", pixels=pixels, positions="none", pool="mean",
        block="silu_mlp", head="gelu_mlp", pair=True, rngs=nnx.Rngs(0),
    )  # fmt: skip
    laws = {
        "embedding/embedding": normal(dim**-0.5),
        "input/kernel": normal(1),
        "input/bias": normal(0.1),
        r".*norm(_mixer|_mlp)?/scale": always(1),
        r".*norm(_mixer|_mlp)?/bias": always(0),
        r"blocks/0/mlp/(into|out)/kernel": normal(0.02),
        r"blocks/0/mlp/(into|out)/bias": always(0),
        r"blocks/0/mixer/(plain|asking)/kernel": truncated(dim**-0.5),
        r"blocks/0/mixer/(plain|asking)/bias": always(0),
        "head/0/kernel": xavier(2 * dim, mlp),
        "head/0/bias": always(0),
        "classifier/kernel": xavier(mlp, 30),
    }
    assert_all_follow(model, laws)
