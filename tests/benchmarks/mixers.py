"""How the mixers' time and memory grow with length, measured; writes docs/efficiency.md.

    python -m tests.benchmarks.mixers --out=docs/efficiency.md
    python -m tests.benchmarks.mixers --models=local --models=performer:features=64,kernel=softmax --check

One mixer alone, forward and backward (gradients to its input and all parameters), float32, width 64, 4 heads,
batch 1, no dropout unless --dropout. Time is the best of some rounds through all models and lengths, so that
all meet the same machine. Memory is the compiler's account of one step: arguments, outputs and temporaries,
less what is shared. Operations are counted as in records. With --check the exit status says whether every mixer
that promises a cost proportional to L keeps to it (LIMIT) and is faster than `transformer` from 4,096 on.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lra.launch.process import environment
from lra.train import flops
from models import MIXERS
from models.core.factory import mixer_factory

LINEAR = ("local", "longformer", "bigbird", "linformer", "linear_transformer", "performer", "nystromformer")
LINEAR += ("luna", "cosformer", "skyformer", "ff_only", "s5", "lru", "short_conv")
LINEAR += ("chordmixer", "retnet", "gla", "lion_d", "lion_s", "mamba", "mamba2", "hgrn", "deltanet", "gated_deltanet")
PROMISE = dict.fromkeys(LINEAR, "L") | {
    "transformer": "L², memory L",
    "transformer_naive": "L²",
    "sparse": "L·√L",
    "reformer": "L·log L",
    "sinkhorn": "L·b + (L/b)²",
    "synthesizer": "L²",
    "fnet": "L·log L",
    "s4d": "L·log L",
    "long_conv": "L·log L",
    "sgconv": "L·log L",
    "hyena": "L·log L",
    "mega": "L², memory L",
    "mega_chunk": "L·log L",
    "fnet_hybrid": "L² (its attention layer)",
    "linear_mixing": "L²",
    "random_mixing": "L²",
}
LIMIT = 2.3
"""Allowed growth of time and memory when L doubles, from 4,096 on, where the promise is L."""
DIM, HEADS = 64, 4
KEPT = "\n## Before and after"
"""From here on, a page that is written anew stays as it was."""


def options_of(spec: str) -> tuple[str, dict[str, Any]]:
    """'name:a=1,b=x' → the name and its options, numbers and booleans read as such."""
    name, _, rest = spec.partition(":")
    words = {"true": True, "false": False}
    found: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        number = value.replace(".", "", 1).replace("-", "", 1).isdigit()
        found[key] = words.get(value.lower(), (float(value) if "." in value else int(value)) if number else value)
    return name, found


def compile_step(spec: str, length: int, dropout: float) -> tuple[Any, int, float, Any]:
    """(compiled step, its bytes, its operations, a function that makes its arguments)."""
    name, options = options_of(spec)
    make = mixer_factory(name, options, heads=HEADS, dropout=dropout, layers=1)

    def parts() -> Any:
        return nnx.split(make(0, DIM, length, nnx.Rngs(0)), nnx.Param, ...)

    graph, params, rest = nnx.split(nnx.eval_shape(lambda: make(0, DIM, length, nnx.Rngs(0))), nnx.Param, ...)
    mask = jnp.ones((1, length), bool)

    def loss(params: Any, x: jax.Array, rest: Any, key: jax.Array) -> jax.Array:
        rngs = nnx.Rngs(dropout=key) if dropout else None
        return (nnx.merge(graph, params, rest)(x, mask, rngs) ** 2).sum()

    x, key = jnp.zeros((1, length, DIM)), jax.random.key(1)
    step = jax.value_and_grad(loss, (0, 1), allow_int=True)
    operations = flops.count(step, params, x, rest, key)
    compiled = jax.jit(step).lower(params, x, rest, key).compile()
    m = compiled.memory_analysis()
    size = m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes

    def arguments() -> tuple[Any, ...]:
        _, params, rest = parts()
        return params, jax.random.normal(jax.random.key(0), x.shape), rest, key

    return compiled, size, operations, arguments


class Cell:
    """One model at one length: compiled when made, timed by `run`."""

    def __init__(self, spec: str, length: int, dropout: float):
        self.step, self.bytes, self.operations, self.make_arguments = compile_step(spec, length, dropout)
        self.best = math.inf
        self.arguments: Any = None

    def run(self, seconds: float) -> None:
        """Runs for `seconds`, at least once, after one run that is not counted where arguments are new."""
        arguments = self.arguments
        if arguments is None:
            arguments = self.make_arguments()
            jax.block_until_ready(self.step(*arguments))
        # Kept for the next round where small.
        small = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments)) < 2**26
        self.arguments = arguments if small else None
        spent = 0.0
        while spent == 0.0 or spent < seconds:
            start = time.perf_counter()
            jax.block_until_ready(self.step(*arguments))
            took = time.perf_counter() - start
            self.best, spent = min(self.best, took), spent + took


Results = dict[str, dict[int, tuple[float | None, int]]]
"""model → length → (seconds or None where it was not run, bytes)."""
Operations = dict[str, float]
"""model → floating-point operations of a step at `RATED`."""
RATED = 4096
"""The length at which rates are told."""


def measure(
    specs: list[str], lengths: list[int], dropout: float, most_bytes: int, rounds: int
) -> tuple[Results, Operations]:
    """All cells in turn, `rounds` times over (twice those that take long); the best of each."""
    cells = {}
    for spec in specs:
        for length in lengths:
            cells[spec, length] = Cell(spec, length, dropout)
            print(f"compiled {spec} at {length:,}", file=sys.stderr, flush=True)
    for n in range(rounds):
        for cell in cells.values():
            if cell.bytes <= most_bytes and (n < 2 or cell.best < 2):
                cell.run(0.1)
        print(f"round {n + 1} of {rounds}", file=sys.stderr, flush=True)
    results: Results = {
        spec: {n: (c.best if c.best < math.inf else None, c.bytes) for n in lengths for c in [cells[spec, n]]}
        for spec in specs
    }
    return results, {spec: cells[spec, RATED].operations for spec in specs if RATED in lengths}


def machine_rates() -> tuple[float, float]:
    """What this machine reaches in the same kind of program: operations a second of large float32 products, and
    exponentials a second of an array that fits its caches."""
    x, y = jnp.ones((1024, 1024)), jnp.ones((344, 4096))
    product = jax.jit(lambda a: a @ a).lower(x).compile()
    # Several, each of the last one's result: an array is read and written once for each.
    powers = jax.jit(lambda a: jax.lax.fori_loop(0, 16, lambda _, a: jnp.exp(a * 0.5 - 1), a)).lower(y).compile()

    def best(run: Any, value: jax.Array) -> float:
        times = []
        for _ in range(12):
            start = time.perf_counter()
            jax.block_until_ready(run(value))
            times.append(time.perf_counter() - start)
        return min(times)

    return 2 * 1024**3 / best(product, x), 16 * y.size / best(powers, y)


def growth(values: dict[int, float]) -> tuple[float, float]:
    """(worst ratio a doubling, exponent) from 4,096 on, or over all where fewer than two are that long."""
    lengths = [n for n in values if n >= 4096]
    lengths = lengths if len(lengths) > 1 else list(values)
    if len(lengths) < 2:
        return math.nan, math.nan
    steps = [(values[b] / values[a]) ** (1 / math.log2(b / a)) for a, b in pairwise(lengths)]
    first, last = lengths[0], lengths[-1]
    return max(steps), math.log(values[last] / values[first]) / math.log(last / first)


def summary(results: Results) -> dict[str, tuple[float, float, float, float]]:
    """model → worst growth a doubling and exponent of time, then of memory."""
    found = {}
    for spec, by_length in results.items():
        times = {n: t for n, (t, _) in by_length.items() if t is not None}
        found[spec] = (*growth(times), *growth({n: float(size) for n, (_, size) in by_length.items()}))
    return found


def broken(results: Results) -> list[str]:
    """Violations by the mixers that promise cost linear in L."""
    said, base = [], results.get("transformer", {})
    for spec, (time_ratio, _, size_ratio, _) in summary(results).items():
        if PROMISE.get(options_of(spec)[0]) != "L":
            continue
        if time_ratio >= LIMIT or size_ratio >= LIMIT:
            said.append(f"{spec}: a doubling multiplies time by {time_ratio:.2f}, memory by {size_ratio:.2f}")
        for length, (took, _) in results[spec].items():
            full = base.get(length, (None, 0))[0]
            if length >= 4096 and took and full and took >= full:
                said.append(f"{spec}: {took * 1e3:.0f} ms at {length:,}, transformer {full * 1e3:.0f} ms")
    return said


def report(results: Results, operations: Operations, dropout: float) -> str:
    """The Markdown page."""
    lengths = list(next(iter(results.values())))
    heads = "".join(f" {n:,} |" for n in lengths)
    lines = "---:|" * len(lengths)
    device = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else f"{os.cpu_count()} CPU cores"
    found = summary(results)

    def row(spec: str, cells: list[str]) -> str:
        return f"| {spec} | {PROMISE.get(options_of(spec)[0], '')} | " + " | ".join(cells) + " |"

    def ratio(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}"

    page = [
        "# Efficiency of the mixers",
        "",
        f"One mixer, forward and backward, float32, width {DIM}, {HEADS} heads, batch 1, "
        f"dropout {dropout:g}, {device}, jax {jax.__version__}. "
        "Written by `python -m tests.benchmarks.mixers --out=docs/efficiency.md`. "
        "*Per doubling* is the largest growth from 4,096 on, *exponent* the slope over the same lengths.",
        "",
        "## Time in milliseconds (in brackets: transformer's time ÷ this one)",
        "",
        f"| model | promised |{heads} per doubling | exponent |",
        f"|---|---|{lines}---:|---:|",
    ]
    for spec, by_length in results.items():
        cells = []
        for n, (took, _) in by_length.items():
            full = results.get("transformer", {}).get(n, (None, 0))[0]
            faster = f" ({full / took:.2g}×)" if took and full and spec != "transformer" else ""
            cells.append("not run" if took is None else f"{took * 1e3:,.1f}{faster}")
        page.append(row(spec, [*cells, ratio(found[spec][0]), ratio(found[spec][1])]))
    page += [
        "",
        "## Memory of a compiled step in MiB",
        "",
        f"| model | promised |{heads} per doubling | exponent |",
        f"|---|---|{lines}---:|---:|",
    ]
    for spec, by_length in results.items():
        cells = [f"{size / 2**20:,.1f}" for _, size in by_length.values()]
        page.append(row(spec, [*cells, ratio(found[spec][2]), ratio(found[spec][3])]))
    return "\n".join([*page, *rates(results, operations)]) + "\n"


def rates(results: Results, operations: Operations) -> list[str]:
    """The table of operations a second at `RATED`, the slowest first."""
    timed = [(n / took, spec, n, took) for spec, n in operations.items() if (took := results[spec][RATED][0])]
    if not timed:
        return []
    products, exponentials = machine_rates()
    lines = [
        "",
        f"## Operations a second at {RATED:,}",
        "",
        "Operations of the program as written, elementwise ones too, counted as in records. The same machine reaches "
        f"{products / 1e9:,.0f} GFLOP/s in large products and {exponentials / 1e9:.1f} × 10⁹ exponentials a second; "
        "a mixer that is mostly elementwise, such as a scan, cannot come near the first.",
        "",
        "| model | GFLOP | ms | GFLOP/s | share of products' rate |",
        "|---|---:|---:|---:|---:|",
    ]
    return lines + [
        f"| {spec} | {n / 1e9:.3g} | {took * 1e3:.3g} | {rate / 1e9:.0f} | {100 * rate / products:.0f} % |"
        for rate, spec, n, took in sorted(timed)
    ]


def keep_freed_memory() -> None:
    """Tells glibc to hand out large buffers from memory that it keeps, as allocators of accelerators do.

    Else every buffer above 32 MB is mapped anew at each step, and its first touch costs more than many a
    mixer's arithmetic: a step in the curve that is the allocator's and not the mixer's.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        for parameter, value in (
            (-4, 0),
            (-1, 2**31 - 1),
            (-2, 2**28),
        ):  # no mmap, no trimming, grow by 256 MB
            if mallopt:
                mallopt(parameter, value)


def main() -> int:
    if "GLIBC_TUNABLES" not in os.environ:  # read when a process starts: in the environment of the suite's workers
        os.execve(sys.executable, [sys.executable, "-m", "tests.benchmarks.mixers", *sys.argv[1:]], environment("auto"))
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="append", help="name[:option=value,…]; repeatable; all when left out")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--memory", type=float, default=3.0, help="GiB a step may need to be run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    lengths = sorted(int(n) for n in args.lengths.split(","))
    specs = args.models or list(MIXERS)
    results, operations = measure(specs, lengths, args.dropout, int(args.memory * 2**30), args.rounds)
    page = report(results, operations, args.dropout)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        before = args.out.read_text() if args.out.exists() else ""
        _, kept, rest = before.partition(KEPT)
        args.out.write_text(page + kept + rest)
    else:
        print(page)
    for line in broken(results):
        print(line, file=sys.stderr)
    return 1 if args.check and broken(results) else 0


if __name__ == "__main__":
    sys.exit(main())
