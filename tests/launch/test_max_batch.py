"""The search for the largest batch, on a simulated machine."""

import pytest

from lra.grid import expand, names
from lra.launch.max_batch import find_largest, search

DEVICE = {"platform": "cpu", "kind": "cpu", "host_cpu": "made up", "host_cores": 2, "count": 1}


@pytest.mark.parametrize("start", [1, 4, 32, 1000])
@pytest.mark.parametrize("limit", [1, 7, 32, 33, 90, 4097, 100_000])
def test_what_is_found_fits_and_an_eighth_more_does_not(start, limit):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= limit

    batch = find_largest(start, fits, 2**20)
    assert batch <= limit < batch + max(1, batch / 8) + 1
    assert len(tried) == len(set(tried)) <= 24


def test_nothing_fits_and_nothing_above_the_limit_is_tried():
    assert find_largest(32, lambda number: False, 2**20) == 0
    tried = []
    assert find_largest(32, lambda number: tried.append(number) or True, 100) == 100
    assert tried == [32, 64, 100]


def cell():
    (plan,) = expand.make_plans(names.find_protocol("efficiency_quick"), [], ["fnet"], [256], [0], [])
    return expand.make_cell(plan, None, DEVICE, limits={"max_batch": True})


def machine_that_fits(limit, otherwise="oom"):
    """A function that runs cells, which fit up to a batch of `limit`, and the list of its calls: batch, trial."""
    asked = []

    def run(tried):
        batch, trial = tried.plan.recipe.train.batch, tried.limits.get("trial", False)
        asked.append((batch, trial))
        status = "ok" if batch <= limit else otherwise
        return {"status": status, "error": "" if status == "ok" else "too large", "recipe": {"train": {"batch": batch}}}

    return run, asked


def test_the_record_is_the_measurement_at_the_largest_batch_with_its_trials():
    run, asked = machine_that_fits(23)
    record = search(cell(), run)
    assert record["recipe"]["train"]["batch"] in (21, 22, 23) and record["status"] == "ok"
    assert asked[-1] == (record["recipe"]["train"]["batch"], False)
    assert all(trial for _, trial in asked[:-1])
    assert [t["batch"] for t in record["trials"]] == [batch for batch, _ in asked[:-1]]
    assert {t["status"] for t in record["trials"] if t["batch"] > 23} == {"oom"}


def test_where_nothing_fits_the_record_says_so_at_a_batch_of_one():
    run, _ = machine_that_fits(0)
    record = search(cell(), run)
    assert record["status"] == "oom" and record["recipe"]["train"]["batch"] == 1
    assert [t["batch"] for t in record["trials"]] == [2, 1]


def test_time_that_runs_out_bounds_the_batch_and_a_failure_ends_the_search():
    run, _ = machine_that_fits(9, otherwise="timeout")
    assert search(cell(), run)["status"] == "ok"
    run, asked = machine_that_fits(1, otherwise="failed")
    record = search(cell(), run)
    assert record["status"] == "failed" and len(record["trials"]) == 1 and len(asked) == 2
