"""What the worker hands to training, and the fields that it works out from the outcome."""

import os
import signal
from types import SimpleNamespace

import pytest

from lra import signals
from lra.grid.source import fingerprint
from lra.grid.spec import TrainOptions
from lra.train import benchmark, worker
from lra.train.loop import SeedResult, TrainResult
from tests.helpers.training import with_train


@pytest.mark.parametrize(("task", "documents"), [("listops", 1), ("retrieval", 2), ("image", 1)])
def test_each_seed_has_its_own_model_and_every_document_s_tokens_count(monkeypatch, task, documents):
    seeds, built, trained = [4, 9], [], []

    def fit(models, dataset, recipe, seeds, options, hooks):
        trained.append((models, seeds))
        return TrainResult([SeedResult(seed) for seed in seeds], blocks=[(10, 1.0)], first_blocks=[(10, 100.0)])

    def build(mixer, recipe, vocab, classes, pair, length, seed, picture):
        built.append((mixer, pair, length, seed, picture))
        return f"model {seed}"

    data = benchmark.random_splits(5, 2, documents == 2, 8, 32)
    for name, stand_in in (("open_entry", lambda entry: data), ("build", build), ("fit", fit)):
        monkeypatch.setattr(worker, name, stand_in)
    monkeypatch.setattr(worker, "Stop", lambda minutes: lambda: "")
    record = {"cell": {"task": task, "mixer": "fnet", "seeds": seeds}, "recipe": {}}
    spec = SimpleNamespace(entry="entry", record=record, train=TrainOptions(), started=0.0)
    fields = worker.train(spec, with_train(batch=32), lambda progress: None)
    assert built == [("fnet", documents == 2, 8, seed, task == "image") for seed in seeds]
    assert trained == [(["model 4", "model 9"], seeds)]
    speed = fields["train_speed"]
    # The first block, which warms up, is left out.
    assert (speed["steps_per_second"], speed["examples_per_second"]) == (10, 320)
    assert speed["tokens_per_second"] == 320 * documents * 8


def test_a_mixer_that_changes_after_the_run_began_is_not_trained_under_the_old_code_s_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "changed_since.py").write_text("class Mix:\n    pass\n")
    record = {"cell": {"mixer": "changed_since:Mix"}, "code": {"fingerprint": fingerprint("changed_since:Mix")}}
    spec = SimpleNamespace(record=record)
    assert worker.current_code(spec) == record["code"]
    (tmp_path / "changed_since.py").write_text("class Mix:\n    new = 1\n")
    with pytest.raises(ValueError, match="changed_since:Mix has changed since this run began"):
        worker.current_code(spec)
    # Ours has a version for that; the record says which code it was.
    record["cell"]["mixer"] = "fnet"
    assert worker.current_code(spec) == {"fingerprint": fingerprint("models.mixing.fnet:FNet")}


def test_however_short_the_time_one_chunk_is_trained():
    stop = worker.Stop(0.0)
    assert stop() == "" and "stopped after --max_minutes=0" in stop()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_to_stop_is_heeded_at_once(name):
    before = {number: signal.getsignal(number) for number in signals.STOP}
    try:
        signal.signal(getattr(signal, name), signal.SIG_DFL)  # the tests may have been started by nohup, or with &
        stop = worker.Stop(None)
        os.kill(os.getpid(), getattr(signal, name))
        assert stop() == "stopped by a signal; the same command goes on from here"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
