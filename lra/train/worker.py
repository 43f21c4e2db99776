"""The worker process, which runs one cell: `python -m lra.train.worker`.

It reads a `WorkerSpec` as one line of JSON from standard input, so no file is left behind when it or the run is killed.
It writes progress to standard output as JSON lines; what libraries print goes to standard error. On SIGTERM and the
other signals of `lra.signals` it saves a checkpoint and ends. It ends at once when its standard input closes, so it
never outlives the run that started it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import errors as flax_errors
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from configs.recipe import Recipe, from_dict
from lra.grid.source import fingerprint
from lra.grid.spec import WorkerSpec
from lra.results import provenance, records
from lra.signals import on_stop
from lra.train import device, distributed, trackers
from lra.train.benchmark import measure, prepare, random_splits
from lra.train.checkpoint import Checkpoints
from lra.train.flops import mfu
from lra.train.loop import Hooks, TrainResult, fit
from lra.train.trackers import Listener
from lra.train.turns import Turns
from models import MIXERS, class_path
from models.attention import transformer
from models.core.encoder import Encoder
from models.core.factory import load_mixer, mixer_factory
from tasks import TASKS
from tasks.io.cache import open_entry

RESUMABLE = ("interrupted", "failed", "oom")
"""Statuses after which a cell can be resumed, so its checkpoints are kept."""


def build(
    mixer: str, recipe: Recipe, vocab: int, classes: int, pair: bool, length: int, seed: int, picture: bool = False
) -> Encoder:
    """Builds the model of a cell.

    Args:
        mixer: a name in `models.MIXERS` or `package.module:Class`.
        recipe: the cell's recipe.
        vocab: number of token ids, padding included.
        classes: number of classes.
        pair: whether an example has two documents.
        length: tokens per document.
        seed: seed of the initial parameters.
        picture: whether the tokens are pixels.
    """
    e = recipe.encoder
    context = {
        "heads": e.heads, "qkv": e.qkv, "layers": e.layers, "rotary": e.positions == "rotary",
        "dropout": e.attention_dropout, "residual_dropout": e.dropout,
    }  # fmt: skip
    make_mixer = mixer_factory(mixer, dict(recipe.mixer), **context)
    return Encoder(
        make_mixer, vocab=vocab, classes=classes, length=length, dim=e.dim, layers=e.layers, mlp=e.mlp, pool=e.pool,
        positions=e.positions, pair_head=e.pair_head, pair=pair, rate=e.dropout, init=e.init, input=e.input,
        pixels=(e.input_mean, e.input_std) if picture else None, norm=e.norm, norm_momentum=e.norm_momentum,
        prenorm=e.prenorm, final_norm=e.final_norm, block=e.block, head=e.head, tied_dropout=e.tied_dropout,
        reversible=e.reversible, remat=recipe.train.remat, window=recipe.ablation.window,
        rngs=nnx.Rngs(seed),
    )  # fmt: skip


def run(spec: WorkerSpec, tell: Listener) -> records.Record:
    """Trains and tests one cell, or benchmarks it if `spec` names no data; returns its record, also after an error."""
    record: records.Record = dict(spec.record) | {"versions": provenance.versions()}
    started = time.perf_counter()
    try:
        if spec.group:
            distributed.join(**dataclasses.asdict(spec.group))
        recipe = from_dict(Recipe, spec.record["recipe"])
        record["code"] = current_code(spec)
        load_mixer(spec.record["cell"]["mixer"])
        jax.config.update("jax_enable_x64", False)  # a mixer's module may have turned it on
        record |= (train if spec.entry else bench)(spec, recipe, tell)
        record |= attention_fields(record)
    except Exception as error:
        traceback.print_exc()
        record["status"] = "oom" if _out_of_memory(error) else "failed"
        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        if isinstance(error, flax_errors.TraceContextError):
            record["error"] += f"; {_OWN_VARIABLES}"
        record |= {"device": record.get("device") or device.describe(), "memory": device.memory(None)}
    return record | {"wall_seconds": time.perf_counter() - started}


def current_code(spec: WorkerSpec) -> dict[str, Any]:
    """The code of the cell's mixer as this process imports it, in a record's form.

    Raises:
        ValueError: another mixer than ours has changed since the run began. It is part of the cell's key.
    """
    mixer, code = spec.record["cell"]["mixer"], spec.record["code"]
    current = fingerprint(class_path(mixer))
    if mixer not in MIXERS and current != code["fingerprint"]:
        raise ValueError(f"the code of {mixer} has changed since this run began: start it again")
    return {**code, "fingerprint": current}


def bench(spec: WorkerSpec, recipe: Recipe, tell: Listener) -> dict[str, Any]:
    """Measures speed and memory on random tokens; returns the fields that the record gains."""
    cell, batch = spec.record["cell"], recipe.train.batch
    task, length = TASKS[cell["task"]], cell["length"]
    turns = Turns(Path(spec.turns)) if spec.turns else None
    dataset = random_splits(task.vocab, task.classes, task.pair, length, batch)
    with turns.preparing() if turns else nullcontext():
        model = build(cell["mixer"], recipe, task.vocab, task.classes, task.pair, length, 0, bool(task.shape))
        # Compilation is timed from here on, so nothing may come from the cache.
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        prepared = prepare(model, dataset, recipe, spec.record.get("memory_limit_bytes"))
    trial = spec.record.get("trial", False)
    with turns.measuring() if turns else nullcontext():
        measured = measure(prepared, tell, trial)
    memory = device.memory(measured.compiled_bytes)
    used_device = device.describe()
    if trial:
        return {"status": "ok", "device": used_device, "memory": memory}
    tokens = batch * (2 if task.pair else 1) * length
    train_speed = speed(measured.train_blocks, batch, tokens)
    rate, kind, used = train_speed["steps_per_second"], used_device["kind"], used_device["used"]
    return {
        "status": "ok",
        "device": used_device,
        "parameters": measured.parameters,
        "flops_per_step": measured.flops_per_step,
        "flops_compiler": measured.flops_compiler,
        "mfu": mfu(measured.flops_per_step, rate, kind, recipe.train.precision, used),
        "energy_per_step_joules": measured.energy_per_step_joules,
        # With turns, other cells compile at the same time.
        "compile_seconds": None if turns else measured.compile_seconds,
        "train_speed": train_speed,
        "inference_speed": speed(measured.inference_blocks, batch, tokens),
        "memory": memory,
    }


def train(spec: WorkerSpec, recipe: Recipe, tell: Listener) -> dict[str, Any]:
    """Trains and tests on the task's data; returns the fields that the record gains."""
    dataset, cell = open_entry(Path(spec.entry or "")), spec.record["cell"]
    task, length, seeds = TASKS[cell["task"]], dataset.values.shape[1], cell["seeds"]
    options = dataclasses.replace(spec.train, row=task.shape[-1] if task.shape else 0)
    sizes = dataset.vocab, dataset.classes, task.pair, length
    models = [build(cell["mixer"], recipe, *sizes, seed, bool(task.shape)) for seed in seeds]
    progress = Progress(spec, tell)
    checkpoints = None
    if options.checkpoints:
        folder = Path(options.checkpoints)
        checkpoints = Checkpoints(
            folder, options.checkpoint_key, options.checkpoint_minutes, progress.warn, spec.record["code"]
        )
    progress.listeners += open_trackers(spec)
    if checkpoints and options.fresh:
        checkpoints.close(delete=True)
    stop = Stop(options.max_minutes)
    try:
        outcome = fit(models, dataset, recipe, seeds, options, Hooks(checkpoints, stop, progress))
    finally:
        if checkpoints:
            checkpoints.close()
    if outcome.reach_error:
        progress.warn(f"how far the model looks could not be measured: {outcome.reach_error}")
    documents = dataset.splits["train"].index.shape[1]
    per_step = {"examples": recipe.train.batch, "tokens": recipe.train.batch * documents * length}
    fields = report(outcome, recipe.train.precision, per_step)
    if spec.record.get("sharing", 1) > 1:
        fields["mfu"] = None
    return fields | {"warnings": progress.warnings, "first_chunk_seconds": progress.first_chunk_seconds}


class Progress:
    """Passes metrics and warnings on to the parent process, and metrics to the trackers too."""

    def __init__(self, spec: WorkerSpec, tell: Listener):
        self.started, self.tell = spec.started, tell
        self.listeners = [tell]
        self.warnings: list[str] = []
        self.first_chunk_seconds: float | None = None
        """From the start of the process to the end of the first chunk: imports, data, compilation."""

    def __call__(self, metrics: dict[str, float]) -> None:
        if self.first_chunk_seconds is None:
            self.first_chunk_seconds = time.time() - self.started
        for listener in self.listeners:
            listener(metrics)

    def warn(self, line: str) -> None:
        """Sends a warning, and keeps it for the record."""
        print(line, file=sys.stderr)
        self.warnings.append(line)
        self.tell({"warning": line})


def attention_fields(record: records.Record) -> dict[str, Any]:
    """Returns the record fields on the attention kernels used, with a warning if one was slow; {} without attention."""
    if not (kernels := transformer.used_kernels()):
        return {}
    line = transformer.fallback_notice(jax.default_backend(), transformer.capability())
    return {"attention_kernels": kernels, "warnings": [*(record.get("warnings") or []), *([line] if line else [])]}


def open_trackers(spec: WorkerSpec) -> list[Listener]:
    """Opens the trackers that the options ask for."""
    options, listeners = spec.train, list[Listener]()
    if options.tensorboard:
        listeners.append(trackers.TensorBoard(Path(options.tensorboard)))
    if options.wandb:
        project, name, folder = options.wandb
        listeners.append(trackers.wandb(project, name, spec.record["recipe"], Path(folder)))
    return listeners


class Stop:
    """Decides when to save and stop: on a signal, or after `minutes`. Called, it returns the reason, or ''.

    It is called before each chunk of steps. However short the time, one chunk is trained, so that a cell whose start
    takes longer goes on in each run all the same.
    """

    def __init__(self, minutes: float | None):
        self.until = None if minutes is None else time.monotonic() + 60 * minutes
        self.minutes, self.terminated, self.calls = minutes, False, 0
        on_stop(self._terminate)

    def _terminate(self, number: int, frame: Any) -> None:
        self.terminated = True

    def __call__(self) -> str:
        if self.terminated:
            return "stopped by a signal; the same command goes on from here"
        self.calls += 1
        if self.until is not None and self.calls > 1 and time.monotonic() > self.until:
            return f"stopped after --max_minutes={self.minutes:g}; the same command goes on from here"
        return ""


def report(outcome: TrainResult, precision: str, per_step: dict[str, int]) -> dict[str, Any]:
    """Returns the record fields of a training result.

    Args:
        outcome: the result.
        precision: the resolved type of activations.
        per_step: `examples` and `tokens` of one training step of one seed.
    """
    train_speed, kind = speed(outcome.blocks or outcome.first_blocks, **per_step), jax.devices()[0].device_kind
    rate = train_speed.get("steps_per_second")
    idle_share = outcome.idle_seconds / outcome.loop_seconds if outcome.loop_seconds else None
    return {
        "status": outcome.status,
        "error": outcome.error,
        "device": device.describe(outcome.devices),
        "results": [dataclasses.asdict(result) for result in outcome.results],
        "parameters": outcome.parameters,
        "flops_per_step": outcome.flops_per_step,
        "compile_seconds": outcome.compile_seconds,
        "mfu": rate and mfu(outcome.flops_per_step, rate, kind, precision, outcome.devices),
        "train_speed": train_speed,
        "idle_share": idle_share,
        "streamed": outcome.streamed,
        "resumed": outcome.resumed,
        "memory": device.memory(outcome.compiled_bytes),
        "reach": outcome.reach,
        "reach_seconds": outcome.reach_seconds,
    }


def speed(
    blocks: list[tuple[int, float]], examples: int | None = None, tokens: int | None = None
) -> dict[str, float | int]:
    """Computes steps per second: the median and the quartiles of the rates of timed blocks.

    Args:
        blocks: (steps, seconds) of each block.
        examples: examples per step, to add examples per second at the median.
        tokens: tokens per step, likewise.
    """
    if not blocks:
        return {}
    rates = [steps / seconds for steps, seconds in blocks]
    low, middle, high = map(float, np.quantile(rates, [0.25, 0.5, 0.75]))
    steps_per_second = {"steps_per_second": middle, "quartile_1": low, "quartile_3": high, "blocks": len(rates)}
    per_step = {"examples_per_second": examples, "tokens_per_second": tokens}
    return steps_per_second | {name: middle * number for name, number in per_step.items() if number is not None}


_OWN_VARIABLES = (
    "a mixer must not change variables of its own in __call__ unless they are nnx.BatchStat: they would not be kept; "
    "random keys come as its argument rngs (README, Adding a mixer)"
)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def _die_with_parent() -> None:
    os.read(0, 1)  # returns when the parent has exited, which closes the pipe
    os._exit(1)


def main() -> None:
    """Runs the cell described on standard input."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Unbuffered, so that the thread waiting for the parent's end holds no lock when this process exits.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if not line.endswith(b"\n"):
        sys.exit("the run that started this cell is gone")
    spec = WorkerSpec.from_json(json.loads(line))
    jax.config.update("jax_compilation_cache_dir", str(Path(spec.compilation_cache) / device.cpu_id()))
    # Initialising a model compiles hundreds of small programs, each below the cache's default minimum of a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    print(file=output)  # ends a line that something has begun while Python started

    def tell(progress: dict[str, Any]) -> None:
        print(json.dumps(progress), file=output, flush=True)

    record = run(spec, tell)
    if spec.group and spec.group.process:
        tell({"ended": {"status": record["status"], "error": record["error"]}})
    else:
        records.write(Path(spec.path), record)
        goes_on = record["status"] in RESUMABLE or (record["status"] == "ok" and not spec.train.test)
        if spec.train.checkpoints and spec.entry and not goes_on:
            shutil.rmtree(spec.train.checkpoints, ignore_errors=True)
    if spec.group and record["status"] in ("failed", "oom"):
        # Other processes may be blocked in a program that waits for this one: exit without JAX's shutdown barrier.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
