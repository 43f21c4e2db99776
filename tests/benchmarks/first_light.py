"""Whether the mixers and the attention kernels compute on an accelerator what they compute on a CPU in float32.

    python -m tests.benchmarks.first_light mixers --names=transformer,fnet --out=mixers.jsonl --turns=turns
    python -m tests.benchmarks.first_light kernels --out=kernels.jsonl --turns=turns

One JSON line a comparison: ‖got − reference‖ / ‖reference‖ of logits and of all gradients, dropout included (its
masks are a hash that every platform computes alike). `ok` is false above the tolerance and where there is a NaN.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lra.train import groups
from lra.train.turns import Turns
from models.attention.transformer import KERNELS, attend_naive, capability
from models.core import fused_attention
from models.core.encoder import Encoder
from models.core.factory import mixer_factory

Tree = Any
Tell = Callable[[dict[str, Any]], None]
Ready = tuple[dict[str, Any], dict[str, Any], Any]
"""A kernel's facts, its compiled passes, and their arguments."""
CASES = (("float32", True, 1e-3), ("bfloat16", True, 0.15), ("bfloat16", False, 0.15))
"""Type, dropout, largest relative error of logits and of gradients through two layers. Products of float32 are exact
ones, not TF32. Without dropout attention may be another kernel."""
SHAPES = {"narrow": (64, 8, 1_025, 8), "listops": (32, 8, 2_001, 64), "long": (4, 4, 8_001, 64)}
"""Batch, heads, length and width of attention: two of the benchmark's models, and a long one."""
TILES = ((64, 64, 4), (128, 64, 4), (128, 64, 8), (64, 128, 4), (64, 32, 4), (128, 128, 8), (32, 64, 4))
"""Queries and keys a tile and warps, to be tried."""


def mixers(names: list[str], toy: bool, tell: Tell) -> None:
    """Compares an encoder of two layers around each mixer."""
    length, batch = (70, 2) if toy else (600, 4)
    for name in names:
        try:
            for line in _mixer(name, length, batch):
                tell({"check": "mixer", "name": name, **line})
        except Exception as error:
            tell({"check": "mixer", "name": name, "ok": False, "error": f"{type(error).__name__}: {error}"[:500]})


def _mixer(name: str, length: int, batch: int) -> Iterator[dict[str, Any]]:
    make = mixer_factory(name, {}, heads=4, qkv=128, dropout=0.1, layers=2)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 257, (batch, 1, length), dtype=np.int32)
    mask = np.arange(length) < np.array([length, length * 2 // 3] * (batch // 2))[:, None, None]
    inputs, labels = (np.where(mask, tokens, 0), mask), rng.integers(0, 2, batch, dtype=np.int32)
    with _as_cpu():
        model = Encoder(
            make, vocab=257, classes=2, length=length, dim=128, layers=2, mlp=256, pool="mean", rngs=nnx.Rngs(0)
        )
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        params, rest = jax.device_get((params, rest))

    def run(params: Tree, rest: Tree, dtype: Any, dropping: bool) -> tuple[Tree, Tree]:
        def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            cast = groups.cast(params, dtype)
            logits = nnx.merge(graph, cast, rest)(*map(jnp.asarray, inputs), nnx.Rngs(dropout=1) if dropping else None)
            return -jax.nn.log_softmax(logits)[jnp.arange(batch), labels].mean(), logits

        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, gradient

    def compute(dtype: Any, dropping: bool) -> tuple[Tree, float]:
        started = time.perf_counter()
        compiled = jax.jit(run, static_argnums=(2, 3)).lower(params, rest, dtype, dropping).compile()
        return jax.device_get(compiled(params, rest)), time.perf_counter() - started

    cases = CASES if "transformer" in name else [case for case in CASES if case[1]]
    want = {}
    for dropping in {case[1] for case in cases}:
        with _as_cpu():
            want[dropping] = compute(jnp.float32, dropping)[0]
    for kind, dropping, tolerance in cases:
        with jax.default_matmul_precision("highest"):
            got, took = compute(jnp.dtype(kind), dropping)
        errors = {n: distance(a, b) for n, a, b in zip(("logits", "gradient"), got, want[dropping], strict=True)}
        ok = all(error <= tolerance for error in errors.values())
        yield {"type": kind, "dropout": dropping, **errors, "tolerance": tolerance, "ok": ok, "seconds": took}


@contextlib.contextmanager
def _as_cpu() -> Iterator[None]:
    """Computes on the CPU, with the kernels that the suite takes there."""
    with jax.default_device(jax.devices("cpu")[0]), mock.patch.object(jax, "default_backend", lambda: "cpu"):
        yield


def distance(got: Tree, want: Tree) -> float:
    """‖got − want‖ / ‖want‖ over all arrays of a tree, in float64; infinite where a number is not finite."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    ones, others = zip(*((np.asarray(g, np.float64), np.asarray(w, np.float64)) for g, w in pairs), strict=True)
    away = sum(np.square(g - w).sum() for g, w in zip(ones, others, strict=True)) ** 0.5
    return float(away / sum(np.square(w).sum() for w in others) ** 0.5) if np.isfinite(away) else float("inf")


def kernels(
    shape: tuple[int, ...], dtype: Any, tiles: Sequence[tuple[int, int, int]], turns: Turns, tell: Tell
) -> None:
    """Compares and times the attention kernels, each with a key mask and with and without dropout.

    With `tiles` the fused kernel alone, with each of these.
    """
    with turns.preparing():
        ready = list(
            _tiled(shape, dtype, tiles, tell) if tiles else _ready(("naive", *KERNELS), (0.0, 0.1), shape, dtype, tell)
        )
    with turns.measuring():
        for line, compiled, arrays in ready:
            try:
                line |= {f"{what}_seconds": seconds(c, arrays) for what, c in compiled.items()}
            except Exception as error:
                line |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
            tell(line)


def _tiled(shape: tuple[int, ...], dtype: Any, tiles: Sequence[tuple[int, int, int]], tell: Tell) -> Iterator[Ready]:
    for tile in tiles:
        with mock.patch.object(
            fused_attention, "tile_sizes", lambda width, dtype, tile=tile: fused_attention.Blocks(*tile)
        ):
            for line, *rest in _ready(("fused",), (0.1,), shape, dtype, tell):
                yield line | {"tile": tile}, *rest  # type: ignore[misc]


def _ready(
    names: Sequence[str], rates: Sequence[float], shape: tuple[int, ...], dtype: Any, tell: Tell
) -> Iterator[Ready]:
    """Facts of each kernel that applies, its compiled passes and their arguments; failures are reported."""
    given, backend, able = _arrays(*shape, dtype), jax.default_backend(), capability()
    some = _arrays(2, shape[1], min(shape[2], 515), shape[3], dtype)
    with jax.default_matmul_precision("highest"):
        exact = [a if a.dtype == bool else a.astype(jnp.float32) for a in some]
        want = {rate: jax.device_get(jax.jit(_passes(attend_naive, rate)[1])(*exact)) for rate in rates}
    for name, rate in ((name, rate) for name in names for rate in rates):
        line = {"check": "kernel", "name": name, "rate": rate, "type": jnp.dtype(dtype).name, "shape": list(shape)}
        try:
            if name == "naive":
                attend = attend_naive
            elif KERNELS[name].applies(backend, able, dtype, shape[-1], rate > 0):
                attend = KERNELS[name].attend
            else:
                continue
            forward, both = _passes(attend, rate)
            compiled = {
                "forward": jax.jit(forward).lower(*given).compile(),
                "both": jax.jit(both).lower(*given).compile(),
            }
            yield line | _errors(jax.device_get(jax.jit(both)(*some)), want[rate], dtype), compiled, given
        except Exception as error:
            tell(line | {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]})


def _arrays(batch: int, heads: int, length: int, width: int, dtype: Any) -> Any:
    """q, k, v, a mask with ends of several lengths, and the gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, g = (jax.random.normal(key, (batch, length, heads, width), dtype) for key in keys)
    ends = length - jnp.arange(batch) * (length // (2 * batch))
    return q, k, v, jnp.arange(length)[None] < ends[:, None], g


def _passes(attend: Any, rate: float) -> tuple[Any, Any]:
    """The forward pass, and both passes: output and gradients of q, k and v."""

    def forward(q: Any, k: Any, v: Any, mask: Any, g: Any) -> Any:
        return attend(q, k, v, mask, rate, nnx.Rngs(dropout=3) if rate else None)

    def both(q: Any, k: Any, v: Any, mask: Any, g: Any) -> Any:
        out, back = jax.vjp(lambda q, k, v: forward(q, k, v, mask, g), q, k, v)
        return out, *back(g)

    return forward, both


def _errors(got: Any, want: Any, dtype: Any) -> dict[str, Any]:
    """How far a kernel is from the dense equation in float32, on the same numbers."""
    errors = {name: distance(a, b) for name, a, b in zip(("out", "dq", "dk", "dv"), got, want, strict=True)}
    tolerance = 2e-2 if dtype == jnp.bfloat16 else 5e-3
    return {**errors, "tolerance": tolerance, "ok": all(error <= tolerance for error in errors.values())}


def seconds(compiled: Any, arrays: Any, repeats: int = 5) -> float:
    """Median time of a call, after two that warm up."""
    took = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        took.append(time.perf_counter() - started)
    return median(took[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mixers", "kernels", "tiles"])
    parser.add_argument("--names", default="", help="mixers, with commas")
    parser.add_argument("--shape", choices=[*SHAPES], default="listops", help="of attention")
    parser.add_argument("--type", choices=["float32", "bfloat16"], default="bfloat16", help="of attention")
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--turns", type=Path, required=True, help="folder by which processes take turns to measure")
    parser.add_argument("--toy", action="store_true", help="small shapes, to try the program on a CPU")
    args = parser.parse_args()
    with open(args.out, "w") as file:

        def tell(line: dict[str, Any]) -> None:
            print(json.dumps(line), file=file, flush=True)

        turns = Turns(args.turns)
        if args.what == "mixers":
            with turns.preparing():
                mixers(args.names.split(","), args.toy, tell)
        else:
            shape = (2, 2, 70, 16) if args.toy else SHAPES[args.shape]
            kernels(shape, jnp.dtype(args.type), TILES if args.what == "tiles" else (), turns, tell)


if __name__ == "__main__":
    main()
