"""The campaign that a GPU is given: what it begins in the time there is, what it keeps, and all of it at toy size."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tarfile

import pytest

from configs.lra import recipe
from models import MIXERS
from tests.benchmarks import gpu


@pytest.fixture
def campaign(tmp_path):
    """A campaign of 10 minutes whose commands are kept and not run, with FNet's measurement on ListOps."""
    options = {"results": tmp_path, "data": tmp_path / "data", "toy": False, "device": "cpu", "source_dir": None}
    options |= {"benches": "lra", "trainings": "lra"}
    c = gpu.Campaign(argparse.Namespace(**options, minutes=10, bench_until=None))
    speeds = {"train_speed": {"steps_per_second": 50.0}, "inference_speed": {"steps_per_second": 200.0}}
    found = {"status": "ok", "recipe": dataclasses.asdict(recipe("listops", "fnet"))} | speeds
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "listops-fnet-L2000-lra-s0-NVIDIA_H200-0123456789.json").write_text(json.dumps(found))
    c.ran = []
    c.run = lambda name, command, **env: c.ran.append((name, command)) or 0
    return c


def test_what_a_training_takes_follows_from_its_measurement(campaign):
    # 5,000 steps, 100 validations of 63 batches, and two tests of as many
    assert gpu.expected(campaign, gpu.Training("listops", "fnet", 2_000)) == 5_000 / 50 + 102 * 63 / 200
    assert gpu.expected(campaign, gpu.Training("listops", "fnet", 2_000, "0,1")) == 2 * (5_000 / 50 + 102 * 63 / 200)
    assert gpu.expected(campaign, gpu.Training("listops", "transformer", 2_000)) is None


@pytest.mark.parametrize(("minutes", "begun"), [(10, ["train-listops-fnet"]), (3.2, [])])
def test_nothing_is_begun_that_cannot_end_or_has_no_measurement(campaign, minutes, begun, capsys):
    campaign.until -= 60 * (10 - minutes)
    gpu.train(campaign)
    assert [name for name, _ in campaign.ran] == begun
    assert "not begun: Training(task='listops', model='transformer', length=2000" in capsys.readouterr().out


def test_what_shares_the_gpu_is_counted_one_after_the_other(campaign, monkeypatch):
    """Of three trainings of 132 s each, where 330 s are left, two are begun."""
    of_three = tuple(gpu.Training("listops", "fnet", 2_000, seed) for seed in "012")
    monkeypatch.setitem(gpu.TRAININGS, "lra", of_three)
    campaign.until -= 60 * 3.5
    took = gpu.expected(campaign, of_three[0])
    assert 2 * took < campaign.left - 60 < 3 * took
    gpu.train(campaign)
    assert len(campaign.ran) == 2


@pytest.mark.parametrize(("status", "begun"), [("ok", 0), ("interrupted", 1)])
def test_what_has_been_trained_is_not_begun_again(campaign, status, begun):
    file = campaign.results / "records" / "listops-fnet-L2000-lra-s0-NVIDIA_H200-0123456789.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"status": status, "error": "", "results": [], "overrides": []}))
    gpu.train(campaign)
    assert len(campaign.ran) == begun


def test_a_check_with_a_result_is_not_made_again(campaign):
    every = len(gpu.checks(campaign))
    (campaign.light / "kernels-narrow-bfloat16.jsonl").write_text("")
    compared = list(MIXERS)[: 1 - gpu.PROCESSES]  # so that one process of all has none left
    (campaign.light / "mixers3.jsonl").write_text("".join(f'{{"name": "{name}"}}\n' for name in compared))
    assert gpu.checked(campaign.light) == set(compared)
    assert len(gpu.checks(campaign)) == every - 2
    made = []
    campaign.tell({"check": "out of memory", "ok": True})
    campaign.tell({"check": "killed and resumed", "ok": False})
    for name in ("out of memory", "killed and resumed"):
        gpu.once(campaign, name, lambda c, name=name: made.append(name))
    assert made == ["killed and resumed"]


def test_one_failure_stops_no_other_and_is_kept(campaign):
    done = []

    def fails():
        raise RuntimeError("broken")

    gpu.together(campaign, [fails, lambda: done.append(1)])
    assert done == [1]
    (line,) = [json.loads(line) for line in (campaign.light / "runs.jsonl").read_text().splitlines()]
    assert not line["ok"] and "broken" in line["error"]


def test_the_archive_leaves_checkpoints_and_figures_out(campaign, tmp_path):
    for name in ("records/a.json", "checkpoints/c/1", "leaderboard/page.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    out.mkdir()
    gpu.pack(campaign, out)
    with tarfile.open(out / "results.tar.gz") as tar:
        names = tar.getnames()
    assert "./records/a.json" in names and not any("checkpoint" in name or "page" in name for name in names)


@pytest.mark.skipif("LRA_SLOW" not in os.environ, reason="three minutes: set LRA_SLOW=1")
def test_all_of_it_at_toy_size(tmp_path):
    command = [
        sys.executable, "-m", "tests.benchmarks.gpu", "--minutes=15", f"--results={tmp_path}/r", "--toy",
        "--device=cpu", f"--data={tmp_path}/data", f"--pack={tmp_path}", "light", "bench", "train",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NOT OK" not in done.stdout and "3 measurements, 0 not sane" in done.stdout
    lines = [json.loads(x) for f in (tmp_path / "r/first_light").glob("*.jsonl") for x in f.read_text().splitlines()]
    assert len(lines) >= 13 and all(line["ok"] for line in lines)
    assert list((tmp_path / "r/records").glob("*.json")) and (tmp_path / "results.tar.gz").exists()
