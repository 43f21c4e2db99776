"""The training loop: chunks of steps, validation, checkpoints and the final test.

Python runs only between chunks of steps (lra/train/step.py). Its state there is exactly the content of a checkpoint,
so a killed run resumes from one and ends with the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.recipe import Ablation, Recipe
from lra.grid.spec import TrainOptions
from lra.train import distributed, pairs, reach
from lra.train.checkpoint import Checkpoints
from lra.train.data import DeviceData, StreamedData, fits, sample_evaluated, sample_split
from lra.train.optimizer import count_parameters
from lra.train.shuffles import ablated
from lra.train.step import Program, State, chunk_length, evaluation_batch, part_of, program_bytes, replaced
from tasks.task import Dataset

Tree = Any


@dataclass
class SeedResult:
    """Training result of one seed. Accuracies are fractions of the examples of a split that are evaluated."""

    seed: int
    status: str = "ok"
    """'ok', or 'diverged' when the loss stopped being finite."""
    error: str = ""
    steps: int = 0
    """Steps taken; for a diverged seed, up to and including the first whose loss was not finite."""
    best_step: int = 0
    """The earliest step with the highest validation accuracy."""
    validation_best: float = math.nan
    validation_last: float = math.nan
    test_best: float = math.nan
    """Test accuracy of the parameters at `best_step`: the number to report."""
    test_last: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainResult:
    """Training result of a cell; if it was resumed, over all its sessions."""

    results: list[SeedResult]
    status: str = "ok"
    """'ok', 'diverged' if every seed diverged, or 'interrupted' if it stopped early and can be resumed."""
    error: str = ""
    steps: int = 0
    parameters: int = 0
    """Parameters of one seed's model."""
    flops_per_step: float | None = None
    """Floating-point operations of one training step of all seeds."""
    compile_seconds: float = 0.0
    blocks: list[tuple[int, float]] = field(default_factory=list)
    """(steps, seconds) of each chunk except the first of each session."""
    first_blocks: list[tuple[int, float]] = field(default_factory=list)
    """(steps, seconds) of the first chunk of each session, which warms up."""
    idle_seconds: float = 0.0
    """Time in which the devices were idle: from a result's arrival on the host to the start of the next chunk."""
    loop_seconds: float = 0.0
    """Time in the loop of chunks, validations and checkpoints, without compilation."""
    compiled_bytes: int | None = None
    """Temporaries + arguments + outputs − aliased of the compiled training chunk."""
    devices: int = 1
    """Devices of all processes that shared each batch."""
    processes: int = 1
    streamed: bool = False
    resumed: int = 0
    """How often training was resumed from a checkpoint."""
    reach: list[dict[str, Any]] = field(default_factory=list)
    """How far the model looks (`lra.train.reach`), with the seed's number, for each that has not diverged."""
    reach_error: str = ""
    """Why that could not be measured."""
    reach_seconds: float = 0.0
    """Time that it took, with compilation."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks between chunks of steps."""

    checkpoints: Checkpoints | None = None
    stop: Callable[[], str] = lambda: ""
    """Returns the reason to save and stop, or ''."""
    on_progress: Callable[[dict[str, float]], None] = lambda metrics: None


def fit(
    models: Sequence[nnx.Module],
    dataset: Dataset,
    recipe: Recipe,
    seeds: Sequence[int],
    options: TrainOptions | None = None,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Trains one model per seed, then tests its parameters of the best validation step and of the last step.

    Without `options.test` it stops before the test, with a checkpoint from which another call goes on to it.

    The results depend only on the arguments and the device: neither the grouping of steps into chunks nor
    interruption and resumption from a checkpoint changes a single bit.

    Args:
        models: one model per seed, all of the same structure.
        dataset: the prepared data.
        recipe: the recipe, with `train.precision` resolved ('float32' or 'bfloat16').
        seeds: seeds of the order of examples and of dropout.
        options: devices, streaming and profiling.
        hooks: checkpoints and callbacks.
    """
    return Trainer(models, dataset, recipe, seeds, options or TrainOptions(), hooks or Hooks()).run()


class Trainer:
    """The state of one call to `fit`."""

    def __init__(
        self,
        models: Sequence[nnx.Module],
        dataset: Dataset,
        recipe: Recipe,
        seeds: Sequence[int],
        options: TrainOptions,
        hooks: Hooks,
    ):
        self.recipe, self.hooks, self.budget = recipe, hooks, recipe.train
        dataset = ablated(sample_evaluated(dataset, recipe.train), recipe.ablation)
        devices = distributed.devices(options.devices)
        self.counts = {name: len(split.labels) for name, split in dataset.splits.items()}
        documents = dataset.splits["train"].index.shape[1]
        self.tokens = documents * dataset.values.shape[1]
        """Of an example."""
        self.program = Program(models, recipe, self.counts["train"], documents, seeds, devices)
        reason = "" if fits(dataset, jax.local_devices()[0]) else "no room"
        streamed = options.stream == "on" or (options.stream == "auto" and bool(distributed.first_reason(reason)))
        self.source: DeviceData | StreamedData = (
            StreamedData(dataset, self.budget.batch, seeds, self.program.mesh)
            if streamed
            else DeviceData(dataset, self.program.sharding)
        )
        whole = recipe.ablation == Ablation()  # else the cell is itself a measurement of this kind
        self.sample = _sample_on_host(dataset, options.row) if options.reach and whole else None
        self.test, self.pairs = options.test, options.pairs
        self.state = self.program.init()
        self.best, self.best_moving = jax.tree.map(jnp.copy, (self.state.params, self.state.moving))
        """Parameters and moving variables of each seed's best validation."""
        self.recent: list[np.ndarray] = []
        """Losses and accuracies since the last validation, [steps, seeds, 2] per chunk."""
        self.outcome = TrainResult(
            [SeedResult(seed) for seed in seeds],
            parameters=count_parameters(self.state.params) // len(seeds),
            devices=len(devices),
            processes=jax.process_count(),
            streamed=streamed,
        )
        self.interval = min(self.budget.eval_every, self.budget.steps)
        self.length = 1
        self.compiled: dict[int, Any] = {}
        self.evaluate: dict[str, tuple[Any, int]] = {}
        """By split: the compiled evaluation, and its examples per batch."""
        self.profile = options.profile
        self.warm = False
        self.loop_started = 0.0
        self.evaluation_seconds = 0.0
        """Of an example in the latest evaluation; 0 before the first."""

    def run(self) -> TrainResult:
        """Trains and tests all seeds, from the newest usable checkpoint on."""
        self._restore()
        self._compile()
        outcome = self.outcome
        self.loop_started, idle_since = time.perf_counter(), None
        while outcome.steps < self.budget.steps and any(r.status == "ok" for r in outcome.results):
            reason = distributed.first_reason(self.hooks.stop())
            if reason:
                self._save(wait=True)
                outcome.status, outcome.error = "interrupted", reason
                break
            idle_since = self._run_chunk(idle_since)
            if outcome.steps % self.interval == 0 or outcome.steps == self.budget.steps:
                improved = self._validate()
                idle_since = time.perf_counter()
            else:
                improved = False
            if self.hooks.checkpoints and (improved or self.hooks.checkpoints.due()):
                self._save()
        outcome.loop_seconds += time.perf_counter() - self.loop_started
        self.loop_started = time.perf_counter()
        if all(r.status == "diverged" for r in outcome.results):
            outcome.status, outcome.error = "diverged", outcome.results[0].error
        elif outcome.status == "ok" and not self.test:
            self._save(wait=True)
        elif outcome.status == "ok":
            self._test()
            if self.sample is not None:
                self._measure_reach(self.sample)
        return outcome

    def _compile(self) -> None:
        started = time.perf_counter()
        program = self.program
        self.outcome.flops_per_step = program.flops(self.source.chunk(0, 1))
        self.length = chunk_length(self.interval, self.outcome.flops_per_step, jax.default_backend())
        self._compile_chunk(min(self.length, self.budget.steps))
        self.outcome.compiled_bytes = program_bytes(next(iter(self.compiled.values())))
        self.evaluate = {split: self._compile_evaluation(split) for split in ("validation", "test")}
        self.outcome.compile_seconds += time.perf_counter() - started

    def _compile_evaluation(self, split: str) -> tuple[Any, int]:
        """Returns the compiled evaluation of a split, and its examples per batch.

        Where a larger batch would need more memory than a training step, the batch is a training batch's part.
        """
        backend, part, count = jax.default_backend(), part_of(self.budget), self.counts[split]
        for size in (evaluation_batch(self.recipe, self.tokens, count, self.outcome.devices, backend), part):
            compiled = self.program.compile_evaluate(self.source.examples(split, 0, size), size)
            if size <= part or (program_bytes(compiled) or 0) <= (self.outcome.compiled_bytes or math.inf):
                break
        return compiled, size

    def _compile_chunk(self, steps: int) -> None:
        source = self.source.chunk(self.outcome.steps, steps)
        self.compiled[steps] = self.program.compile_chunk(self.state, source, steps)

    def _next_length(self) -> int:
        """Returns the steps of the next chunk, which ends at the next validation at the latest."""
        done = self.outcome.steps
        stop = min(self.budget.steps, (done // self.interval + 1) * self.interval)
        return min(self.length, stop - done)

    def _run_chunk(self, idle_since: float | None) -> float:
        """Runs one chunk of steps.

        Args:
            idle_since: when the devices last became idle; None if that time is not to be counted.

        Returns:
            When they became idle again.
        """
        outcome, size = self.outcome, self._next_length()
        if size not in self.compiled:
            started = time.perf_counter()
            self._compile_chunk(size)
            seconds = time.perf_counter() - started
            outcome.compile_seconds += seconds
            outcome.loop_seconds -= seconds
            idle_since = None
        source = self.source.chunk(outcome.steps, size)
        profiling = self.profile if outcome.first_blocks or size == self.budget.steps else None
        if profiling:
            jax.profiler.start_trace(str(profiling))
        started = time.perf_counter()
        if idle_since is not None:
            outcome.idle_seconds += started - idle_since
        self.state, device_metrics = self.compiled[size](self.state, self.program.fixed, source)
        outcome.steps += size
        if outcome.steps < self.budget.steps:
            self.source.prefetch(outcome.steps, self._next_length())
        metrics = np.stack(jax.device_get(device_metrics), axis=-1)
        ended = time.perf_counter()
        if profiling:
            jax.profiler.stop_trace()
            self.profile = None
        (outcome.blocks if self.warm else outcome.first_blocks).append((size, ended - started))
        self.warm = True
        self.recent.append(metrics)
        self._detect_divergence(metrics, outcome.steps - size)
        loss = float(np.mean(metrics[-1, :, 0]))
        speed = size / (ended - started)
        left = self._seconds_left(1 / speed)
        self.hooks.on_progress({"step": outcome.steps, "loss": loss, "steps_per_second": speed, "seconds_left": left})
        return ended

    def _seconds_left(self, seconds_per_step: float) -> float:
        """Estimates the time to the end: steps, validations and two tests, at the speed of the latest of each.

        Until something was evaluated, an example takes a third of what it takes in training: no backward pass.
        """
        done, budget = self.outcome.steps, self.budget
        per_example = self.evaluation_seconds or seconds_per_step / (3 * budget.batch)
        validations = -(-budget.steps // self.interval) - done // self.interval
        examples = validations * self.counts["validation"] + 2 * self.counts["test"]
        return (budget.steps - done) * seconds_per_step + examples * per_example

    def _detect_divergence(self, metrics: np.ndarray, first: int) -> None:
        """Marks the seeds with a loss that is not finite, given metrics [steps, seeds, 2] from step `first` on."""
        finite = np.isfinite(metrics[..., 0])
        for s, result in enumerate(self.outcome.results):
            if result.status != "ok":
                continue
            result.steps = first + len(metrics)
            if not finite[:, s].all():
                at = int(np.argmin(finite[:, s]))
                result.status, result.steps = "diverged", first + at + 1
                result.error = f"the loss was {metrics[at, s, 0]} at step {first + at}"

    def _score(self, params: Tree, moving: Tree, split: str) -> np.ndarray:
        """Mean loss and accuracy over a split's evaluated examples, [2, seeds], with these moving variables."""
        (evaluate, size), count, started = self.evaluate[split], self.counts[split], time.perf_counter()
        other_state = replaced(self.program.other_state, moving)
        sums = [
            evaluate(params, other_state, self.source.examples(split, i, size), np.int32(i), np.int32(count))
            for i in range(0, count, size)
        ]
        total: np.ndarray = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0) / count
        self.evaluation_seconds = (time.perf_counter() - started) / count
        return total

    def _validate(self) -> bool:
        """Validates all seeds and keeps the parameters of those that improved; returns whether any did."""
        losses, accuracies = self._score(self.state.params, self.state.moving, "validation")
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
            new, old = (self.state.params, self.state.moving), (self.best, self.best_moving)
            self.best, self.best_moving = _choose(better, new, old)
        self.hooks.on_progress({"step": self.outcome.steps, "validation_accuracy": float(np.mean(accuracies))})
        return bool(better.any())

    def _test(self) -> None:
        """Tests the last and the best parameters of every seed that has not diverged."""
        last = best = self._score(self.state.params, self.state.moving, "test")[1]
        if any(result.best_step < result.steps for result in self.outcome.results):
            best = self._score(self.best, self.best_moving, "test")[1]
        for s, result in enumerate(self.outcome.results):
            if result.status == "ok":
                result.test_last, result.test_best = float(last[s]), float(best[s])

    def _measure_reach(self, sample: reach.Sample) -> None:
        """Measures how far the best parameters of every seed look. Whatever goes wrong, training and test stay."""
        self._save(wait=True)
        outcome, batch = self.outcome, max(1, part_of(self.budget) // self.outcome.devices)
        variables = self.best, replaced(self.program.other_state, self.best_moving)
        # Each process has the whole of them, and measures on a device of its own.
        places = [s for s, result in enumerate(outcome.results) if result.status == "ok"]
        seeds, initial = (
            [jax.tree.map(lambda x, s=s: x.addressable_data(0)[s], both) for s in places]
            for both in (variables, (self.program.params, self.program.other_state))
        )

        def check() -> None:
            if reason := distributed.first_reason(self.hooks.stop()):
                raise _StoppedError(reason)
            self.hooks.on_progress({"step": outcome.steps, "seconds_left": 0.0})

        started = time.perf_counter()
        try:
            found = reach.measure(lambda both: self.program.model(*both), seeds, initial, sample, batch, check)
            if self.pairs:
                exact = partial(self.program.model, dtype=jnp.float32)
                joined = pairs.measure(lambda both: exact(both[0], both[1]), seeds, sample, batch, check)
                found = [of_seed | {"pairs": of_pairs} for of_seed, of_pairs in zip(found, joined, strict=True)]
            outcome.reach = [
                {"seed": outcome.results[s].seed} | of_seed for s, of_seed in zip(places, found, strict=True)
            ]
        except _StoppedError as stop:
            outcome.status, outcome.error = "interrupted", str(stop)
        except Exception as error:  # a mixer of a user's, or memory
            outcome.reach_error = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        outcome.reach_seconds = time.perf_counter() - started

    def _save(self, wait: bool = False) -> None:
        if self.hooks.checkpoints is None:
            return
        recent = np.concatenate(self.recent).tolist() if self.recent else []
        loop_seconds = self.outcome.loop_seconds + time.perf_counter() - self.loop_started
        progress = dataclasses.asdict(self.outcome) | {"recent": recent, "loop_seconds": loop_seconds}
        self.hooks.checkpoints.save(self.outcome.steps, self._arrays(), progress, wait)

    def _arrays(self) -> Tree:
        """Returns the arrays that a checkpoint holds, under the names that it stores."""
        return {
            "state": self.state._asdict(), "best": self.best, "best_moving": self.best_moving,
            "rest": self.program.other_state,
        }  # fmt: skip

    def _restore(self) -> None:
        """Resumes from the newest usable checkpoint, if any."""
        like = self._arrays()
        checkpoint = distributed.broadcast_checkpoint(
            self.hooks.checkpoints.restore(like) if self.hooks.checkpoints else None, like
        )
        if checkpoint is None:
            return
        arrays, progress = checkpoint
        self.state, self.best, self.best_moving = State(**arrays["state"]), arrays["best"], arrays["best_moving"]
        self.program.other_state = arrays["rest"]
        recent = progress.pop("recent")
        self.recent = [np.array(recent, np.float32)] if recent else []
        results = [SeedResult(**r) for r in progress.pop("results")]
        for name in ("blocks", "first_blocks"):
            progress[name] = [tuple(block) for block in progress[name]]
        current = {"devices": self.outcome.devices, "processes": self.outcome.processes}
        if current != {name: progress.get(name, 1) for name in current}:
            # Times of other devices would distort the speed recorded for these; only the results carry over.
            progress |= {"blocks": [], "first_blocks": [], "idle_seconds": 0.0, "loop_seconds": 0.0}
        progress |= current | {"resumed": progress["resumed"] + 1, "streamed": self.outcome.streamed}
        self.outcome = TrainResult(results, **progress)


class _StoppedError(Exception):
    """The reason to stop, which came while something was measured."""


def _sample_on_host(dataset: Dataset, row: int) -> reach.Sample:
    """The examples of the test split on which `lra.train.reach` measures."""
    split = dataset.splits["test"]
    split = sample_split(split, min(reach.EXAMPLES, len(split.labels)))
    rows = np.asarray(split.index)
    lengths, labels = np.asarray(dataset.lengths)[rows], np.asarray(split.labels)
    return reach.Sample(np.asarray(dataset.values[rows]), lengths, labels, row)


@jax.jit
def _choose(better: np.ndarray, new: Tree, old: Tree) -> Tree:
    """Selects `new` parameters for the seeds that are `better` [seeds], `old` ones elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
