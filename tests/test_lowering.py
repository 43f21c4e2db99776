"""What an accelerator would be given, lowered without one: every mixer, forwards and in a training step."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs.quick import recipe
from models import MIXERS, attention
from models.build import mixer_factory
from models.encoder import Encoder
from models.layers import BatchRngs

BATCH, LENGTH, DIM, HIDDEN = 2, 40, 64, 96
BACKEND = {"cuda": "gpu", "tpu": "tpu"}
"""By a platform that JAX lowers for, the name that `jax.default_backend()` has there."""
FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
KNOWN = {"cuda": {FORWARD, BACKWARD}, "tpu": set()}
"""The custom calls that may be asked of a platform: each exists there."""
MIXED = {
    "transformer_naive", "reformer", "sinkhorn", "linformer", "synthesizer", "linear_transformer", "performer",
    "nystromformer", "luna", "cosformer", "skyformer",
}  # fmt: skip
"""Mixers that have products in float32 too when they compute in bfloat16, at least going backwards."""
WIDTHS = f"{DIM}|{HIDDEN}"
MODEL = re.compile(rf"(({BATCH}x{LENGTH}|{WIDTHS})x({WIDTHS}))x(\w+)")
"""The type of the activations [B, L, ·] and of the weights of projections and the feed-forward."""


@pytest.fixture(params=BACKEND)
def platform(request, monkeypatch) -> str:
    """A platform to lower for. Models choose their kernels as if one of its devices were there: an H100 or a TPU."""
    backend = BACKEND[request.param]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(attention, "capability", lambda: 9.0 if backend == "gpu" else 0.0)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: float(capability) <= 9)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: float(capability) == 9)
    return request.param


def lower(platform: str, model: str, dtype: str, dropout: float = 0.1, length: int = LENGTH) -> list[str]:
    """The texts of a small encoder's inference and training step, lowered for a platform; nothing is compiled."""
    options = dict(recipe("text", model).mixer)
    make = mixer_factory(model, options, heads=4, qkv=DIM, dropout=dropout, layers=1)
    shape = {"vocab": 260, "classes": 2, "length": length - 1, "dim": DIM, "layers": 1, "mlp": HIDDEN}
    module = nnx.eval_shape(lambda: Encoder(make, **shape, rate=dropout, rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def infer(params, rest, tokens, rngs=None):
        cast = jax.tree.map(lambda p: p.astype(dtype), params)
        return nnx.merge(graph, cast, rest)(tokens, tokens > 0, rngs)

    def train(params, rest, tokens, labels, seed):
        def loss(params):
            logits = infer(params, rest, tokens, BatchRngs(jax.random.key(seed)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(params)

    given = (params, rest, jax.ShapeDtypeStruct((BATCH, 1, length - 1), jnp.int32))
    labels, seed = jax.ShapeDtypeStruct((BATCH,), jnp.int32), jax.ShapeDtypeStruct((), jnp.uint32)
    texts = []
    for function, arguments in ((infer, given), (train, (*given, labels, seed))):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
        assert {leaf.dtype for leaf in jax.tree.leaves(lowered.out_info)} == {jnp.dtype("float32")}
        texts.append(lowered.as_text())
    return texts


def custom_calls(text: str) -> set[str]:
    found = re.findall(r"stablehlo\.custom_call @([\w$.]+)\(", text)
    assert len(found) == text.count("custom_call @") and "stablehlo.custom_call(" not in text
    return set(found)


def products(text: str) -> list[str]:
    """The types of the operands of all matrix products: '2x40x64xbf16'."""
    found = re.findall(r"stablehlo\.dot_general .*? : \(tensor<([^>]*)>, tensor<([^>]*)>\)", text)
    assert found and len(found) == text.count("stablehlo.dot_general ")
    return [operand for pair in found for operand in pair]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MIXERS)
def test_lowers_to_what_the_platform_has(platform, model, dtype):
    """Known custom calls, no float64, and products in the type that activations are to have."""
    for text in lower(platform, model, dtype):
        assert custom_calls(text) <= KNOWN[platform]
        assert not re.search(r"[<x]f64>", text)
        operands = products(text)
        if dtype == "float32":
            assert "bf16" not in text
        else:
            assert {found[4] for found in map(MODEL.fullmatch, operands) if found} == {"bf16"}
            assert model in MIXED or all(operand.endswith("xbf16") for operand in operands)


@pytest.mark.parametrize(("model", "length"), [("transformer", LENGTH), ("transformer", 41), ("fnet_hybrid", LENGTH)])
def test_attention_is_cudnn_s_on_an_nvidia_gpu_unless_weights_are_dropped(platform, model, length):
    infer, train = lower(platform, model, "bfloat16", length=length)
    _, undropped = lower(platform, model, "bfloat16", dropout=0.0, length=length)
    there = platform == "cuda"
    assert custom_calls(infer) == ({FORWARD} if there else set())
    assert FORWARD not in custom_calls(train)
    assert custom_calls(undropped) >= ({FORWARD, BACKWARD} if there else set())
    assert all(FORWARD not in custom_calls(text) for text in lower(platform, model, "float32", dropout=0.0))


def test_fnet_is_transforms_or_products_as_suits_the_platform(platform):
    for text in lower(platform, "fnet", "float32"):
        assert ("stablehlo.fft" in text) == (platform == "cuda")
        assert (f"{LENGTH}x{LENGTH}xf32" in products(text)) == (platform == "tpu")
