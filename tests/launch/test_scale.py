"""The scale page's arithmetic, on figures worked out by hand, and the launcher simulated with few cells."""

import math
import os

import pytest

from lra.results import records
from tests.helpers.records import measurement, record
from tests.scale import cost, launcher, page, sizes
from tests.scale.operations import Work, work_of

WORKS = [Work("listops", "fnet", 2000, 100, 1e9, 1e11), Work("listops", "local", 2000, 100, 2e9, 0.0)]


@pytest.mark.parametrize(("slots", "runs"), [(1, 1), (8, 1), (3, 2)])
def test_the_simulated_launcher_does_each_cell_once(tmp_path, slots, runs):
    seconds = launcher.runs_at_once(tmp_path, 24, slots, runs)
    files = sorted((tmp_path / "results" / "records").iterdir())
    assert len(files) == 24 and {records.read_checked(file)["status"] for file in files} == {"ok"}
    assert not list((tmp_path / "results" / "leases").iterdir())
    assert len(seconds) == runs and all(one["schedule"] > 0 for one in seconds)


def test_the_longest_first_and_no_cell_is_split():
    times = cost.Times([1.0, 5.0, 2.0, 2.0])
    assert times.total == 10 and times.longest == 5
    assert [times.until_the_end(n) for n in (1, 2, 3, 64)] == [10, 5, 5, 5]


def test_cells_are_estimated_by_operations_and_measured_ones_by_their_speed():
    assert cost.at_rate(WORKS, 2, 1e10, {}).seconds == [20, 20, 20, 20]
    # fnet: 100 steps, and scoring that takes as long as 100 more.
    assert cost.at_rate(WORKS, 1, 1e10, {("listops", "fnet", 2000): 4.0}).seconds == [50, 20]


def test_speeds_come_from_records_of_one_device_under_the_protocol(tmp_path):
    measured = [
        record(seed=0, accelerator="H200", flops_per_step=1e9),
        record("local", seed=2, accelerator="H200", flops_per_step=1e9, overrides=["train.steps=1"]),
        record(seed=5, accelerator="CPU", flops_per_step=1e9),
    ]
    for number, one in enumerate(measured):
        records.write(tmp_path / "records" / f"{number}.json", one)
    bench = measurement("luna", 4000, 8.0)
    bench["cell"] |= {"protocol": "lra", "accelerator": "H200"}
    records.write(tmp_path / "bench" / "0.json", bench | {"flops_per_step": 1e9})
    name, speeds, rates = cost.measured([tmp_path])
    assert (name, rates) == ("H200", [2e9, 4e9, 8e9])
    assert speeds == {("listops", "fnet", 2000): 2.0, ("text", "luna", 4000): 8.0}
    assert cost.measured([tmp_path], "cpu")[0] == "CPU" and cost.measured([tmp_path], "tpu") == ("", {}, [])


def test_a_cell_s_work_is_counted_without_making_the_model():
    work = work_of("image", "ff_only")
    assert (work.length, work.steps) == (1024, 35_000)
    # The feed-forward layer's two products, 128 × 128 wide, forwards and twice backwards, for 256 × 1,025 tokens.
    assert 1 < work.step / (3 * 2 * 2 * 128 * 128 * 256 * 1025) < 1.1
    assert 0.02 < work.scoring / (work.steps * work.step) < 0.5


def test_the_page_says_what_is_measured_and_what_is_not():
    seconds = dict.fromkeys(("planning", "processor", "slower"), 1.0) | {"schedule": 2.0}
    seconds |= {"status": 0.5, "again": 0.5}
    two = [seconds, seconds | {"slower": math.nan}]
    common = {
        "simulated": [page.Simulated(1000, 1, 1, [seconds]), page.Simulated(1000, 8, 2, two)],
        "works": [*WORKS, Work("listops", "luna", 2000, 100, math.nan, 0.0)], "seeds": 5,
        "device": "NVIDIA H200", "here": ("CPU", {}, [1e9]), "sizes": {"record": 12_345}, "machine": "a machine",
    }  # fmt: skip
    guessed = page.page(measured=("", {}, []), **common)
    assert "this is an estimate" in guessed and "Not counted" in guessed and "listops × luna" in guessed
    assert "| 1,000 | 8 | 2 | 1.0 | 2.0 | 2.0 | 1.0 | 1.00 | 0.5 | 0.5 |" in guessed
    assert "| record | 12.3 kB |" in guessed
    measured = page.page(measured=("H200", {("listops", "fnet", 2000): 1.0}, [1e10]), **common)
    assert "estimate" not in measured and "1 of 2 kinds of cells" in measured
    # 5 × 200 s by its speed, and 5 × 20 s at the median rate.
    assert "| measured | 0 | 18 min | 3 min | 3 min | 3 min |" in measured
    with pytest.raises(ValueError, match="does not know an abacus"):
        page.page(measured=("", {}, []), **common | {"device": "an abacus"})


def test_bytes_on_disk_are_those_of_all_files_and_memory_is_known_of_what_runs(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert sizes.on_disk(tmp_path) == 8 and sizes.on_disk(tmp_path / "none") == 0
    assert sizes.peak(os.getpid()) > 10**7 and sizes.peak(2**22 + 1) == 0
