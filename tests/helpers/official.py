"""Models of the official benchmark, written from their equations in NumPy, float64; nothing of `models/` is used.

Parameters are in the tree of google-research/long-range-arena (Flax's old `nn`, which numbers the unnamed parts of a
module), so that what `convert` does would do for weights trained there.

Shapes: B documents, L positions (with CLS), D model width, H heads of width K.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]
Attend = Callable[[Tree, Array, Array], Array]
"""(parameters of the attention, x [B, L, D], real [B, L]) → [B, L, D]."""

ATTENTION = {
    "transformer": "MultiHeadDotProductAttention_1", "performer": "MultiHeadDotProductAttention_1",
    "local": "LocalAttention_1", "sparse": "SparseAttention_1", "longformer": "LongformerAttention_1",
    "bigbird": "BigBirdAttention_1", "linformer": "LinformerAttention_1", "linear_transformer": "LinearAttention_1",
    "synthesizer": "SynthesizerAttention_1",
}  # fmt: skip
"""Name of the attention in a block."""


def draw(
    model: str, *, vocab: int, classes: int, length: int, dim: int, heads: int, mlp: int, layers: int, cls: bool,
    learned: bool = False, pair: bool = False, rank: int = 16, seed: int = 0,
) -> Tree:  # fmt: skip
    """Draws all parameters of a model; no bias is zero and no scale one."""
    rng = np.random.default_rng(seed)
    width = dim // heads

    def normal(*shape: int, inputs: int = 1) -> Array:
        return rng.normal(size=shape) * inputs**-0.5

    def dense(inputs: int, outputs: int) -> Tree:
        return {"kernel": normal(inputs, outputs, inputs=inputs), "bias": normal(outputs, inputs=4)}

    def norm() -> Tree:
        return {"scale": 1 + normal(dim, inputs=9), "bias": normal(dim, inputs=9)}

    def attention() -> Tree:
        suffix = "_sliding_window" if model == "longformer" else ""
        names = [f"{name}{suffix}" for name in ("query", "key", "value")]
        names += ["query_global", "key_global", "value_global"] * bool(suffix)
        tree: Tree = {name: {"kernel": normal(dim, heads, width, inputs=dim)} for name in names}
        if model == "linformer":
            tree["lr_kernel"] = normal(length + cls, rank, inputs=length)
        if model == "synthesizer":
            tree["random"] = normal(heads, length + cls, length + cls)
        return tree | {"out": {"kernel": normal(heads, width, dim, inputs=dim)}}

    encoder: Tree = {"Embed_0": {"embedding": normal(vocab, dim)}, "encoder_norm": norm()}
    encoder |= {"cls": normal(1, 1, dim)} if cls else {}
    encoder |= {"posembed_input": {"pos_embedding": normal(1, length + cls, dim)}} if learned else {}
    for layer in range(layers):
        encoder[f"encoderblock_{layer}"] = {
            "LayerNorm_0": norm(), ATTENTION[model]: attention(), "LayerNorm_2": norm(),
            "MlpBlock_3": {"Dense_0": dense(dim, mlp), "Dense_1": dense(mlp, dim)},
        }  # fmt: skip
    if pair:
        return {
            "encoder": encoder, "mlp": dense(2 * dim, mlp), "mlp2": dense(mlp, mlp // 2),
            "logits": dense(mlp // 2, classes),
        }  # fmt: skip
    return encoder | {"mlp": dense(dim, mlp), "logits": dense(mlp, classes)}


def logits(params: Tree, tokens: Array, attend: Attend) -> Array:
    """Logits [B, classes] of token ids [B, P, L]; two documents go through one encoder."""
    if tokens.shape[1] == 1:
        x = encode(params, tokens[:, 0], attend)
    else:
        x = np.concatenate([encode(params["encoder"], tokens[:, i], attend) for i in (0, 1)], axis=1)
    for name in ("mlp", "mlp2"):
        if name in params:
            x = np.maximum(affine(params[name], x), 0)
    return affine(params["logits"], x)


def encode(params: Tree, tokens: Array, attend: Attend) -> Array:
    """Token ids [B, L] → [B, D]: the CLS position where there is one, else the mean over all positions."""
    x, real = params["Embed_0"]["embedding"][tokens], tokens > 0
    if "cls" in params:
        x = np.concatenate([np.repeat(params["cls"], len(x), axis=0), x], axis=1)
        real = np.concatenate([real[:, :1], real], axis=1)
    learned = params.get("posembed_input")
    x = x + (sinusoids(*x.shape[1:]) if learned is None else learned["pos_embedding"][:, : x.shape[1]])
    for name in sorted(name for name in params if name.startswith("encoderblock_")):
        block = params[name]
        (attention,) = (part for part in block if "Attention" in part)
        x = x + attend(block[attention], layer_norm(block["LayerNorm_0"], x), real)
        hidden = gelu(affine(block["MlpBlock_3"]["Dense_0"], layer_norm(block["LayerNorm_2"], x)))
        x = x + affine(block["MlpBlock_3"]["Dense_1"], hidden)
    x = layer_norm(params["encoder_norm"], x)
    return x[:, 0] if "cls" in params else x.mean(1)


def sinusoids(length: int, dim: int) -> Array:
    angle = np.arange(length)[:, None] * np.exp(np.arange(0, dim, 2) * (-math.log(10_000) / dim))
    table = np.zeros((length, dim))
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
    return table


def affine(layer: Tree, x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(layer: Tree, x: Array) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def project(p: Tree, x: Array, *names: str) -> list[Array]:
    """Heads [B, H, L, K] of the named projections."""
    return [np.einsum("bld,dhk->bhlk", x, p[name]["kernel"]) for name in names]


def join(p: Tree, y: Array) -> Array:
    return np.einsum("bhlk,hkd->bld", y, p["out"]["kernel"])


def pattern(allowed: Callable[[int], Array], names: tuple[str, str, str] = ("query", "key", "value")) -> Attend:
    """Softmax attention over the pairs that `allowed(L)`, [L, L] or [H, L, L], and the mask let through."""

    def attend(p: Tree, x: Array, real: Array) -> Array:
        q, k, v = project(p, x, *names)
        seen = allowed(x.shape[1]) & (real[:, :, None] & real[:, None, :])[:, None]
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        return join(p, softmax(scores + np.where(seen, 0, -1e10)) @ v)

    return attend


def everything(length: int) -> Array:
    return np.ones((length, length), bool)


def window(size: int) -> Attend:
    """Longformer without global positions: `size` positions, the query's own included; of an even one, more right."""

    def allowed(length: int) -> Array:
        offset = np.arange(length)[None, :] - np.arange(length)[:, None]
        return (offset > size // 2 - size) & (offset <= size // 2)

    return pattern(allowed, ("query_sliding_window", "key_sliding_window", "value_sliding_window"))


def strided(block: int) -> Attend:
    """Local attention as it is reshaped there: [L] to [block, L / block], and attention along the first axis.

    L is filled up to a multiple of `block`, by a whole block if it is one; those positions are left out here. (The
    official code does not: it sees zeros there.)
    """

    def allowed(length: int) -> Array:
        blocks = (length + block - length % block) // block
        group = np.arange(length) % blocks
        return group[:, None] == group[None, :]

    return pattern(allowed)


def fixed(block: int, c: int) -> Attend:
    """The two "fixed" patterns, here without the causal mask, and without the first column of each block."""

    def allowed(length: int) -> Array:
        i, j = np.arange(length)[:, None], np.arange(length)[None, :]
        return (i // block == j // block) | (j % block >= block - c)

    return pattern(allowed)


def bigbird(block: int, random: Array) -> Attend:
    """Blocks with the random ones given, [H, N, R]. L is filled up as in `strided`, and again left out here."""

    def allowed(length: int) -> Array:
        heads, blocks = random.shape[:2]
        sees = np.zeros((heads, blocks, blocks), bool)
        for i in range(blocks):
            for j in (0, blocks - 1, i - 1, i, i + 1):
                sees[:, i, min(max(j, 0), blocks - 1)] = True
            for h in range(heads):
                sees[h, i, random[h, i]] = True
        sees[:, [0, -1]] = True
        of = np.arange(length) // block
        return sees[:, of][:, :, of]

    return pattern(allowed)


def linformer(p: Tree, x: Array, real: Array) -> Array:
    q, k, v = project(p, x, "query", "key", "value")
    k, v = (np.einsum("bhlk,lr->bhrk", y, p["lr_kernel"][: x.shape[1]]) for y in (k, v))
    return join(p, softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])) @ v)


def random_and_dot(p: Tree, x: Array, real: Array) -> Array:
    """Synthesizer's default: the learned matrix is added to the scores of queries and keys."""
    q, k, v = project(p, x, "query", "key", "value")
    length = x.shape[1]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + p["random"][:, :length, :length]
    seen = (real[:, :, None] & real[:, None, :])[:, None]
    return join(p, softmax(scores + np.where(seen, 0, -1e10)) @ v)


def kernelised(features: Callable[[Array, bool], Array], small: float = 0.0) -> Attend:
    """Attention by features of queries (True) and keys (False); the mask is not used there. `small` is in the sum."""

    def attend(p: Tree, x: Array, real: Array) -> Array:
        q, k, v = project(p, x, "query", "key", "value")
        q, k = features(q, True), features(k, False)
        return join(p, q @ (k.swapaxes(-1, -2) @ v) / (q @ k.sum(-2)[..., None] + small))

    return attend


def elu_features(x: Array, query: bool) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def relu_features(directions: Array | None) -> Callable[[Array, bool], Array]:
    def features(x: Array, query: bool) -> Array:
        return np.maximum(x if directions is None else x @ directions.T, 0) + 1e-3

    return features


def softmax_features(directions: Array) -> Callable[[Array, bool], Array]:
    """Positive features, here without the 10⁻⁶ that the official code adds to each."""

    def features(x: Array, query: bool) -> Array:
        x = x * x.shape[-1] ** -0.25
        projected = x @ directions.T
        largest = projected.max(-1 if query else (-1, -2), keepdims=True)
        return np.exp(projected - (x**2).sum(-1, keepdims=True) / 2 - largest) * len(directions) ** -0.5

    return features
