"""One cell in a process of its own: `python -m lra.train.worker`. Joins a task's arrays and a model.

Its first line of standard input says, as JSON, what to do: no file is left when it or the run is killed.
Standard output carries progress as JSON lines; what libraries print goes to standard error. SIGTERM asks it to save
a checkpoint and end. It ends at once when its standard input closes, so it never outlives the run that started it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from configs.recipe import Recipe, from_dict
from lra.grid.spec import WorkerSpec
from lra.results import provenance, records
from lra.train import device, distributed, trackers
from lra.train.benchmark import measure, prepare, random_splits
from lra.train.checkpoint import Checkpoints
from lra.train.flops import mfu
from lra.train.loop import Hooks, TrainResult, fit
from lra.train.turns import Turns
from models import attention
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tasks import TASKS
from tasks.io.cache import open_entry

KEPT_FOR = ("interrupted", "failed", "oom")
"""What a cell can go on from: its checkpoints stay."""


def build(mixer: str, recipe: Recipe, vocab: int, classes: int, pair: bool, length: int, seed: int) -> Encoder:
    """The model of a cell, initialised from a seed."""
    e = recipe.encoder
    context = {"heads": e.heads, "qkv": e.qkv, "dropout": e.attention_dropout, "layers": e.layers}
    make_mixer = mixer_factory(mixer, dict(recipe.mixer), **context)
    return Encoder(
        make_mixer, vocab=vocab, classes=classes, length=length, dim=e.dim, layers=e.layers, mlp=e.mlp, pool=e.pool,
        positions=e.positions, pair_head=e.pair_head, pair=pair, rate=e.dropout,
        reversible=e.reversible, remat=recipe.train.remat, rngs=nnx.Rngs(seed),
    )  # fmt: skip


def run(spec: WorkerSpec, tell: Callable[[dict[str, Any]], None]) -> records.Record:
    """Trains and tests, or only measures, one cell; returns its record, whatever happens short of death."""
    record: records.Record = dict(spec.record) | {"versions": provenance.versions()}
    started = time.perf_counter()
    try:
        if spec.group:
            distributed.join(**dataclasses.asdict(spec.group))
        recipe = from_dict(Recipe, spec.record["recipe"])
        record |= (train if spec.entry else bench)(spec, recipe, tell)
        record |= attention_of(record)
    except Exception as error:
        traceback.print_exc()
        record["status"] = "oom" if _out_of_memory(error) else "failed"
        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        record |= {"device": record.get("device") or device.describe(), "memory": device.memory(None)}
    return record | {"wall_seconds": time.perf_counter() - started}


def bench(spec: WorkerSpec, recipe: Recipe, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """What a measurement on random tokens adds to a record."""
    task, length = TASKS[spec.record["cell"]["task"]], spec.record["cell"]["length"]
    start, batch = spec.record, recipe.train.batch
    turns = Turns(Path(spec.turns)) if spec.turns else None
    splits = random_splits(task.vocab, task.classes, task.pair, length, batch)
    with turns.preparing() if turns else nullcontext():
        model = build(spec.record["cell"]["mixer"], recipe, task.vocab, task.classes, task.pair, length, 0)
        # What is compiled from here on is timed, so none of it may come from the cache.
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        prepared = prepare(model, splits, recipe, start.get("memory_limit_bytes"))
    trial = start.get("trial", False)
    with turns.measuring() if turns else nullcontext():
        measured = measure(prepared, tell, trial)
    memory = device.memory(measured.compiled_bytes)
    here = device.describe()
    if trial:
        return {"status": "ok", "device": here, "memory": memory}
    tokens = batch * (2 if task.pair else 1) * length
    trained = speed(measured.train_blocks, batch, tokens)
    return {
        "status": "ok",
        "device": here,
        "parameters": measured.parameters,
        "flops_per_step": measured.flops_per_step,
        "flops_compiler": measured.flops_compiler,
        "mfu": mfu(
            measured.flops_per_step, trained["steps_per_second"], here["kind"], recipe.train.precision, here["used"]
        ),
        "energy_per_step_joules": measured.energy_per_step_joules,
        "compile_seconds": None if turns else measured.compile_seconds,  # others compiled at the same time
        "train_speed": trained,
        "inference_speed": speed(measured.inference_blocks, batch, tokens),
        "memory": memory,
    }


def train(spec: WorkerSpec, recipe: Recipe, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """What training and testing on the task's data adds to a record."""
    splits, cell, options = open_entry(Path(spec.entry or "")), spec.record["cell"], spec.train
    pair, seeds = TASKS[cell["task"]].pair, cell["seeds"]
    length = splits.values.shape[1]
    models = [
        build(spec.record["cell"]["mixer"], recipe, splits.vocab, splits.classes, pair, length, seed) for seed in seeds
    ]
    warnings: list[str] = []

    def warn(line: str) -> None:
        print(line, file=sys.stderr)
        warnings.append(line)
        tell({"warning": line})

    checkpoints = None
    if options.checkpoints:
        folder = Path(options.checkpoints)
        checkpoints = Checkpoints(folder, options.checkpoint_key, options.checkpoint_minutes, warn)
    first: list[float] = []
    listeners = [tell, *trackers_of(spec)]

    def told(progress: dict[str, Any]) -> None:
        if not first:
            first.append(time.time() - spec.started)
        for listener in listeners:
            listener(progress)

    if checkpoints and options.fresh:
        checkpoints.close(delete=True)
    stop = Stop(options.max_minutes)
    try:
        outcome = fit(models, splits, recipe, seeds, options, Hooks(checkpoints, stop, told))
    finally:
        if checkpoints:
            checkpoints.close()
    documents = splits.splits["train"].index.shape[1]
    per_step = {"examples": recipe.train.batch, "tokens": recipe.train.batch * documents * length}
    # From the start of the process to the end of the first chunk: imports, data, compilation.
    made = report(outcome, recipe.train.precision, per_step)
    if spec.record.get("sharing", 1) > 1:
        made["mfu"] = None
    return made | {"warnings": warnings, "first_chunk_seconds": first[0] if first else None}


def attention_of(record: records.Record) -> dict[str, Any]:
    """Which kernels attention took, where a model has any, and a warning where it took a slow one."""
    if not (kernels := attention.used_kernels()):
        return {}
    line = attention.fallback_notice(jax.default_backend(), attention.capability())
    return {"attention_kernels": kernels, "warnings": [*(record.get("warnings") or []), *([line] if line else [])]}


def trackers_of(spec: WorkerSpec) -> list[trackers.Tell]:
    """The viewers that training is to be shown to."""
    options, found = spec.train, list[trackers.Tell]()
    if options.tensorboard:
        found.append(trackers.TensorBoard(Path(options.tensorboard)))
    if options.wandb:
        project, name, folder = options.wandb
        found.append(trackers.wandb(project, name, spec.record["recipe"], Path(folder)))
    return found


class Stop:
    """A reason to save and stop: SIGTERM, or the time that a cell may take is over."""

    def __init__(self, minutes: float | None):
        self.until = None if minutes is None else time.monotonic() + 60 * minutes
        self.minutes, self.terminated = minutes, False
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: Any) -> None:
        self.terminated = True

    def __call__(self) -> str:
        if self.terminated:
            return "stopped by a signal; the same command goes on from here"
        if self.until is not None and time.monotonic() > self.until:
            return f"stopped after --max_minutes={self.minutes:g}; the same command goes on from here"
        return ""


def report(outcome: TrainResult, precision: str, per_step: dict[str, int]) -> dict[str, Any]:
    """What an outcome adds to a record; speeds are those of one seed's step times the seeds that share it."""
    trained, kind = speed(outcome.blocks or outcome.first_blocks, **per_step), jax.devices()[0].device_kind
    rate = trained.get("steps_per_second")
    share = outcome.idle_seconds / outcome.loop_seconds if outcome.loop_seconds else None
    return {
        "status": outcome.status,
        "error": outcome.error,
        "device": device.describe(outcome.devices),
        "results": [dataclasses.asdict(result) for result in outcome.results],
        "parameters": outcome.parameters,
        "flops_per_step": outcome.flops_per_step,
        "compile_seconds": outcome.compile_seconds,
        "mfu": rate and mfu(outcome.flops_per_step, rate, kind, precision, outcome.devices),
        "train_speed": trained,
        "idle_share": share,
        "streamed": outcome.streamed,
        "resumed": outcome.resumed,
        "memory": device.memory(outcome.compiled_bytes),
    }


def speed(
    blocks: list[tuple[int, float]], examples: int | None = None, tokens: int | None = None
) -> dict[str, float | int]:
    """Steps per second over timed blocks of (steps, seconds): the median and the quartiles of the blocks' rates.

    With the `examples` and `tokens` of one step, those per second too, at the median.
    """
    if not blocks:
        return {}
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
    # Unbuffered, so that the thread that waits for the end holds no lock when this process ends.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        asked = stdin.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if not asked.endswith(b"\n"):
        sys.exit("the run that started this cell is gone")
    spec = WorkerSpec.from_json(json.loads(asked))
    jax.config.update("jax_compilation_cache_dir", spec.compilation_cache)
    # Initialising a model compiles hundreds of small programs, each below the second that the cache starts at.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def tell(progress: dict[str, Any]) -> None:
        print(json.dumps(progress), file=told, flush=True)

    record = run(spec, tell)
    if spec.group and spec.group.process:
        tell({"ended": {"status": record["status"], "error": record["error"]}})
    else:
        records.write(Path(spec.path), record)
        if spec.train.checkpoints and spec.entry and record["status"] not in KEPT_FOR:
            shutil.rmtree(spec.train.checkpoints, ignore_errors=True)
    if spec.group and record["status"] in ("failed", "oom"):
        # The others may be in the middle of a program that waits for this process: it takes no leave of them.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
