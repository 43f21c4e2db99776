"""Tuned cells: chosen on validation, never by the test; and how a run goes through trials, failures and other runs."""

import dataclasses
import json
import threading

import pytest
from rich.console import Console

from configs import PROTOCOLS
from lra.grid import expand, sweep
from lra.grid.spec import RunOptions
from lra.launch import scheduler
from lra.results import folder, provenance, records, runs, tuning
from tests.helpers.records import result
from tests.scale.launcher import DEVICE, entry

RATES = ("optimizer.learning_rate=1e-4,1e-3,1e-2",)


@pytest.fixture
def cells(tmp_path):
    plans = expand.make_plans(
        PROTOCOLS["lra"], ["listops"], ["fnet"], [], [0, 1], ["train.steps=9"], sweep.parse(RATES, None, ())
    )
    data = entry(tmp_path / "data")
    return [expand.make_cell(plan, data, DEVICE) for plan in plans]


class Launcher:
    """Runs cells by writing a record that a test has chosen for each learning rate."""

    def __init__(self, results, outcomes):
        self.options = RunOptions(results=results, data=results / "data", origin={"commit": "c", "command": "run.py"})
        self.outcomes, self.ran, self.lock = outcomes, [], threading.Lock()

    def run_cell(self, cell, number, options, context):
        rate = cell.plan.recipe.optimizer.learning_rate
        status, validation = self.outcomes[rate]
        with self.lock:
            self.ran.append((cell.plan.seeds[0], rate, bool(cell.plan.trial)))
        record = provenance.initial_record(cell, options.origin) | {
            "status": status, "error": "" if status == "ok" else "no", "wall_seconds": 1.0,
            "train_speed": {"steps_per_second": 1.0},
        }  # fmt: skip
        if status == "ok":
            test = {"test_best": None, "test_last": None} if cell.plan.trial else {}
            # The worse on validation, the better in the test: whoever looked there would choose otherwise.
            found = result(1 - validation, cell.plan.seeds[0]) | {"validation_best": validation, "steps": 9} | test
            record["results"] = [found]
        path = folder.record_path(options.results, cell)
        records.write(path, record)
        return records.read(path)

    def __call__(self, cells, jobs=1):
        pending = folder.unfinished(cells, self.options.results)
        slots = [scheduler.Slot()] * jobs
        with open(self.options.results / "said", "a") as said:
            return scheduler.run_cells(pending, self.options, Console(file=said, width=500), slots, self.run_cell)

    @property
    def said(self):
        return (self.options.results / "said").read_text()


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path, {1e-4: ("ok", 0.3), 1e-3: ("ok", 0.5), 1e-2: ("ok", 0.4)})


def tuned(launcher, cells):
    return [records.read_checked(folder.record_path(launcher.options.results, cell)) for cell in cells]


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_trial_runs_once_and_every_seed_takes_the_best_on_validation(launcher, cells, jobs):
    assert launcher(cells, jobs) == {"ok": 5}
    assert sorted(launcher.ran[:3]) == [(0, 1e-4, True), (0, 1e-3, True), (0, 1e-2, True)]
    assert sorted(launcher.ran[3:]) == [(0, 1e-3, False), (1, 1e-3, False)]
    for record, cell in zip(tuned(launcher, cells), cells, strict=True):
        told = record["tuning"]
        assert record["key"] == cell.key and record["recipe"]["optimizer"]["learning_rate"] == 1e-3
        assert record["overrides"] == ["train.steps=9"]
        assert told["chosen"] == 1 and told["sweep"] == list(RATES) and told["seed"] == 0
        assert [trial["validation_best"] for trial in told["trials"]] == [0.3, 0.5, 0.4]
        assert [trial["key"] for trial in told["trials"]] == [trial.key for trial in cell.trials]
        assert "test_best" not in json.dumps(told)
    assert launcher(cells) == {} and len(launcher.ran) == 5


def test_of_equal_trials_the_earliest_is_chosen_and_only_the_trials_seed_goes_on_from_it(launcher, cells):
    launcher.outcomes = dict.fromkeys((1e-4, 1e-3, 1e-2), ("ok", 0.4))
    launcher(cells)
    first, second = (tuning.choose(cell, launcher.options.results) for cell in cells)
    assert first.choice["chosen"] == 0 and first.continues == cells[0].trials[0]
    assert second.choice == first.choice and second.continues is None
    assert first.key == cells[0].key and folder.record_path(launcher.options.results, first).parent.name == "records"


def test_trials_that_diverge_or_do_not_fit_use_up_the_budget_and_the_rest_decide(launcher, cells):
    launcher.outcomes |= {1e-3: ("diverged", 0), 1e-4: ("oom", 0)}
    launcher(cells)
    assert [record["recipe"]["optimizer"]["learning_rate"] for record in tuned(launcher, cells)] == [1e-2, 1e-2]
    assert [trial["status"] for trial in tuned(launcher, cells)[0]["tuning"]["trials"]] == ["oom", "diverged", "ok"]


def test_without_any_score_the_cell_says_why(launcher, cells):
    launcher.outcomes = {1e-4: ("oom", 0), 1e-3: ("oom", 0), 1e-2: ("diverged", 0)}
    assert launcher(cells) == {"oom": 2, "diverged": 3}
    for record in tuned(launcher, cells):
        assert record["status"] == "diverged" and record["error"] == "no trial has a score: 1 diverged, 2 oom"
        assert record["tuning"]["chosen"] is None


def test_a_failed_trial_keeps_its_cells_back_until_it_has_a_result(launcher, cells):
    launcher.outcomes[1e-2] = ("failed", 0)
    assert launcher(cells) == {"ok": 2, "failed": 1}
    assert not folder.is_finished(launcher.options.results, cells[0])
    assert launcher.said.count("left, since 1 of its 3 trials have no result yet") == 2
    launcher.outcomes[1e-2] = ("ok", 0.9)
    assert launcher(cells) == {"ok": 3}
    assert launcher.ran[3:] == [(0, 1e-2, True), (0, 1e-2, False), (1, 1e-2, False)]


def test_two_runs_share_the_trials(launcher, cells, tmp_path):
    threads = [threading.Thread(target=launcher, args=(cells, 2)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(launcher.ran) == sorted(
        [(0, 1e-4, True), (0, 1e-3, True), (0, 1e-2, True), (0, 1e-3, False), (1, 1e-3, False)]
    )


def test_status_and_retry_know_trials(launcher, cells, tmp_path):
    launcher.outcomes[1e-2] = ("failed", 0)
    runs.save(tmp_path, "run", ["--sweep=x"], cells)
    launcher(cells)
    rows, line = runs.status(tmp_path)
    assert line.startswith("2 done, 1 failed, 2 left, about")
    assert [row["state"] for row in rows] == ["done", "done", "failed", "left", "left"]
    text = runs.format_table(rows)
    assert "fnet, length 2,000, s0, trial optimizer.learning_rate=1e-2  9/9" not in text  # it failed at the start
    assert "fnet, length 2,000, s0, trial optimizer.learning_rate=1e-3  9/9" in text
    assert "fnet, length 2,000, tuned by 3 trials, s1" in text
    failed = runs.request_of(cells[0].trials[2])
    assert runs.retry_commands(tmp_path, ["failed"]) == [("run", ["--sweep=x"], {failed})]
    launcher.outcomes[1e-2] = ("diverged", 0)
    launcher(cells)
    # Once the settings are chosen, a trial that diverged is no cell to run again.
    assert runs.retry_commands(tmp_path, ["diverged"]) == []


def test_the_time_left_counts_no_training_for_the_seed_that_goes_on_from_a_trial(launcher, cells, tmp_path):
    runs.save(tmp_path, "run", [], cells)
    launcher(cells[:1])
    assert runs.status(tmp_path)[1] == "4 done, 1 left, about 1 s left with 1 at once"
    folder.record_path(tmp_path, cells[0]).unlink()
    assert runs.status(tmp_path)[1] == "3 done, 2 left, about 1 s left with 1 at once"


def test_checkpoints_of_trials_stay_until_one_is_chosen_and_its_test_is_done(launcher, cells, tmp_path):
    kept = [tmp_path / "checkpoints" / trial.single_process.name for trial in cells[0].trials]
    for path in kept:
        path.mkdir(parents=True)
    launcher(cells[1:])
    folder.clean_up(cells, tmp_path)
    assert all(path.is_dir() for path in kept)
    launcher(cells)
    folder.clean_up(cells, tmp_path)
    assert not any(path.exists() for path in kept)


def test_a_damaged_trial_s_record_is_repeated_and_a_damaged_tuning_is_no_record(launcher, cells, tmp_path):
    launcher(cells[:1])
    folder.record_path(tmp_path, cells[0].trials[1]).write_text("{")
    assert launcher(cells) == {"ok": 2}
    (record, _) = tuned(launcher, cells)
    for name, value in [
        ("trials", []), ("trials", [1]), ("chosen", 3), ("chosen", "1"), ("sweep", "x"),
        ("trials", [{"settings": [1], "status": "ok"}]),
        ("trials", [{"settings": [], "status": "ok", "validation_best": "x"}]),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="tuning"):
            records.check(record | {"tuning": record["tuning"] | {name: value}})
    with pytest.raises(ValueError, match="tuning"):
        records.check(record | {"tuning": []})


def test_a_trial_s_worker_stops_before_the_test_and_the_chosen_cell_goes_on_from_its_checkpoint(launcher, cells):
    from lra.launch.local import worker_spec

    launcher(cells[:1])
    options = dataclasses.replace(launcher.options, reach=True, pairs=True, fresh=True)
    chosen = tuning.choose(cells[0], options.results)
    trial, whole = worker_spec(cells[0].trials[1], options).train, worker_spec(chosen, options).train
    assert (trial.test, trial.reach, trial.pairs, trial.fresh) == (False, False, False, True)
    assert (whole.test, whole.reach, whole.pairs, whole.fresh) == (True, True, True, False)
    assert (trial.checkpoints, trial.checkpoint_key) == (whole.checkpoints, whole.checkpoint_key)
