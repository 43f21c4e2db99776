"""`run.py bench` from the command line: figures, limits of time and memory, the largest batch."""

import csv
import json

import pytest

from configs import PROTOCOLS
from tests.helpers.cli import call, places

TINY = ["--device=cpu", "--set=encoder.dim=8", "--set=encoder.qkv=8", "--set=encoder.mlp=8", "--set=encoder.layers=1"]


def bench(folder, *arguments):
    done = call("bench", *TINY, *arguments, *places(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(folder) -> list[dict]:
    files = sorted((folder / "results" / "bench").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.process
def test_figures_without_data_and_the_largest_batch_within_a_limit(tmp_path):
    cell = ["--models=ff_only", "--lengths=300", "--batch=1"]
    output = bench(tmp_path, *cell)
    assert "training steps/s" in output and "efficiency.csv" in output
    (record,) = measured(tmp_path)
    train, infer = record["train_speed"], record["inference_speed"]
    for speed in (train, infer):
        assert speed["blocks"] >= 5 and speed["quartile_1"] <= speed["steps_per_second"] <= speed["quartile_3"]
        assert speed["tokens_per_second"] == pytest.approx(300 * speed["examples_per_second"])
    assert train["steps_per_second"] == train["examples_per_second"] and infer["steps_per_second"] > 0
    assert record["cell"]["protocol"] == "efficiency_quick" and record["recipe"]["train"]["batch"] == 1
    assert record["flops_per_step"] > 0 and record["flops_compiler"] > 0 and record["compile_seconds"] > 0
    assert record["mfu"] is None and record["energy_per_step_joules"] is None  # a CPU has neither
    assert record["device"]["used"] == 1 and record["memory"]["device_peak_bytes"] is None
    planned = record["memory"]["compiled_bytes"]

    # Room for one example and not for two.
    limit = f"--memory_limit={1.3 * planned / 2**30}"
    output = bench(tmp_path, *cell, "--max_batch", limit)
    assert "batch 1 is the largest" in output
    largest = measured(tmp_path)[-1]
    assert largest["max_batch"] is True and largest["recipe"]["train"]["batch"] == 1
    assert [(t["batch"], t["status"]) for t in largest["trials"]] == [(1, "ok"), (2, "oom")]
    assert largest["memory"]["compiled_bytes"] == planned and largest["train_speed"]["blocks"] >= 5
    assert "plans" in largest["trials"][1]["error"]
    rows = csv.DictReader((tmp_path / "out" / "efficiency.csv").read_text().splitlines())
    assert sorted((r["batch"], r["status"], r["max batch"]) for r in rows) == [("1", "ok", ""), ("1", "ok", "1")]
    assert len(list((tmp_path / "out" / "plots").glob("*.pdf"))) == 2


@pytest.mark.process
def test_a_cell_that_takes_too_long_is_a_result_until_it_gets_more_time(tmp_path):
    cells = ["--models=fnet,ff_only", "--lengths=16", "--batch=1"]
    output = bench(tmp_path, *cells, "--timeout=0.005")
    records = measured(tmp_path)
    assert [r["status"] for r in records] == ["timeout"] * 2 and output.count("stopped after 0.005 minutes") == 2
    bench(tmp_path, *cells, "--timeout=0.004")
    assert [r["created"] for r in measured(tmp_path)] == [r["created"] for r in records]
    bench(tmp_path, *cells, "--timeout=0.006")
    assert [r["timeout_minutes"] for r in measured(tmp_path)] == [0.006] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch=0"], "--batch=0"),
        (["--timeout=0"], "--timeout=0"),
        (["--memory_limit=0"], "--memory_limit=0"),
        (["--batch=two"], "--batch=two"),
        (["--timeout=nan"], "--timeout=nan"),
    ],
)
def test_wrong_limits_get_one_line(tmp_path, arguments, words):
    done = call("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr


def test_the_presets_are_the_papers_tables():
    def shape(name):
        e = PROTOCOLS[name].recipe("text", "fnet").encoder
        return e.dim, e.heads, e.layers, e.mlp, PROTOCOLS[name].recipe("text", "fnet").train.batch

    assert shape("efficiency") == shape("fnet") == (256, 4, 4, 1024, 32)
    assert shape("fnet_bert") == (768, 12, 12, 3072, 64)
    assert PROTOCOLS["efficiency"].lengths["text"] == (1000, 2000, 3000, 4000)
    assert PROTOCOLS["fnet"].lengths["text"] == (512, 1024, 2048, 4096, 8192, 16384)
    assert PROTOCOLS["fnet_bert"].lengths["text"] == (512,)
    assert set(PROTOCOLS["efficiency_quick"].default_models) >= {"transformer", "fnet", "performer"}
