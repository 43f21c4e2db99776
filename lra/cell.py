"""One cell in a process of its own: `python -m lra.cell SPEC.json`. Joins a task's arrays and a model.

Standard output carries progress as JSON lines; what libraries print goes to standard error. The process ends
as soon as its standard input closes, so it never outlives the run that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from lra import device, records
from lra.measure import measure, random_splits
from lra.peaks import mfu
from lra.recipe import Recipe, from_dict
from lra.train import Outcome, fit
from models.build import mixer_factory
from models.encoder import Encoder
from tasks import TASKS
from tasks.cache import open_entry


def build(spec: dict[str, Any], recipe: Recipe, vocab: int, classes: int, pair: bool, length: int) -> Encoder:
    """The model of a cell, initialised from its seed."""
    e = recipe.encoder
    context = {"heads": e.heads, "qkv": e.qkv, "dropout": e.attention_dropout, "layers": e.layers}
    make_mixer = mixer_factory(spec["cell"]["mixer"], dict(recipe.mixer), **context)
    return Encoder(
        make_mixer, vocab=vocab, classes=classes, length=length, dim=e.dim, layers=e.layers, mlp=e.mlp, pool=e.pool,
        positions=e.positions, pair_head=e.pair_head, pair=pair, rate=e.dropout,
        reversible=e.reversible,
        rngs=nnx.Rngs(spec["cell"]["seed"]),
    )  # fmt: skip


def run(spec: dict[str, Any], tell: Callable[[dict[str, float]], None]) -> records.Record:
    """Trains and tests, or only measures, one cell; returns its record, whatever happens short of death."""
    record: records.Record = dict(spec["record"])
    record |= {"device": device.describe(), "versions": device.versions()}
    started = time.perf_counter()
    try:
        recipe = from_dict(Recipe, spec["record"]["recipe"])
        record |= (train if spec["entry"] else bench)(spec, recipe, tell)
    except Exception as error:
        traceback.print_exc()
        record["status"] = "oom" if _out_of_memory(error) else "failed"
        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        record["memory"] = device.memory(None)
    return record | {"wall_seconds": time.perf_counter() - started}


def bench(spec: dict[str, Any], recipe: Recipe, tell: Callable[[dict[str, float]], None]) -> dict[str, Any]:
    """What a measurement on random tokens adds to a record."""
    task, length = TASKS[spec["cell"]["task"]], spec["cell"]["length"]
    start, batch = spec["record"], recipe.train.batch
    model = build(spec, recipe, task.vocab, task.classes, task.pair, length)
    splits = random_splits(task.vocab, task.classes, task.pair, length, batch)
    # What is compiled from here on is timed, so none of it may come from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    trial = start.get("trial", False)
    measured = measure(model, splits, recipe, tell, start.get("memory_limit_bytes"), trial)
    memory = device.memory(measured.compiled_bytes)
    if trial:
        return {"status": "ok", "memory": memory}
    tokens = batch * (2 if task.pair else 1) * length
    trained, here = speed(measured.train_blocks, batch, tokens), device.describe()
    return {
        "status": "ok",
        "parameters": measured.parameters,
        "flops_per_step": measured.flops_per_step,
        "flops_compiler": measured.flops_compiler,
        "mfu": mfu(
            measured.flops_per_step, trained["steps_per_second"], here["kind"], recipe.train.precision, here["used"]
        ),
        "energy_per_step_joules": measured.energy_per_step_joules,
        "compile_seconds": measured.compile_seconds,
        "train_speed": trained,
        "inference_speed": speed(measured.inference_blocks, batch, tokens),
        "memory": memory,
    }


def train(spec: dict[str, Any], recipe: Recipe, tell: Callable[[dict[str, float]], None]) -> dict[str, Any]:
    """What training and testing on the task's data adds to a record."""
    splits = open_entry(Path(spec["entry"]))
    pair = TASKS[spec["cell"]["task"]].pair
    model = build(spec, recipe, splits.vocab, splits.classes, pair, splits.values.shape[1])
    return report(fit(model, splits, recipe, spec["cell"]["seed"], tell), spec["cell"]["seed"])


def report(outcome: Outcome, seed: int) -> dict[str, Any]:
    """What an outcome adds to a record."""
    return {
        "status": outcome.status,
        "error": outcome.error,
        "results": [
            {
                "seed": seed,
                "steps": outcome.steps,
                "best_step": outcome.best_step,
                "validation_best": outcome.validation_best,
                "validation_last": outcome.validation_last,
                "test_best": outcome.test_best,
                "test_last": outcome.test_last,
                "curve": outcome.curve,
            }
        ],
        "parameters": outcome.parameters,
        "flops_per_step": outcome.flops_per_step,
        "compile_seconds": outcome.compile_seconds,
        "train_speed": speed(outcome.blocks[1:] or outcome.blocks),
        "memory": device.memory(outcome.compiled_bytes),
    }


def speed(
    blocks: list[tuple[int, float]], examples: int | None = None, tokens: int | None = None
) -> dict[str, float | int]:
    """Steps per second over timed blocks of (steps, seconds): the median and the quartiles of the blocks' rates.

    With the `examples` and `tokens` of one step, those per second too, at the median.
    """
    rates = [steps / seconds for steps, seconds in blocks]
    low, middle, high = map(float, np.quantile(rates, [0.25, 0.5, 0.75]))
    made = {"steps_per_second": middle, "quartile_1": low, "quartile_3": high, "blocks": len(rates)}
    each = {"examples_per_second": examples, "tokens_per_second": tokens}
    return made | {name: middle * number for name, number in each.items() if number is not None}


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def _die_with_parent() -> None:
    os.read(0, 1)  # returns when the parent is gone and the pipe with it
    os._exit(1)


def main() -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    spec = json.loads(Path(sys.argv[1]).read_text())
    jax.config.update("jax_compilation_cache_dir", spec["compilation_cache"])

    def tell(progress: dict[str, float]) -> None:
        print(json.dumps(progress), file=told, flush=True)

    records.write(Path(spec["path"]), run(spec, tell))


if __name__ == "__main__":
    main()
