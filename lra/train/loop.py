"""Training: arrays and modules in, an outcome out. Knows no task or model by name.

Python runs only between chunks of steps (lra/train/step.py). What it knows there is all that a checkpoint holds, so a
run that was killed goes on from one and ends with the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.recipe import Recipe
from lra.grid.spec import TrainOptions
from lra.train import distributed
from lra.train.checkpoint import Checkpoints
from lra.train.data import DeviceData, StreamedData, fits
from lra.train.step import Program, State, chunk_length, program_bytes
from tasks.task import Dataset

Tree = Any


@dataclass
class SeedResult:
    """What training gave for one seed. Accuracies are fractions of all examples of a split."""

    seed: int
    status: str = "ok"
    """'ok', or 'diverged' when the loss stopped being finite."""
    error: str = ""
    steps: int = 0
    """Steps done; a diverged seed's last is the first whose loss was not finite."""
    best_step: int = 0
    """The earliest step of the highest validation accuracy."""
    validation_best: float = math.nan
    validation_last: float = math.nan
    test_best: float = math.nan
    """Test accuracy of the parameters at `best_step`: the number to quote."""
    test_last: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainResult:
    """What the training of a cell gave, all its processes together where it was resumed."""

    results: list[SeedResult]
    status: str = "ok"
    """'ok', 'diverged' when every seed did, or 'interrupted' when it stopped early and can go on."""
    error: str = ""
    steps: int = 0
    parameters: int = 0
    """Of one seed's model."""
    flops_per_step: float | None = None
    """Floating-point operations of one training step of all seeds."""
    compile_seconds: float = 0.0
    blocks: list[tuple[int, float]] = field(default_factory=list)
    """(steps, seconds) of each timed chunk but a process's first."""
    first_blocks: list[tuple[int, float]] = field(default_factory=list)
    """The first chunk of each process, which warms up."""
    idle_seconds: float = 0.0
    """Time between a result's arrival on the host and the next chunk's start, in which devices had nothing to do."""
    loop_seconds: float = 0.0
    """Time in the loop of chunks, validations and checkpoints, without compilation."""
    compiled_bytes: int | None = None
    """Temporaries + arguments + outputs − aliased of the compiled training chunk."""
    devices: int = 1
    """That shared each batch, of all processes."""
    processes: int = 1
    streamed: bool = False
    resumed: int = 0
    """How often training went on from a checkpoint."""


@dataclass(frozen=True)
class Hooks:
    """What a training calls between chunks of steps."""

    checkpoints: Checkpoints | None = None
    stop: Callable[[], str] = lambda: ""
    """Asked between chunks: the reason to save and stop, or ''."""
    on_progress: Callable[[dict[str, float]], None] = lambda metrics: None


def fit(
    models: Sequence[nnx.Module],
    splits: Dataset,
    recipe: Recipe,
    seeds: Sequence[int],
    options: TrainOptions | None = None,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Trains one model per seed by `recipe` and tests each once, at its best validation step and at the last.

    `recipe.train.precision` must be resolved ('float32' or 'bfloat16'). The results are a function of the
    arguments and the device; how steps are grouped into chunks, and how often training was interrupted and
    resumed from a checkpoint, changes no bit of them.
    """
    return Trainer(models, splits, recipe, seeds, options or TrainOptions(), hooks or Hooks()).run()


class Trainer:
    """The state of one call of `fit`."""

    def __init__(
        self,
        models: Sequence[nnx.Module],
        splits: Dataset,
        recipe: Recipe,
        seeds: Sequence[int],
        options: TrainOptions,
        hooks: Hooks,
    ):
        self.recipe, self.hooks, self.budget = recipe, hooks, recipe.train
        devices = distributed.devices(options.devices)
        self.counts = {name: len(split.labels) for name, split in splits.splits.items()}
        documents = splits.splits["train"].index.shape[1]
        self.program = Program(models, recipe, self.counts["train"], documents, seeds, devices)
        lacking = "" if fits(splits, jax.local_devices()[0]) else "no room"
        streamed = options.stream == "on" or (options.stream == "auto" and bool(distributed.first_reason(lacking)))
        self.feed: DeviceData | StreamedData = (
            StreamedData(splits, self.budget.batch, seeds, self.program.mesh)
            if streamed
            else DeviceData(splits, self.program.sharding)
        )
        self.state = self.program.init()
        self.best = jax.tree.map(jnp.copy, self.state.params)
        self.recent: list[np.ndarray] = []
        """Losses and accuracies [steps, seeds, 2] since the last validation."""
        leaves = jax.tree.leaves(self.state.params)
        self.outcome = TrainResult(
            [SeedResult(seed) for seed in seeds],
            parameters=sum(p.size for p in leaves) // len(seeds),
            devices=len(devices),
            processes=jax.process_count(),
            streamed=streamed,
        )
        self.interval = min(self.budget.eval_every, self.budget.steps)
        self.length = 1
        self.compiled: dict[int, Any] = {}
        self.evaluate: Any = None
        self.profile = options.profile
        self.warm = False
        self.entered = 0.0

    def run(self) -> TrainResult:
        self._restore()
        self._compile()
        outcome = self.outcome
        self.entered, ready = time.perf_counter(), None
        while outcome.steps < self.budget.steps and any(r.status == "ok" for r in outcome.results):
            reason = distributed.first_reason(self.hooks.stop())
            if reason:
                self._save(wait=True)
                outcome.status, outcome.error = "interrupted", reason
                break
            ready = self._chunk(ready)
            if outcome.steps % self.interval == 0 or outcome.steps == self.budget.steps:
                improved = self._validate()
                ready = time.perf_counter()
            else:
                improved = False
            if self.hooks.checkpoints and (improved or self.hooks.checkpoints.due()):
                self._save()
        outcome.loop_seconds += time.perf_counter() - self.entered
        if all(r.status == "diverged" for r in outcome.results):
            outcome.status, outcome.error = "diverged", outcome.results[0].error
        elif outcome.status == "ok":
            self._test()
        return outcome

    def _compile(self) -> None:
        started = time.perf_counter()
        program = self.program
        self.outcome.flops_per_step = program.flops(self.feed.chunk(0, 1))
        self.length = chunk_length(self.interval, self.outcome.flops_per_step, jax.default_backend())
        self._chunk_of(min(self.length, self.budget.steps))
        self.outcome.compiled_bytes = program_bytes(next(iter(self.compiled.values())))
        self.evaluate = {
            split: program.compile_evaluate(self.feed.examples(split, 0, program.evaluation_batch()))
            for split in ("validation", "test")
        }
        self.outcome.compile_seconds += time.perf_counter() - started

    def _chunk_of(self, steps: int) -> Any:
        """The compiled chunk of so many steps."""
        if steps not in self.compiled:
            source = self.feed.chunk(self.outcome.steps, steps)
            self.compiled[steps] = self.program.compile_chunk(self.state, source, steps)
        return self.compiled[steps]

    def _next(self) -> int:
        """Steps of the next chunk: it ends at the next validation at the latest."""
        done = self.outcome.steps
        stop = min(self.budget.steps, (done // self.interval + 1) * self.interval)
        return min(self.length, stop - done)

    def _chunk(self, ready: float | None) -> float:
        """Runs a chunk; `ready` is when the devices had nothing to do any more. Returns when they have no more."""
        outcome, size = self.outcome, self._next()
        if size not in self.compiled:
            started = time.perf_counter()
            self._chunk_of(size)
            took = time.perf_counter() - started
            outcome.compile_seconds += took
            outcome.loop_seconds -= took
            ready = None
        source = self.feed.chunk(outcome.steps, size)
        profiling = self.profile if outcome.first_blocks or size == self.budget.steps else None
        if profiling:
            jax.profiler.start_trace(str(profiling))
        started = time.perf_counter()
        if ready is not None:
            outcome.idle_seconds += started - ready
        self.state, told = self.compiled[size](self.state, self.program.rest, source)
        outcome.steps += size
        if outcome.steps < self.budget.steps:
            self.feed.prefetch(outcome.steps, self._next())
        metrics = np.stack(jax.device_get(told), axis=-1)
        ended = time.perf_counter()
        if profiling:
            jax.profiler.stop_trace()
            self.profile = None
        (outcome.blocks if self.warm else outcome.first_blocks).append((size, ended - started))
        self.warm = True
        self.recent.append(metrics)
        self._look_for_divergence(metrics, outcome.steps - size)
        told_on = {"step": outcome.steps, "loss": float(np.mean(metrics[-1, :, 0]))}
        self.hooks.on_progress(told_on | {"steps_per_second": size / (ended - started)})
        return ended

    def _look_for_divergence(self, metrics: np.ndarray, first: int) -> None:
        finite = np.isfinite(metrics[..., 0])
        for s, result in enumerate(self.outcome.results):
            if result.status != "ok":
                continue
            result.steps = first + len(metrics)
            if not finite[:, s].all():
                at = int(np.argmin(finite[:, s]))
                result.status, result.steps = "diverged", first + at + 1
                result.error = f"the loss was {metrics[at, s, 0]} at step {first + at}"

    def _score(self, params: Tree, split: str) -> np.ndarray:
        """Mean loss and accuracy over every example of a split, [2, seeds]."""
        count, size = self.counts[split], self.program.evaluation_batch()
        sums = [
            self.evaluate[split](
                params, self.program.rest, self.feed.examples(split, i, size), np.int32(i), np.int32(count)
            )
            for i in range(0, count, size)
        ]
        total: np.ndarray = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0) / count
        return total

    def _validate(self) -> bool:
        """Validates all seeds, and keeps the parameters of those that are better than before; whether any is."""
        losses, accuracies = self._score(self.state.params, "validation")
        train = np.concatenate(self.recent).mean(axis=0, dtype=np.float64)
        self.recent = []
        better = np.zeros(len(self.outcome.results), bool)
        for s, result in enumerate(self.outcome.results):
            if result.status != "ok":
                continue
            accuracy = float(accuracies[s])
            result.curve.append(
                {
                    "step": self.outcome.steps,
                    "train_loss": float(train[s, 0]),
                    "train_accuracy": float(train[s, 1]),
                    "validation_loss": float(losses[s]),
                    "validation_accuracy": accuracy,
                }
            )
            result.validation_last = accuracy
            if not accuracy <= result.validation_best:
                result.validation_best, result.best_step = accuracy, self.outcome.steps
                better[s] = True
        if better.any():
            self.best = _choose(better, self.state.params, self.best)
        self.hooks.on_progress({"step": self.outcome.steps, "validation_accuracy": float(np.mean(accuracies))})
        return bool(better.any())

    def _test(self) -> None:
        """Tests the last parameters and the best ones of every seed that is well."""
        last = best = self._score(self.state.params, "test")[1]
        if any(result.best_step < result.steps for result in self.outcome.results):
            best = self._score(self.best, "test")[1]
        for s, result in enumerate(self.outcome.results):
            if result.status == "ok":
                result.test_last, result.test_best = float(last[s]), float(best[s])

    def _save(self, wait: bool = False) -> None:
        if self.hooks.checkpoints is None:
            return
        recent = np.concatenate(self.recent).tolist() if self.recent else []
        looped = self.outcome.loop_seconds + time.perf_counter() - self.entered
        told = dataclasses.asdict(self.outcome) | {"recent": recent, "loop_seconds": looped}
        self.hooks.checkpoints.save(self.outcome.steps, self._arrays(), told, wait)

    def _arrays(self) -> Tree:
        return {"state": self.state._asdict(), "best": self.best, "rest": self.program.rest}

    def _restore(self) -> None:
        """Goes on from the newest usable checkpoint, if there is one."""
        like = self._arrays()
        found = distributed.broadcast_checkpoint(
            self.hooks.checkpoints.restore(like) if self.hooks.checkpoints else None, like
        )
        if found is None:
            return
        arrays, told = found
        self.state, self.best, self.program.rest = State(**arrays["state"]), arrays["best"], arrays["rest"]
        recent = told.pop("recent")
        self.recent = [np.array(recent, np.float32)] if recent else []
        results = [SeedResult(**r) for r in told.pop("results")]
        told["blocks"], told["first_blocks"] = ([tuple(b) for b in told[k]] for k in ("blocks", "first_blocks"))
        now = {"devices": self.outcome.devices, "processes": self.outcome.processes}
        if now != {name: told.get(name, 1) for name in now}:
            # Speed is told of what the cell is called by; what others have done counts as results alone.
            told |= {"blocks": [], "first_blocks": [], "idle_seconds": 0.0, "loop_seconds": 0.0}
        told |= now | {"resumed": told["resumed"] + 1, "streamed": self.outcome.streamed}
        self.outcome = TrainResult(results, **told)


@jax.jit
def _choose(better: np.ndarray, new: Tree, old: Tree) -> Tree:
    """The parameters `new` of the seeds that are `better`, and `old` of the others."""
    return jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
