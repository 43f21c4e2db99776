"""Full softmax attention, the vanilla Transformer's mixer, in memory linear in L."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.block_attention import from_blocks, mask_to_blocks, seed_blocks, to_blocks
from models.core.flash_attention import (
    Fixed,
    attend_tiles,
    cpu_rows,
    draw_dropout_seeds,
    dropout_mask,
    is_single_tile,
)
from models.core.fused_attention import applies as fused_applies
from models.core.fused_attention import attend_fused
from models.core.layers import MASKED, MultiHead

Kernel = Literal["auto", "blocks", "cudnn", "fused"]


class Attention(MultiHead):
    """Attention Is All You Need. Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.2.

        out = concat_h(softmax(Q_h K_hᵀ / √K) V_h) W_O

    Time L²; memory L, in training too: no L×L array is held, the backward pass recomputes the weights and the
    dropout mask (`core.flash_attention`). On an NVIDIA GPU a fused kernel does the same where it can
    (`choose_kernel`).
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rotary: bool = False,
        kernel: Kernel = "auto",
        rngs: nnx.Rngs,
    ):
        if kernel not in ("auto", *KERNELS):
            raise ValueError(f"kernel must be auto, {' or '.join(KERNELS)}, not {kernel!r}")
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.kernel: Kernel = kernel

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.project(x)
        kernel: str = self.kernel
        dropping = rngs is not None and self.rate > 0
        setting = jax.default_backend(), capability(), q.dtype, q.shape[-1], dropping
        if kernel == "auto":
            kernel = choose_kernel(*setting)
        elif not KERNELS[kernel].applies(*setting):
            raise ValueError(
                f"kernel={kernel} does not apply to {q.dtype} heads of width {q.shape[-1]} on {setting[0]}"
                + " with attention dropout" * dropping
            )
        _used_kernels.add(kernel)
        return self.join(KERNELS[kernel].attend(q, k, v, mask, self.rate, rngs))


class NaiveAttention(MultiHead):
    """Attention Is All You Need. Vaswani et al. 2017, arXiv:1706.03762, with its L×L weights materialised.

    Time and memory L²: the baseline of papers on efficient Transformers.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rotary: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.join(attend_naive(*self.project(x), mask, self.rate, rngs))


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """Computes softmax(q kᵀ / √K) v over the keys that `mask` allows, tile by tile.

    Args:
        q: [B, L, H, K].
        k: [B, M, H, K]; v likewise.
        mask: bool [B, M] (or [B, M, H]), False at padding. A query without any key gets zeros.
        rate: dropout of the attention weights, applied when `rngs` is given.
        rngs: random keys; None in evaluation.

    Returns:
        [B, L, H, K].
    """
    return from_blocks(attend_with_lse(q, k, v, mask, rate, rngs)[0], q.shape[2], q.shape[1])


def attend_with_lse(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> tuple[jax.Array, jax.Array]:
    """`attend`, returned in blocks: o [B·H, N, b, K] and the logarithm of its softmax's denominator [B·H, N, b]."""
    batch, length, heads, _ = q.shape
    rows = tile_rows(jax.default_backend(), batch * heads, length, k.shape[1])
    dropout_seeds = draw_dropout_seeds(q.shape[:3], k.shape[:3], rate, rngs)
    if dropout_seeds is not None:
        dropout_seeds = seed_blocks(dropout_seeds[0], rows), seed_blocks(dropout_seeds[1], k.shape[1])
    q, k, v = to_blocks(q, rows), to_blocks(k, k.shape[1]), to_blocks(v, v.shape[1])
    return attend_tiles(q, k, v, Fixed(mask_to_blocks(mask, mask.shape[1], heads), dropout_seeds=dropout_seeds), rate)


def attend_naive(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """`attend` with all weights [B, H, L, M] at once."""
    scores = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores, MASKED)
    weights = jax.nn.softmax(scores) * mask.any(1)[:, None, None, None].astype(jnp.float32)
    dropout_seeds = draw_dropout_seeds(q.shape[:3], k.shape[:3], rate, rngs)
    if dropout_seeds is not None:
        kept = dropout_mask(dropout_seeds[0].swapaxes(1, 2), dropout_seeds[1].swapaxes(1, 2), rate)
        weights = jnp.where(kept, weights / (1 - rate), 0)
    return jnp.einsum("bhlm,bmhk->blhk", weights.astype(v.dtype), v)


def attend_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """`attend` without dropout, by cuDNN's fused kernel (bfloat16 or float16).

    The kernel takes no mask over keys (only an L×L bias), but a number of keys per example: so real keys are moved
    to the front, which changes no result of attention. Nor does it differentiate an odd number of positions, so one
    that no query sees is appended.
    """
    length = q.shape[1]
    if length % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        mask = jnp.pad(mask, ((0, 0), (0, 1)))
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :, None, None]
    k, v = jnp.take_along_axis(k, order, axis=1), jnp.take_along_axis(v, order, axis=1)
    real = mask.sum(1, dtype=jnp.int32)
    o = jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=jnp.maximum(real, 1), implementation="cudnn")
    o = o[:, :length]
    return jnp.where((real > 0)[:, None, None, None], o, jnp.zeros((), o.dtype))


class AttentionKernel(NamedTuple):
    """An implementation of `attend`."""

    attend: Callable[..., jax.Array]
    applies: Callable[[str, float, Any, int, bool], bool]
    """(backend, compute capability, type, head width, whether weights are dropped) → whether it can run."""


def cudnn_applies(backend: str, capability: float, dtype: Any, width: int, dropping: bool) -> bool:
    """Whether cuDNN's kernel can run: an NVIDIA GPU of compute capability 8.0 (Ampere) or later, 16-bit floats, a head
    width that is a multiple of 8 up to 128, and no dropout, whose seed JAX fixes when compiling."""
    fits = dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128
    return backend == "gpu" and capability >= 8 and fits and not dropping


KERNELS = {
    "fused": AttentionKernel(attend_fused, lambda *setting: fused_applies(*setting[:4]) and setting[2] != jnp.float32),
    "cudnn": AttentionKernel(attend_cudnn, cudnn_applies),
    "blocks": AttentionKernel(attend, lambda *setting: True),
}
"""The kernels by name, in order of preference.

On an H200 at the ListOps shape (32 × 8 heads of 64, 2,001 tokens, bfloat16, dropout) `fused` takes 4.6 ms for both
passes and `blocks` 29.6; in float32 `fused` multiplies exactly, without tensor cores, and is the slower of the two.
"""


_used_kernels: set[str] = set()


def used_kernels() -> list[str]:
    """Names of the kernels that `Attention` has been traced with in this process, sorted."""
    return sorted(_used_kernels)


def fallback_notice(backend: str, capability: float) -> str:
    """Returns a line for the record if a GPU has a fused kernel that attention did not use; else an empty string."""
    if "blocks" in _used_kernels and fused_applies(backend, capability, jnp.bfloat16, 64):
        return "attention ran in tiles of plain XLA: the fused kernel takes 16-bit floats and heads of up to 128"
    return ""


def choose_kernel(backend: str, capability: float, dtype: Any, width: int, dropping: bool) -> str:
    """Returns the first of `KERNELS` that applies; arguments as in `AttentionKernel.applies`."""
    setting = backend, capability, dtype, width, dropping
    return next(name for name, kernel in KERNELS.items() if kernel.applies(*setting))


def capability() -> float:
    """Compute capability of the first device if it is an NVIDIA GPU, else 0."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return 0.0
    return float(device.compute_capability)


def tile_rows(backend: str, problems: int, length: int, keys: int) -> int:
    """Chooses the rows of a tile: on a CPU all, or by `cpu_rows`; on accelerators up to 256 MB of scores.

    Args:
        backend: JAX's name of the platform.
        problems: batch × heads.
        length: number of queries.
        keys: number of keys.
    """
    if is_single_tile(backend, problems * length * keys):
        return length
    if backend == "cpu":
        return cpu_rows(length, keys)
    return min(length, 1024, max(64, 2**26 // (problems * keys) // 64 * 64))
