"""The suite's speed beside plain PyTorch's: the same models, weights, batch and optimizer; writes docs/peers.md.

    pip install '.[peers]'
    python -m tests.benchmarks.peers --out=docs/peers.md
    python -m tests.benchmarks.peers --models=fnet --lengths=512,4096 --rounds=3 --modes=eager

Each side is a process of its own that keeps one model, and the two take turns. Times are of the fastest step of a
turn: on a shared machine others slow the rest down, and most of all the side whose arrays fill the caches. Given are
medians over the rounds, of the ratio too, with its range: above 1, the suite is the faster. Before anything is timed
both sides have to give the same logits, as they start and after two training steps. Float32, AdamW, no dropout
(PyTorch has no fused attention with it on a CPU); the suite's training step is the one that `run` compiles, with its
metrics.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lra.launch.process import environment
from lra.results.provenance import ROOT
from tests.benchmarks.peer import Case

MODELS = ("transformer", "fnet", "linear_transformer", "performer", "local", "lru")
LENGTHS = (512, 1_024, 2_048, 4_096, 8_192)
TEXT = 1_000
PHASES = {"train": "training step", "infer": "inference"}
TOLERANCE = 2e-3
"""Largest difference between the two sides' logits, relative to the largest logit."""

Times = dict[str, list[tuple[float, float]]]
"""Phase → the suite's and PyTorch's seconds of a step, round by round."""


class Failed(Exception):
    """A side could not do what it was asked for."""


class Process:
    """A side in a process of its own, in the environment of the suite's workers."""

    def __init__(self, module: str, python: str = sys.executable):
        self.process = subprocess.Popen(
            [python, "-m", f"tests.benchmarks.{module}"], cwd=ROOT, env=environment("cpu"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, do: str, **more: Any) -> Any:
        """Sends a request and waits for its answer; raises `Failed` if there is none."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # its end is told below
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"the process ended with status {self.process.wait()}")
        told = json.loads(line)
        if "error" in told:
            raise Failed(told["error"])
        return told["answer"]

    def close(self) -> None:
        """Ends the process and waits for it."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def small(model: str, length: int) -> Case:
    return Case(model, dim=64, heads=2, layers=2, mlp=128, batch=2, length=length)


def text(model: str) -> Case:
    """The shape of the benchmark's Text task."""
    return Case(model, dim=256, heads=4, layers=4, mlp=1024, batch=2, length=TEXT)


def difference(ours: Process, theirs: Process) -> float:
    """The largest difference of logits, relative to the largest logit."""
    a, b = (np.array(side.ask("logits")) for side in (ours, theirs))
    return float(np.abs(a - b).max() / np.abs(a).max())


def contest(ours: Process, theirs: Process, case: Case, mode: str, rounds: int, seconds: float) -> Times:
    """Times one case on both sides in turn.

    Raises:
        Failed: a side cannot run it, or the two do not compute the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        for side in (ours, theirs):
            side.ask("make", case=case.__dict__, file=str(Path(folder, "arrays.npz")), mode=mode)
    apart = difference(ours, theirs)
    for _ in range(2):
        for side in (ours, theirs):
            side.ask("step")
    apart = max(apart, difference(ours, theirs))
    if not apart <= TOLERANCE:
        raise Failed(f"logits differ by {apart:.1g}")
    found: Times = {}
    for phase in PHASES:
        found[phase] = []
        for number in range(rounds):
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            took = {side: min(side.ask("time", phase=phase, seconds=seconds)) for side in order}
            found[phase].append((took[ours], took[theirs]))
    return found


def row(label: str, times: Times) -> str:
    cells = [label]
    for phase in PHASES:
        pairs = times[phase]
        a, b = (1e3 * median(pair[i] for pair in pairs) for i in (0, 1))
        ratios = sorted(y / x for x, y in pairs)
        cells += [f"{a:.3g}", f"{b:.3g}", f"**{median(ratios):.2f}** ({ratios[0]:.2f}–{ratios[-1]:.2f})"]
    return "| " + " | ".join(cells) + " |"


def cases(models: Sequence[str], lengths: Sequence[int]) -> list[tuple[str, Case]]:
    labelled = [(f"{model} | small | {length:,}", small(model, length)) for model in models for length in lengths]
    return labelled + [(f"{model} | Text | {TEXT:,}", text(model)) for model in models]


def bounds(ours: Process, case: Case, took: float) -> list[str]:
    """What attention's own arithmetic needs of a training step, by what the machine reaches in the same tiles."""
    positions, width = case.length + 1, case.dim // case.heads
    problems = case.batch * case.heads
    rows = ours.ask("tile", given=("cpu", problems, positions, positions))
    products, exponentials = ours.ask("rates", given=(rows, positions, width))
    scores = case.layers * problems * positions**2
    # Forwards two products and the exponentials; backwards five, and the exponentials again.
    work = 14 * scores * width, 2 * scores
    needed = work[0] / products, work[1] / exponentials
    return [
        "## What bounds attention",
        "",
        f"A training step of `{case.model}` at {case.length:,} tokens, small shape: {work[0] / 1e9:.0f} GFLOP in the "
        f"products of attention, and {work[1] / 1e6:.0f} million exponentials. In tiles of {rows} × {positions:,} "
        f"scores this machine reaches {products / 1e9:.0f} GFLOP/s and {exponentials / 1e9:.1f} × 10⁹ exponentials a "
        f"second, so they need {1e3 * needed[0]:.0f} + {1e3 * needed[1]:.0f} ms of the {1e3 * took:.0f} measured.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="of the small shape")
    parser.add_argument("--modes", default="eager,compile", help="of PyTorch")
    parser.add_argument("--compile_models", default="transformer,fnet,linear_transformer", help="with torch.compile")
    parser.add_argument("--compile_lengths", default="1024", help="likewise, of the small shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each side in each round")
    parser.add_argument("--torch_python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    ours = Process("peer_suite")
    sections, abouts = [], [ours.ask("about")]
    bound: list[str] = []
    for mode in args.modes.split(","):
        compiled = mode == "compile"
        models = (args.compile_models if compiled else args.models).split(",")
        lengths = [int(length) for length in (args.compile_lengths if compiled else args.lengths).split(",")]
        lines = [
            "| model | shape | length | ours, training step | PyTorch | ratio | ours, inference | PyTorch | ratio |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for label, case in cases(models, lengths):
            theirs = Process("peer_torch", args.torch_python)  # a new one each time: compiled models pile up
            try:
                if len(abouts) == 1:
                    abouts.append(theirs.ask("about"))
                times = contest(ours, theirs, case, mode, args.rounds, args.seconds)
                lines.append(row(label, times))
                if case == small("transformer", 4096) and not bound:
                    bound = bounds(ours, case, min(a for a, _ in times["train"]))
            except Failed as failure:
                lines.append(f"| {label} | {failure} | | | | | |")
            finally:
                theirs.close()
            print(lines[-1], flush=True)
        sections += [f"## PyTorch {mode}", "", *lines, ""]
    host = ours.ask("host", given=())
    ours.close()
    if args.out:
        head = [
            "# Beside PyTorch",
            "",
            "The same models in the suite and in plain PyTorch, from the same weights, on the same batch, with the "
            "same optimizer (`tests/benchmarks/peers.py` and `peer_torch.py` say how). Lengths are tokens; a CLS token "
            "comes before them. *small*: 2 layers, 64 wide, 2 heads, batch 2. *Text*: 4 layers, 256 wide, 4 heads, "
            "batch 2. `performer` keeps its first directions on both sides. Both sides run in the environment that the "
            "suite gives its workers, so that large arrays lie in huge pages on both.",
            "",
            "Written by `python -m tests.benchmarks.peers --out=docs/peers.md`. PyTorch is no dependency of the suite: "
            "`pip install '.[peers]'` brings it.",
            "",
            f"Milliseconds of the fastest step of a turn, medians of {args.rounds} rounds; *ratio* is PyTorch's time ÷ "
            "ours, with its range over the rounds. "
            f"{host}; {abouts[0]}; {abouts[1]}; {datetime.date.today()}.",
            "",
        ]
        args.out.write_text("\n".join([*head, *sections, *bound]).rstrip() + "\n")


if __name__ == "__main__":
    main()
