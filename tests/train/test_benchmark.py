"""The rules of timing, with a clock that the test moves; memory is checked before anything runs."""

import dataclasses
from types import SimpleNamespace

import pytest

from lra.train import benchmark
from lra.train.step import Program
from lra.train.worker import speed
from tests.helpers.training import RECIPE, encoder


class Machine:
    """Fake work that takes `seconds` per call by a fake clock, `first` more the first time; records its calls."""

    def __init__(self, monkeypatch, seconds, first=0.0):
        self.now, self.seconds, self.first, self.calls = 0.0, seconds, first, []
        monkeypatch.setattr(benchmark.time, "perf_counter", lambda: self.now)

    def run(self, calls):
        self.now += calls * self.seconds + (0 if self.calls else self.first)
        self.calls.append(calls)


def test_short_calls_are_gathered_into_blocks_after_the_warm_up(monkeypatch):
    machine, warm = Machine(monkeypatch, 0.01, first=9.0), []
    blocks = benchmark.timed(machine.run, 7, on_warm=lambda: warm.append(list(machine.calls)))
    assert warm == [[1, 1, 30]]
    assert all(steps == 7 * 30 and seconds == pytest.approx(0.3) for steps, seconds in blocks)
    assert len(blocks) == len(machine.calls) - 3 == 7  # 2 seconds of 0.3


def test_long_calls_are_blocks_of_their_own_and_five_of_them_are_enough(monkeypatch):
    machine, progress = Machine(monkeypatch, 40.0), []
    blocks = benchmark.timed(machine.run, 1, progress.append)
    assert machine.calls == [1] * 7 and blocks == [(1, 40.0)] * 5
    assert progress[-1] == {"step": 5, "steps_per_second": 1 / 40}


def test_speeds_are_medians_with_quartiles_and_count_examples_and_tokens():
    blocks = [(10, 1.0), (10, 2.0), (10, 0.5), (10, 4.0), (10, 1.0)]
    assert speed(blocks, examples=4, tokens=4 * 2 * 100) == {
        "steps_per_second": 10, "quartile_1": 5, "quartile_3": 10, "blocks": 5, "examples_per_second": 40,
        "tokens_per_second": 8000,
    }  # fmt: skip


def test_a_pair_has_two_documents_an_example():
    splits = benchmark.random_splits(5, 4, True, 8, 3)
    assert splits.values.shape == (6, 8) and splits.splits["train"].index.shape == (3, 2)


@pytest.mark.parametrize("limit", [1_000, None])
def test_a_program_is_refused_before_it_runs_and_a_trial_runs_each_once(monkeypatch, limit):
    ran = []
    compile_chunk = Program.compile_chunk

    class Watched:
        def __init__(self, chunk):
            self.memory_analysis, self.chunk = chunk.memory_analysis, chunk

        def __call__(self, *arguments):
            ran.append(1)
            return self.chunk(*arguments)

    monkeypatch.setattr(Program, "compile_chunk", lambda *arguments: Watched(compile_chunk(*arguments)))
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, batch=2))
    arguments = (encoder("fnet"), benchmark.random_splits(5, 4, False, 8, 2), recipe, limit)
    if limit:
        with pytest.raises(MemoryError, match="plans"):
            benchmark.prepare(*arguments)
        assert ran == []
    else:
        prepared = benchmark.prepare(*arguments)
        assert ran == []
        measured = benchmark.measure(prepared, lambda progress: None, trial=True)
        assert ran == [1] and measured.train_blocks == [] and measured.compiled_bytes > 1_000
        assert measured.flops_per_step > 0 and measured.parameters > 0


def test_a_timed_block_of_training_or_inference_waits_for_its_results(monkeypatch):
    events = []

    def chunk(state, fixed, data):
        events.append("queued")
        return state, "metrics"

    def evaluate(params, other_state, data, start, count):
        events.append(f"rows from {start} of {count}")
        return "sums"

    def device_get(results):
        events.append(results)
        return results

    monkeypatch.setattr(benchmark.jax, "device_get", device_get)
    monkeypatch.setattr(benchmark, "timed", lambda run, *rest: (run(2), events.append("timed"), [(2, 1.0)])[-1])
    prepared = SimpleNamespace(
        program=SimpleNamespace(fixed=None, other_state=None), data=SimpleNamespace(labels=SimpleNamespace(shape=(4,))),
        state=SimpleNamespace(params=None), chunk=chunk, evaluate=evaluate, length=1, part=2,
        measured=benchmark.Measured(),
    )  # fmt: skip
    benchmark.measure(prepared, lambda progress: None)
    batch = ["rows from 0 of 4", "rows from 2 of 4"]  # an inference step, too, is a whole batch
    assert events == ["queued", "queued", "metrics", "timed", *batch, *batch, ["sums"] * 4, "timed"]
