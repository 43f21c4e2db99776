"""Programs for accelerators, lowered without one: every mixer, forwards and in a training step."""

import re
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs.quick import recipe
from models import MIXERS
from models.attention import transformer
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from models.core.layers import BatchRngs
from tests.helpers.mixing import on_a_gpu

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # JAX 0.11 and later

BATCH, LENGTH, DIM, HIDDEN = 2, 40, 64, 96
BACKEND = {"cuda": "gpu", "tpu": "tpu"}
"""By a platform that JAX lowers for, the name that `jax.default_backend()` has there."""
TRITON, FORWARD, BACKWARD = "__gpu$xla.gpu.triton", "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
KNOWN = {"cuda": {TRITON, FORWARD, BACKWARD}, "tpu": set()}
"""The custom calls that may be asked of a platform: each exists there."""
FUSED = {"transformer", "fnet_hybrid"}
"""Mixers whose attention is the fused kernel's on an NVIDIA GPU in bfloat16."""
MIXED = {
    "transformer_naive", "reformer", "sinkhorn", "linformer", "synthesizer", "linear_transformer", "performer",
    "nystromformer", "luna", "cosformer", "skyformer", "s4d", "s5", "lru",
    "hyena", "mamba", "mega", "mega_chunk", "deltanet", "gated_deltanet",
}  # fmt: skip
"""Mixers that have products in float32 too when they compute in bfloat16, at least going backwards."""
SINGLE = {"s5", "lru", "hyena"}
"""Those among them whose maps from the model's width, and back to it, are in float32: to and from their states; and
hyena, whose filters come from a network as wide."""
WIDTHS = f"{DIM}|{HIDDEN}"
MODEL = re.compile(rf"(({BATCH}x{LENGTH}|{WIDTHS})x({WIDTHS}))x([a-z]\w*)")
"""The type of the activations [B, L, ·] and of the weights of projections and the feed-forward."""


@pytest.fixture(params=BACKEND)
def platform(request, monkeypatch) -> str:
    """A platform to lower for. Models choose their kernels as if one of its devices were there: an H100 or a TPU."""
    backend = BACKEND[request.param]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(transformer, "capability", lambda: 9.0 if backend == "gpu" else 0.0)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: float(capability) <= 9)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: float(capability) == 9)
    return request.param


def lower(
    platform: str, model: str, dtype: str, dropout: float = 0.1, length: int = LENGTH, **options: Any
) -> list[str]:
    """The texts of a small encoder's inference and training step, lowered for a platform; nothing is compiled."""
    mixer = {**dict(recipe("text", model).mixer), **options}
    make = mixer_factory(model, mixer, heads=4, qkv=DIM, dropout=dropout, layers=1)
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
        # Pallas wants an abstract GPU; for cuDNN's calls, which may be partitioned, JAX 0.11 refuses such a device.
        with on_a_gpu() if platform == "cuda" and mixer.get("kernel") != "cudnn" else nullcontext():
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
        calls = custom_calls(text)
        assert calls <= KNOWN[platform]
        assert (TRITON in calls) == (platform == "cuda" and dtype == "bfloat16" and model in FUSED)
        assert not re.search(r"[<x]f64>", text)
        operands = products(text)
        if dtype == "float32":
            assert "bf16" not in text
        else:
            types = {found[4] for found in map(MODEL.fullmatch, operands) if found}
            assert types == ({"bf16", "f32"} if model in SINGLE else {"bf16"})
            assert model in MIXED or all(operand.endswith("xbf16") for operand in operands)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])
@pytest.mark.parametrize("model", sorted(FUSED))
def test_attention_is_the_fused_kernel_on_an_nvidia_gpu_in_16_bits(platform, model, length, dropout):
    """One kernel forwards, and in training two more; none in float32 or on a TPU."""
    for dtype in ("bfloat16", "float32"):
        texts = lower(platform, model, dtype, dropout, length)
        there = platform == "cuda" and dtype == "bfloat16"
        assert [text.count(f"@{TRITON}(") for text in texts] == ([1, 3] if there else [0, 0])
        assert all(custom_calls(text) == ({TRITON} if there else set()) for text in texts)


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])
@pytest.mark.parametrize("platform", ["cuda"], indirect=True)
def test_attention_is_cudnn_s_if_asked_for(platform, length):
    infer, train = lower(platform, "transformer", "bfloat16", 0.0, length, kernel="cudnn")
    assert custom_calls(infer) == {FORWARD}
    assert custom_calls(train) == {FORWARD, BACKWARD}


def test_fnet_is_transforms_or_products_as_suits_the_platform(platform):
    for text in lower(platform, "fnet", "float32"):
        assert ("stablehlo.fft" in text) == (platform == "cuda")
        assert (f"{LENGTH}x{LENGTH}xf32" in products(text)) == (platform == "tpu")
