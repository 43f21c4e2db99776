"""`--jobs`: concurrent cells, each with its own devices or cores."""

import json
import os

import pytest

from lra.errors import UsageError
from lra.grid import expand, names
from lra.grid.cell import Cell
from lra.grid.spec import RunOptions
from lra.launch import process
from lra.launch.local import worker_spec
from lra.launch.scheduler import Slot, divide_device, measurement_slots
from lra.results import load, provenance, records
from lra.results.folder import is_finished, record_path
from tests.helpers.cli import TINY, cli, places, saved_records
from tests.helpers.held import FF_ONLY, HELD, Hold

GPUS = {"platform": "gpu", "count": 4, "host_cores": 8}
CPU = {"platform": "cpu", "count": 1, "host_cores": 6}


def test_gpus_are_shared_out_among_the_jobs(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shares(*arguments):
        return [slot.env.get("CUDA_VISIBLE_DEVICES") for slot in divide_device(GPUS, *arguments)[0]]

    assert shares(1, None) == ["0", "1", "2", "3"]
    assert shares(2, None) == ["0,1", "2,3"]
    assert shares(1, 2) == ["0", "1"]
    assert shares(4, None) == [None] and shares(1, 1) == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a")
    assert shares(1, None) == ["5", "GPU-a"]
    with pytest.raises(UsageError, match=r"--devices=3: there are 2"):
        divide_device(GPUS, 3, 2)


def test_more_jobs_than_gpus_share_them_and_take_memory_as_they_need_it(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    slots, _ = divide_device(GPUS | {"count": 2}, 1, 4)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]
    assert all(s.env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" and s.sharing == 2 for s in slots)
    assert all(s.sharing == 1 and len(s.env) == 1 for s in divide_device(GPUS, 1, 4)[0])
    assert {s.sharing for s in measurement_slots(3)} == {3} and measurement_slots(1) == [Slot()]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot bind processes to cores")
def test_cores_are_shared_out_among_the_jobs(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 2, 4, 5, 8, 9})
    slots, device = divide_device(CPU, 1, 2)
    assert [slot.cores for slot in slots] == [(1, 2, 4), (5, 8, 9)] and device["host_cores"] == 3
    assert divide_device(CPU, 1, None) == divide_device(CPU, 1, 1) and divide_device(CPU, 1, None)[1] == CPU
    with pytest.raises(UsageError, match="there are 6 cores"):
        divide_device(CPU, 1, 7)
    with pytest.raises(UsageError, match="cannot be divided"):
        divide_device({"platform": "tpu", "count": 4}, 1, 2)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores to bind to"
)
@pytest.mark.process
def test_two_jobs_run_at_once_with_half_the_cores_each(tmp_path):
    done = cli(*TINY, "--models=ff_only", "--seeds=0,1", "--jobs=2", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    results = saved_records(tmp_path)
    half = len(os.sched_getaffinity(0)) // 2
    assert [(r["status"], r["device"]["host_cores"]) for r in results] == [("ok", half)] * 2
    assert all(r["cell"]["accelerator"].endswith(f" {half} cores") for r in results)
    assert done.stdout.count(": test ") == 2


@pytest.mark.process
def test_the_time_of_a_whole_run_ends_it_and_the_next_goes_on(tmp_path):
    cells, hold = [*TINY, f"{HELD},{FF_ONLY}", *places(tmp_path)], Hold(tmp_path / "hold")
    hold.at(3)
    over = cli(*cells, "--total_minutes=0", env=hold.env)
    assert over.returncode == 0, over.stderr
    assert "the time of this run is over" in over.stdout
    assert not any(record["status"] == "ok" for record in saved_records(tmp_path))
    resumed = cli(*cells, "--total_minutes=60")
    assert resumed.returncode == 0 and "is over" not in resumed.stdout
    assert [record["status"] for record in saved_records(tmp_path)] == ["ok", "ok"]


@pytest.fixture
def shared(tmp_path):
    """A cell, its record with speeds, and the record's path."""
    plans = expand.make_plans(names.find_protocol("quick"), ["listops_short"], ["fnet"], [], [0], [])
    data = {"source": "here", "fingerprint": "f", "counts": {}, "majority": {}, "notes": [], "task_version": "1"}
    cell = Cell(plans[0], tmp_path, data, "NVIDIA H200", "key")
    record = provenance.initial_record(cell, provenance.current_origin())
    path = record_path(tmp_path, cell)
    path.parent.mkdir(parents=True)
    record |= {"train_speed": {"steps_per_second": 3.0}, "memory": {"device_peak_bytes": 5}}
    return cell, json.loads(json.dumps(record | {"status": "ok"})), path


def test_a_speed_on_a_shared_device_is_in_no_column(shared):
    _, record, _ = shared
    assert load.solo_speed(record) == 3.0 and load.solo_speed(record | {"sharing": 1}) == 3.0
    assert load.solo_speed(record | {"sharing": 4}) is None
    assert load.solo_memory(record | {"sharing": 4}, "device_peak_bytes") == 5  # each process counts its own
    records.check(record | {"sharing": 4})


def test_a_busy_machine_counts_as_a_shared_device(shared, tmp_path):
    cell, _, _ = shared
    for options, sharing in (({}, 1), ({"busy": True}, 1), ({}, 3), ({"busy": True}, 3)):
        spec = worker_spec(cell, RunOptions(results=tmp_path, data=tmp_path, **options), sharing)
        assert spec.record.get("sharing", 1) == (max(sharing, 2) if options else sharing)


def test_a_cell_that_ran_out_of_memory_beside_others_is_tried_again(shared, tmp_path):
    cell, record, path = shared
    for sharing, finished in [(1, True), (4, False)]:
        records.write(path, record | {"status": "oom", "sharing": sharing})
        assert is_finished(tmp_path, cell) is finished
    records.write(path, record | {"sharing": 4})
    assert is_finished(tmp_path, cell)


def test_a_gpu_s_programs_are_repeatable_unless_the_user_says_otherwise(monkeypatch):
    switch = "--xla_gpu_exclude_nondeterministic_ops"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    assert process.environment("gpu")["XLA_FLAGS"] == f"--xla_dump_to=here {switch}=true"
    assert process.environment("cpu")["XLA_FLAGS"] == "--xla_dump_to=here"
    monkeypatch.setenv("XLA_FLAGS", f"{switch}=false")
    assert process.environment("auto")["XLA_FLAGS"] == f"{switch}=false"


def test_large_arrays_lie_in_huge_pages_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert process.environment("cpu")["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert process.environment("cpu")["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert process.environment("cpu")["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


def test_a_copy_without_its_repository_says_its_commit_or_nothing(monkeypatch):
    monkeypatch.delenv("LRA_COMMIT", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.commit() is None
    monkeypatch.setenv("LRA_COMMIT", "abc")
    assert provenance.commit() == "abc"


@pytest.mark.process
def test_measurements_in_turns_are_whole_but_for_the_time_to_compile(tmp_path):
    small = ["--set=encoder.dim=8", "--set=encoder.qkv=8", "--set=encoder.mlp=8", "--set=encoder.layers=1"]
    cells = ["--models=transformer,ff_only", "--lengths=16", "--batch=1", "--device=cpu", "--jobs=2"]
    done = cli("bench", *small, *cells, *places(tmp_path))
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "results" / "bench").glob("*.json"))]
    assert [r["status"] for r in results] == ["ok", "ok"]
    assert [r.get("attention_kernels") for r in results] == [None, ["blocks"]]
    for r in results:
        assert r["compile_seconds"] is None and "sharing" not in r
        assert r["train_speed"]["blocks"] >= 5 and r["device"]["platform"] == "cpu"
