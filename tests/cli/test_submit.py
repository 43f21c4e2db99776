"""`submit`: results from elsewhere become records that stand apart in every table."""

import csv
import json
import os

import numpy as np
import pytest

from tasks import load
from tests.helpers.cli import SHARED, call, only_record, saved_records
from tests.helpers.records import recipe, record

FEW = {"train": 64, "validation": 20, "test": 20}
MODEL = "Mamba <b>(PyTorch)</b>"


@pytest.fixture
def data(tmp_path):
    return load("listops_short", "test", data=f"{os.environ[SHARED]}/data", **FEW)


def submit(folder, data, predicted=None, *arguments, model=MODEL, code=0, **flags):
    predicted = data.labels if predicted is None else predicted
    np.save(folder / "preds.npy", predicted)
    flags = {"task": "listops_short", "fingerprint": data.fingerprint[:8], "predictions": folder / "preds.npy"} | flags
    done = call(
        "submit", *(f"--{name}={value}" for name, value in flags.items() if value is not None), f"--model={model}",
        *(f"--set=data.{name}={count}" for name, count in FEW.items()), f"--data={os.environ[SHARED]}/data",
        f"--results={folder}/results", *arguments,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    assert code == 0 or (done.stderr.count("\n") == 1 and not done.stdout)
    return done


def half_right(data):
    return np.where(np.arange(len(data)) % 2 == 0, data.labels, (data.labels + 1) % 10)


REPORTED = {
    "seed": 3, "train_seconds": 90, "steps_per_second": 12.5, "peak_bytes": 10**9, "parameters": 1234,
    "accelerator": "NVIDIA A100", "note": "github.com/them/theirs",
}  # fmt: skip


def test_a_record_holds_what_was_scored_here_and_what_was_reported(tmp_path, data):
    said = submit(tmp_path, data, half_right(data), **REPORTED).stdout
    assert f"listops_short@64 × {MODEL}, seed 3: 50.00 % of 20 test examples" in said
    found = only_record(tmp_path)
    assert found["results"] == [{"seed": 3, "status": "ok", "error": "", "test_best": 0.5}]
    assert found["cell"] == {
        "task": "listops_short", "model": MODEL, "mixer": "", "length": 64, "protocol": "external", "seeds": [3],
        "accelerator": "NVIDIA A100",
    }  # fmt: skip
    assert found["data"]["fingerprint"] == data.fingerprint and found["evaluated"] == {"test": 20}
    assert found["parameters"] == 1234 and found["train_speed"] == {"steps_per_second": 12.5}
    assert found["external"]["train_seconds"] == 90 and found["external"]["note"] == REPORTED["note"]
    assert found["external"]["given_as"] == "classes" and found["memory"] == {"device_peak_bytes": 10**9}


def test_the_same_again_is_well_and_another_result_in_its_place_is_not(tmp_path, data):
    submit(tmp_path, data)
    before = only_record(tmp_path)
    submit(tmp_path, data)
    assert only_record(tmp_path) == before
    told = submit(tmp_path, data, half_right(data), code=2)
    assert "has another result of this model and seed" in told.stderr and only_record(tmp_path) == before
    submit(tmp_path, data, half_right(data), "--replace")
    assert only_record(tmp_path)["results"][0]["test_best"] == 0.5
    submit(tmp_path, data, seed=1)
    submit(tmp_path, data, model="another")
    assert len(saved_records(tmp_path)) == 3


def test_tables_show_it_apart_without_a_rank_or_a_published_figure(tmp_path, data):
    submit(tmp_path, data, half_right(data), seed=0)
    submit(tmp_path, data, seed=1, note="see it")
    settings = recipe("listops_short", "fnet", "quick")
    ours = record("fnet", "listops_short", 0.4, length=64, protocol="quick", recipe=settings)
    ours["data"] |= {name: only[name] for only in [saved_records(tmp_path)[0]["data"]] for name in ours["data"]}
    (tmp_path / "results" / "records" / "ours.json").write_text(json.dumps(ours))
    told = call("leaderboard", f"--results={tmp_path}/results", f"--out={tmp_path}/out")
    assert told.returncode == 0 and "### External results" in told.stdout and "Trained elsewhere" in told.stdout
    with open(tmp_path / "out" / "leaderboard.csv", encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    theirs = rows[MODEL]
    assert (theirs["comparison"], theirs["rank"]) == ("external", "") and theirs["why"] == "see it"
    assert float(theirs["listops_short@64"]) == 75 and theirs["listops_short@64 best"] == "False"
    assert rows["fnet"]["rank"] == "1" and float(rows["fnet"]["listops_short@64"]) == 40
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<b>(PyTorch)" not in page and "they are not ranked" in page
    assert call("show", "external-listops_short", f"--results={tmp_path}/results").returncode == 2  # two seeds
    assert call("show", "L64-s1", f"--results={tmp_path}/results").stdout.count("see it") == 1
    assert call("compare", "fnet", MODEL, f"--results={tmp_path}/results").returncode == 2  # never side by side


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"task": "listop"}, "did you mean 'listops'"),
        ({"task": None}, "submit needs --task"),
        ({"predictions": None, "fingerprint": None}, "submit needs --predictions, --fingerprint"),
        ({"fingerprint": "0123456789"}, "the fingerprint 0123456789, and listops_short at length 64 here"),
        ({"fingerprint": "a301"}, "the first 8 or more hexadecimal digits"),
        ({"fingerprint": "not hexadecimal"}, "the first 8 or more hexadecimal digits"),
        ({"seed": -1}, "--seed"),
        ({"train_seconds": "nan"}, "--train_seconds=nan is not above 0"),
        ({"parameters": 0}, "--parameters=0 is not above 0"),
        ({"model": "a\nb"}, "--model takes"),
        ({"model": "m" * 300}, "--model takes"),
        ({"length": 0}, "--length"),
        ({"set": "train.steps=3"}, "settings of the task's data only"),
        ({"set": "data.source=generate"}, "settings of the task's data only"),
        ({"set": "data.tests=3"}, "did you mean 'test'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(tmp_path, data, flags, said):
    assert said in submit(tmp_path, data, None, code=2, **flags).stderr
    assert not (tmp_path / "results").exists()


def test_predictions_that_do_not_fit_are_refused(tmp_path, data):
    assert "19 predictions" in submit(tmp_path, data, data.labels[1:], code=2).stderr
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path, data):
    (tmp_path / "results").write_text("")
    assert "cannot write" in submit(tmp_path, data, code=2).stderr


def test_the_template_has_the_inputs_and_no_answers(tmp_path, data):
    out = ["--template", f"--out={tmp_path}/in"]
    told = submit(tmp_path, data, None, *out, predictions=None, fingerprint=None)
    folder = tmp_path / "in" / "listops_short-64-inputs"
    assert f"--fingerprint={data.fingerprint[:12]}" in told.stdout and "20 examples to predict" in told.stdout
    assert sorted(file.name for file in folder.iterdir()) == [
        "card.json", "predictions.csv", "test_lengths.npy", "test_tokens.npy",
    ]  # fmt: skip
    assert np.array_equal(np.load(folder / "test_tokens.npy"), data.tokens)
    assert np.array_equal(np.load(folder / "test_lengths.npy"), data.lengths)
    card = json.loads((folder / "card.json").read_text())
    assert card["splits"] == {"test": 20} and card["fingerprint"] == data.fingerprint and "submit" in card["submit"]
    form = (folder / "predictions.csv").read_text().splitlines()
    assert form[0] == "example,prediction" and form[1:] == [f"{i}," for i in range(20)]
    assert "line 2 has no prediction" in submit(tmp_path, data, code=2, predictions=folder / "predictions.csv").stderr
    filled = tmp_path / "filled.csv"
    filled.write_text(
        "\n".join([form[0], *(f"{line}{label}" for line, label in zip(form[1:], data.labels, strict=True))])
    )
    assert "100.00 %" in submit(tmp_path, data, predictions=filled).stdout
