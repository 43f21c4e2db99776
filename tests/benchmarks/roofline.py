"""How fast a device could be: operations and bytes of each mixer's training step, beside what was measured.

    python -m tests.benchmarks.roofline --results=results/gpu/h200,results/gpu/h200-before --out=docs/roofline.md

Operations are counted as in records (`lra.train.flops`), on the program that an NVIDIA GPU would be given. Bytes
are those that must pass through the device's memory if everything that is elementwise were fused into products,
transforms, gathers, sorts and kernels: what these read and write, each loop's trip counted. No GPU is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from configs import PROTOCOLS
from lra.train import flops
from lra.train.flops import peak
from models import MIXERS
from models.attention import transformer
from tests.scale.operations import abstract

SHAPES = (("text", 1_024), ("text", 4_000), ("text", 4_096), ("listops", 2_000))
"""Tasks of protocol `lra`, at lengths that have been measured."""
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
"""Bytes a second, by NVIDIA's datasheets."""
MOVING = {
    "dot_general", "conv_general_dilated", "fft", "gather", "scatter", "scatter-add", "scatter_add", "sort",
    "pallas_call", "dynamic_update_slice",
}  # fmt: skip
"""Primitives whose operands and results are counted as read and written."""


def bytes_moved(jaxpr: Jaxpr) -> float:
    """Bytes that the primitives of `MOVING` read and write; NaN where a loop's trips are not known."""
    return math.fsum(map(_equation, jaxpr.eqns))


def _equation(eqn: JaxprEqn) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name in MOVING:
        return float(sum(v.aval.size * v.aval.dtype.itemsize for v in (*eqn.invars, *eqn.outvars)))
    if name == "scan":
        return float(params["length"]) * bytes_moved(params["jaxpr"].jaxpr)
    if name == "while":
        return flops.trips(eqn) * bytes_moved(params["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(bytes_moved(branch.jaxpr) for branch in params["branches"])
    return math.fsum(map(bytes_moved, flops.bodies(params)))


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step of one model."""

    task: str
    model: str
    length: int
    operations: float
    bytes: float

    def floor(self, device: str) -> float:
        """Seconds below which no program for this device can go, as far as is counted."""
        most = peak(device, "bfloat16")
        assert most is not None
        return max(self.operations / most, self.bytes / BANDWIDTH[device])


def step_of(task: str, model: str, length: int) -> Step:
    """A step of protocol `lra` in bfloat16, as traced for an NVIDIA GPU; nothing is computed."""
    _, source, make = abstract(task, model, length=length)
    found: list[Any] = []

    def traced() -> None:
        program = make()
        state = jax.eval_shape(program._initial_state, program.params, program.moving)
        found.append(jax.make_jaxpr(lambda s, r, d: program.chunk(s, r, d, 1))(state, program.fixed, source).jaxpr)
        found.append(program.flops(source))

    with (
        mock.patch.object(jax, "default_backend", lambda: "gpu"),
        mock.patch.object(transformer, "capability", lambda: 9.0),
    ):
        jax.eval_shape(traced)
    return Step(task, model, length, found[1], bytes_moved(found[0]))


def measured(results: str) -> dict[tuple[str, str, int], float]:
    """Seconds of a training step, by task, model and length; of the `lra` recipes alone."""
    seconds = {}
    lengths = {length for _, length in SHAPES}
    for file in (file for folder in results.split(",") for file in sorted((Path(folder) / "bench").glob("*.json"))):
        r = json.loads(file.read_text())
        cell = r["cell"]
        if r["status"] == "ok" and cell["protocol"] in ("lra", "fnet", "efficiency"):
            # Protocol `fnet` counts the CLS token: the token more that the floor is computed for makes no difference.
            length = cell["length"] + (cell["length"] + 1 in lengths)
            seconds[cell["task"], cell["model"], length] = 1 / r["train_speed"]["steps_per_second"]
    return seconds


def rows(steps: list[Step], device: str, seconds: dict[tuple[str, str, int], float]) -> Iterator[list[str]]:
    """A table's rows, the furthest from its floor first; the expected time where none was measured."""
    share = {s: s.floor(device) / seconds[k] for s in steps if (k := (s.task, s.model, s.length)) in seconds}
    usual = median(share.values())
    for s in sorted(steps, key=lambda s: (s not in share, share.get(s, 0), s.model)):
        floor = s.floor(device)
        bound = "bytes" if s.bytes / BANDWIDTH[device] >= floor else "products"
        took = seconds.get((s.task, s.model, s.length))
        last = [f"{1e3 * took:.3g}", f"{100 * floor / took:.0f} %"] if took else [f"({1e3 * floor / usual:.3g})", ""]
        counted = f"{s.operations / 1e12:.3g}", f"{s.bytes / 1e9:.3g}", f"{1e3 * floor:.3g}"
        yield [f"`{s.model}`", *counted, bound, *last]


def page(device: str, results: str) -> str:
    """The page, in Markdown."""
    seconds, most = measured(results), (peak(device, "bfloat16") or 0) / 1e12
    text = (
        f"Written by `python -m tests.benchmarks.roofline --results={results} --out=docs/roofline.md`, computed from "
        f"shapes alone: a training step of protocol `lra` in bfloat16, on one {device} ({most:.0f} × 10¹² operations "
        f"and {BANDWIDTH[device] / 1e12:.2g} × 10¹² bytes per second, by its maker). The floor is the longer of the "
        "times that operations and bytes need. Bytes are those of products, transforms, gathers, sorts and kernels; "
        "elementwise work is counted as free, so no program comes near the floor. In brackets: the expected time, "
        "from the median share of the floor among the measured models of the same table."
    )
    lines = ["# What the device could do, and what it does", "", text]
    for task, length in SHAPES:
        steps = [step_of(task, model, length) for model in MIXERS]
        lines += ["", f"## {task}, {length:,} tokens, batch {PROTOCOLS['lra'].recipe(task, 'fnet').train.batch}", ""]
        lines += ["| model | 10¹² operations | GB | floor, ms | bound by | measured, ms | share of the floor |"]
        lines += ["| --- | ---: | ---: | ---: | --- | ---: | ---: |"]
        lines += [f"| {' | '.join(row)} |" for row in rows(steps, device, seconds)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="NVIDIA H200", choices=[*BANDWIDTH])
    parser.add_argument("--results", required=True, help="folders of the device's measurements, with commas")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(page(args.device, args.results))


if __name__ == "__main__":
    main()
