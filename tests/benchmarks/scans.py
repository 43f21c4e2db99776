"""Times the ways to compute a linear recurrence on this machine, forwards and with gradients.

    python -m tests.benchmarks.scans --out=scans.jsonl --turns=turns     (a minute; one JSON line a measurement)

`a` is constant, as in S5 and LRU. Medians of seven runs, in ms; `models.core.linear_scan` has the result on an H200.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.train.turns import Turns
from models.core.linear_scan import Pair, linear_scan

SHAPES = ((32, 4_096, 64), (8, 16_384, 64), (32, 1_024, 64), (32, 4_096, 192))
"""Batch, length, states."""
METHODS = ("loop", "passes")


def milliseconds(turns: Turns, function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """(median run, compilation) of a jitted function."""
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compilation = time.perf_counter() - started
    runs = []
    with turns.measuring():
        jax.block_until_ready(compiled(*arguments))
        for _ in range(7):
            started = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            runs.append(time.perf_counter() - started)
    return 1e3 * median(runs), 1e3 * compilation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes, from the first on")
    parser.add_argument("--turns", type=Path, required=True, help="folder by which processes take turns to measure")
    args = parser.parse_args()
    turns = Turns(args.turns)
    rng = np.random.default_rng(0)
    for shape, method in itertools.product(SHAPES[: args.shapes], args.methods.split(",")):
        pair = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2)]
        angle = rng.uniform(0, np.pi, shape[-1])
        a = jnp.asarray(0.99 * np.cos(angle), jnp.float32), jnp.asarray(0.99 * np.sin(angle), jnp.float32)

        def forward(a: Pair, b: Pair, method: Any = method) -> Pair:
            return linear_scan(a, b, method=method)

        def loss(a: Pair, b: Pair, forward: Callable[..., Pair] = forward) -> jax.Array:
            re, im = forward(a, b)
            return jnp.square(re).sum() + jnp.square(im).sum()

        b = (pair[0], pair[1])
        took, compiling = milliseconds(turns, forward, a, b)
        both, compiling_both = milliseconds(turns, jax.grad(loss, (0, 1)), a, b)
        line = {"shape": shape, "method": method, "forward_ms": took, "with_gradients_ms": both}
        line |= {"compile_ms": compiling, "compile_with_gradients_ms": compiling_both}
        line["device"] = jax.devices()[0].device_kind
        print(json.dumps(line), flush=True)
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
