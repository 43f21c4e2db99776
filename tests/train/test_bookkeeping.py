"""What the loop does between chunks, with programs and data that only note how they were called."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lra.train import loop
from lra.train.loop import Hooks, SeedResult, Trainer, TrainResult
from lra.train.step import State


def trainer(seeds=(0, 1), **fields):
    """A trainer without models; `fields` are its attributes."""
    bare = Trainer.__new__(Trainer)
    weights = jnp.zeros((len(seeds), 1))
    usual = {
        "outcome": TrainResult([SeedResult(seed) for seed in seeds]), "hooks": Hooks(), "recent": [], "profile": None,
        "budget": SimpleNamespace(steps=20, batch=4), "state": State({"w": weights}, {}, jnp.int32(0)),
        "best": {"w": weights}, "best_moving": {"ω": weights},
        "program": SimpleNamespace(fixed="fixed", other_state={}), "interval": 10, "length": 5, "compiled": {},
        "warm": False, "evaluation_seconds": 0.0, "counts": {"validation": 12, "test": 24},
    }  # fmt: skip
    for name, value in (usual | fields).items():
        setattr(bare, name, value)
    return bare


ACCURACY = {
    "validation": {0: [0.5, 0.9, 0.9, 0.7], 1: [0.3, 0.2, 0.1, 0.8]},
    "test": {0: [0.1, 0.2, 0.3, 0.95], 1: [0.6, 0.5, 0.4, 0.3]},
}
"""By split and seed: the accuracies of the parameters at steps 1 to 4, whose value is the step."""


def test_each_seed_is_tested_at_its_earliest_best_step_on_validation_and_at_its_last():
    trained = trainer(seeds=(0, 1, 2))
    trained.outcome.results[2].status = "diverged"

    def score(params, redrawn, split):
        np.testing.assert_array_equal(params["w"], redrawn["ω"])  # parameters go with what was drawn at their step
        steps = np.asarray(params["w"])[:, 0].astype(int) - 1
        accuracies = [ACCURACY[split][seed][steps[seed]] for seed in (0, 1)]
        return np.zeros(3), np.array([*accuracies, 1.0])

    trained._score = score
    for step in range(1, 5):
        trained.outcome.steps = step
        for result in trained.outcome.results:
            result.steps = step
        drawn = jnp.full((3, 1), float(step))
        trained.state = State({"w": drawn}, {}, jnp.int32(step), {"ω": drawn})
        trained.recent = [np.full((2, 3, 2), step)]
        assert trained._validate() is (step in (1, 2, 4))
    trained._test()
    one, two, lost = trained.outcome.results
    assert (one.best_step, one.validation_best, one.validation_last) == (2, 0.9, 0.7)
    assert (one.test_best, one.test_last) == (0.2, 0.95)
    assert (two.best_step, two.test_best, two.test_last) == (4, 0.3, 0.3)
    assert [(p["step"], p["train_loss"], p["validation_accuracy"]) for p in one.curve] == [
        (step, step, ACCURACY["validation"][0][step - 1]) for step in range(1, 5)
    ]
    assert not lost.curve and math.isnan(lost.test_best) and math.isnan(lost.validation_best)


def test_a_loss_that_is_not_finite_ends_its_seed_at_that_step_even_if_later_ones_are():
    trained = trainer()
    metrics = np.zeros((3, 2, 2))
    metrics[1, 1, 0] = np.inf
    trained._detect_divergence(metrics, 10)
    trained._detect_divergence(np.zeros((3, 2, 2)), 13)
    fine, lost = trained.outcome.results
    assert (fine.status, fine.steps) == ("ok", 16)
    assert (lost.status, lost.steps, lost.error) == ("diverged", 12, "the loss was inf at step 11")


def test_chunks_follow_each_other_and_only_their_own_time_counts(monkeypatch):
    """Five seconds a chunk; seven for its data, and a hundred to compile it."""
    clock, calls = SimpleNamespace(now=0.0), []

    def spend(seconds, *what):
        clock.now += seconds
        calls.append(what)

    def run(state, fixed, source):
        spend(5, "run", source)
        return state, (np.zeros((source[1], 2)), np.zeros((source[1], 2)))

    def compile_chunk(steps):
        spend(100, "compile", steps)
        trained.compiled[steps] = run

    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock.now)
    source = SimpleNamespace(
        chunk=lambda step, steps: spend(7, "chunk", step, steps) or (step, steps),
        prefetch=lambda step, steps: spend(0, "prefetch", step, steps),
    )
    trained = trainer(source=source, compiled={5: run}, _compile_chunk=compile_chunk, interval=8)
    trained.outcome.steps = trained.outcome.resumed = 5  # as after a restart
    idle_since = None
    while trained.outcome.steps < 20:
        idle_since = trained._run_chunk(idle_since)
    assert [call[1] for call in calls if call[0] == "run"] == [(5, 3), (8, 5), (13, 3), (16, 4)]
    assert [call[1:] for call in calls if call[0] == "prefetch"] == [(8, 5), (13, 3), (16, 4)]
    assert trained.outcome.first_blocks == [(3, 5.0)] and trained.outcome.blocks == [(5, 5.0), (3, 5.0), (4, 5.0)]
    assert trained.outcome.compile_seconds == 200 and trained.outcome.idle_seconds == 14


@pytest.mark.parametrize("recent", [[], [[[0.5, 0.25], [1.5, 0.75]]]])
def test_a_checkpoint_brings_back_state_best_parameters_and_progress(recent):
    saved = trainer(recent=[np.array(recent, np.float32)] if recent else [])
    saved.state, saved.best = State({"w": jnp.full((2, 1), 3.0)}, {"m": jnp.ones(2)}, jnp.int32(15)), {"w": jnp.ones(2)}
    saved.outcome.steps, saved.outcome.blocks, saved.loop_started = 15, [(5, 2.0)], 0.0
    saved.outcome.results[0].best_step = 10
    kept = []
    saved.hooks = Hooks(checkpoints=SimpleNamespace(save=lambda *arguments: kept.append(arguments)))
    saved._save()
    ((step, arrays, progress, _),) = kept
    restored = trainer(hooks=Hooks(checkpoints=SimpleNamespace(restore=lambda like: (arrays, progress))))
    restored._restore()
    assert step == restored.outcome.steps == restored.state.step == 15 and restored.outcome.resumed == 1
    assert (
        restored.state.params["w"][0, 0] == 3 and restored.best["w"][0] == 1 and restored.state.optimizer["m"][0] == 1
    )
    # As text: NaN is not equal to itself.
    assert repr(restored.outcome.results) == repr(saved.outcome.results) and restored.outcome.blocks == [(5, 2.0)]
    assert [part.tolist() for part in restored.recent] == ([recent] if recent else [])


@pytest.mark.parametrize(
    ("done", "interval", "per_example", "left"),
    [
        # 15 steps of 2 s, validations at 10 and 20 of 12 examples each, and two tests of 24; each 0.5 s.
        (5, 10, 0.5, 30 + 0.5 * (2 * 12 + 2 * 24)),
        (10, 10, 0.5, 20 + 0.5 * (1 * 12 + 2 * 24)),
        # Validations at 16 and, after the last step, at 20.
        (15, 8, 0.5, 10 + 0.5 * (2 * 12 + 2 * 24)),
        # Nothing was evaluated yet: a third of a step's 2 s for 4 examples.
        (5, 10, 0.0, 30 + 2 / 12 * (2 * 12 + 2 * 24)),
    ],
)
def test_the_time_left_counts_validations_and_tests(done, interval, per_example, left):
    trained = trainer(interval=interval, evaluation_seconds=per_example)
    trained.outcome.steps = done
    assert trained._seconds_left(2.0) == pytest.approx(left)
