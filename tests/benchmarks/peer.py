"""What the two sides of `tests/benchmarks/peers.py` share: what is measured, and how a side is asked for it.

A side is a process that reads one request a line from its standard input and answers each with one line, in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One model at one size."""

    model: str
    dim: int
    heads: int
    layers: int
    mlp: int
    batch: int
    length: int
    vocab: int = 257
    classes: int = 2
    rate: float = 1e-4
    decay: float = 0.1


class Side(Protocol):
    """One model on one side, with its batch."""

    def step(self) -> None:
        """Takes a training step."""

    def logits(self) -> np.ndarray:
        """The batch's logits [B, classes], without dropout."""

    def time(self, phase: str, seconds: float) -> list[float]:
        """Seconds of each training step ('train') or inference ('infer') while `seconds` pass, at least one."""


SETTLE = 0.3
"""Seconds to wait before a turn: OpenMP's threads keep a core busy for up to 0.2 s after the other side's last."""


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Runs until `seconds` have passed, after one run that is not counted; the seconds of each run."""
    time.sleep(SETTLE)
    run()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def serve(
    make: Callable[[Case, Path, str], Side], about: str, others: Mapping[str, Callable[..., Any]] | None = None
) -> None:
    """Answers requests until the input ends.

    Args:
        make: (case, file, mode) → the side's model. The suite's writes its initial parameters and the batch to the
            file, and the other reads them.
        about: the side's name and version.
        others: further requests, by name.
    """
    side: Any = None
    reply = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not become an answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            match asked["do"]:
                case "about":
                    answer: Any = about
                case "make":
                    side = None  # frees the memory of the last
                    side = make(Case(**asked["case"]), Path(asked["file"]), asked["mode"])
                    answer = None
                case "step":
                    answer = side.step()
                case "logits":
                    answer = side.logits().tolist()
                case "time":
                    answer = side.time(asked["phase"], asked["seconds"])
                case other:
                    answer = (others or {})[other](*asked["given"])
            told = {"answer": answer}
        except Exception as error:  # told to the other process, which goes on with the next case
            told = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(told), file=reply, flush=True)
