"""The parts of `--launcher=ray` that can be tested without a cluster."""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lra.errors import UsageError
from lra.grid import expand, names, sweep
from lra.grid.spec import RunOptions
from lra.launch import ray_driver
from lra.launch.process import WorkerContext, WorkerProcesses
from lra.launch.progress import Display
from lra.results import lease, provenance, records
from lra.results.folder import record_path
from tests.helpers.cli import ROOT
from tests.helpers.leases import elsewhere
from tests.helpers.waiting import until

needs_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")


def test_a_cell_asks_for_gpus_or_for_a_machine_s_cores():
    nodes = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}]
    assert (
        ray_driver.resources_per_cell(nodes, "auto", 2)
        == ray_driver.resources_per_cell(nodes, "gpu", 2)
        == {"num_gpus": 2}
    )
    assert (
        ray_driver.resources_per_cell(nodes, "cpu", 1)
        == ray_driver.resources_per_cell(nodes[1:], "auto", 1)
        == {"num_cpus": 8.0}
    )
    assert ray_driver.capacity(nodes, {"num_gpus": 2}) == 2 and ray_driver.capacity(nodes, {"num_cpus": 8.0}) == 3
    assert ray_driver.capacity(nodes, {"num_gpus": 8}) == 1
    with pytest.raises(UsageError, match="no machine of the cluster has 8 GPUs"):
        ray_driver.resources_per_cell(nodes, "gpu", 8)


class Died(Exception):
    pass


class Full(Died):
    pass


class Cancelled(Died):
    pass


class Ray:
    """Replaces Ray: each task's outcome is the next of those given, an error or a function that returns it."""

    exceptions = SimpleNamespace(RayError=Died, OutOfMemoryError=Full, TaskCancelledError=Cancelled)

    def __init__(self, *outcomes):
        self.outcomes, self.keys = list(outcomes), []

    def remote(self, function):
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self.submit))

    def submit(self, plan, keys, *_):
        self.keys.append(list(keys))
        return self.outcomes.pop(0)

    def wait(self, refs, timeout):
        return refs, []

    def get(self, ref):
        if isinstance(ref, Exception):
            raise ref
        return ref()


def cell_on(cpu, swept=None):
    (plan,) = expand.make_plans(names.find_protocol("quick"), [], ["fnet"], [], [0], [], swept)
    cell = expand.make_cell(plan, None, {"platform": "cpu", "count": 1, "host_cpu": cpu, "host_cores": 2})
    return dataclasses.replace(cell, entry=Path("data"))


def ran(cell, results):
    """The cell's outcome on a machine; by then its driver must have its lease."""

    def outcome():
        assert lease.newest_lease(results / "leases", cell.name), "no lease"
        record = provenance.initial_record(cell, provenance.current_origin()) | {"status": "diverged"}
        return cell, {f"records/{cell.name}.json": json.dumps(record).encode()}

    return outcome


def run(ray, cell, results, plan=None):
    """Runs a cell of a plan through the driver and returns its record."""
    cluster = ray_driver.Cluster.__new__(ray_driver.Cluster)
    cluster.ray, cluster.resources, cluster.sources, cluster.progress_actor = ray, {"num_cpus": 1.0}, {}, None
    cluster.leases = lease.Leases(results / "leases")
    cluster.plans = {ray_driver._plan_id(cell.plan): plan or cell.plan}
    with Display(Console(quiet=True)) as display, lease.Leases(results / "leases").take(cell.name) as ours:
        context = WorkerContext(ours, WorkerProcesses(), display, {})
        return cluster.run_cell(cell, "1/1", RunOptions(results=results, data=results), context)


def test_a_machine_of_another_kind_makes_it_another_cell_with_its_own_lease(tmp_path, monkeypatch):
    ours, other = cell_on("A"), cell_on("B")
    assert ours.key != other.key
    ray = Ray(lambda: (other, {}), ran(other, tmp_path))
    assert run(ray, ours, tmp_path)["key"] == other.key
    assert ray.keys == [[ours.key], [ours.key, other.key]]
    assert [file.stem for file in (tmp_path / "records").iterdir()] == [other.name]
    assert not list((tmp_path / "leases").iterdir())

    # There it is done by now; it is not run again.
    assert run(ray := Ray(lambda: (other, {})), ours, tmp_path)["key"] == other.key and not ray.outcomes

    # A run is at it there: the cell is submitted again until it lands here, or that run has ended.
    monkeypatch.setattr(ray_driver, "_SECONDS_BETWEEN_TRIES", 0.01)
    theirs = elsewhere(tmp_path / "leases", other.name)
    ray = Ray(lambda: (other, {}), lambda: (other, {}), ran(ours, tmp_path))
    assert run(ray, ours, tmp_path)["key"] == ours.key
    theirs.release()


def test_a_trial_does_not_run_on_a_machine_of_another_kind(tmp_path):
    ours, other = (cell_on(cpu, sweep.parse(["encoder.dropout=0,0.1"], None, ())) for cpu in "AB")
    record = run(Ray(lambda: (other.trials[0], {})), ours.trials[0], tmp_path, ours.plan)
    assert record["status"] == "failed" and "all trials of a sweep must run on one kind" in record["error"]
    assert [file.stem for file in (tmp_path / "trials").iterdir()] == [ours.trials[0].name]


@pytest.mark.parametrize(("error", "status"), [(Died("worker gone"), "failed"), (Full("memory"), "oom")])
def test_what_ray_gives_up_has_a_record(error, status, tmp_path):
    cell = cell_on("A")
    assert run(Ray(error), cell, tmp_path)["status"] == status
    record = records.read_checked(record_path(tmp_path, cell))
    assert record["status"] == status and record["error"] == f"{type(error).__name__}: {error}"


IN_IT = """
import shutil, sys
from pathlib import Path
from lra.launch.ray_worker import exclusive_folder

with exclusive_folder(Path(sys.argv[1])) as folder:
    print(folder.is_dir(), flush=True)
    sys.stdin.read()
    shutil.rmtree(folder)
"""


@needs_linux
def test_two_tries_on_one_machine_are_never_in_the_cell_s_folder_at_once(tmp_path):
    """As when a machine that Ray has declared dead lives on: the second try waits for the end of the first."""
    for end in ("is killed", "deletes the folder"):
        with contextlib.ExitStack() as started:
            two = []
            for number in range(2):
                command = [sys.executable, "-c", IN_IT, str(tmp_path / "cell")]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                two.append(started.enter_context(subprocess.Popen(command, cwd=ROOT, **pipes)))
                if number == 0:
                    assert two[0].stdout.readline() == "True\n"
            lock = tmp_path / "cell" / "lock"
            until(lambda: lock in opened(two[1].pid), lambda: two[1].poll())  # noqa: B023
            assert not select.select([two[1].stdout], [], [], 1)[0]
            if end == "is killed":
                two[0].kill()
            else:
                two[0].stdin.close()
            assert two[1].stdout.readline() == "True\n"
            two[1].stdin.close()
        assert not (tmp_path / "cell").exists()


def opened(pid):
    """The files that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.add(Path(os.readlink(link)))
    return found
