"""`--launcher=ray` on a cluster whose two nodes are processes of this machine; nodes, workers and drivers are killed.

Ray is imported by the processes that are started here, never by this one.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT, TINY, alive, cli, free_port, only_record, places, record_files, start
from tests.helpers.held import HELD, Hold
from tests.helpers.waiting import SECONDS, until

pytestmark = pytest.mark.ray

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or not Path("/proc/self/environ").exists(),
    reason="Ray is not installed (see the extra 'cluster'), or there is no /proc to look at processes in",
)
LONG = [*TINY, HELD, "--set=train.steps=120", "--set=train.eval_every=20", "--checkpoint_minutes=0"]
MARK = "LRA_TEST_OF_RAY"
START = """
import signal
from ray.scripts.scripts import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""`ray start` that does not ignore SIGINT, as all does that a script starts in the background: tasks would not stop."""


def processes(mark):
    """The living processes with the mark in their environment: process id → command line."""
    living = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                living[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return living


def parent_of(pid):
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def locked_by(pid):
    """The cell folder whose lock a process holds."""
    with contextlib.suppress(OSError):
        for open_file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = Path(os.readlink(open_file))
                if path.name == "lock" and path.parent.name.startswith("lra-"):
                    return path.parent
    return None


class Node:
    """A node of the cluster: `ray start --block` and what it starts."""

    def __init__(self, name, env, *arguments):
        self.env, self.log = env, Path(env["TMPDIR"]) / f"{name}.log"
        few = ["--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        ray = [sys.executable, "-c", START, "start", "--block", *few]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*ray, *arguments], cwd=ROOT, env=env, stdout=log, stderr=log)

    def below(self, pid=None):
        """Its processes, without `ray start` itself."""
        root, living, descendants = pid or self.process.pid, processes(self.env[MARK]), {}
        for process in living:
            ancestor = process
            while ancestor in living and ancestor != root:
                ancestor = parent_of(ancestor)
            if ancestor == root != process:
                descendants[process] = living[process]
        return descendants

    def cells(self):
        """The processes of its cells that run now: process id → the folder that the cell works in."""
        folders = {}
        for pid, line in self.below().items():
            if "lra.train.worker" in line and (folder := locked_by(parent_of(pid))) is not None:
                folders[pid] = folder
        return folders

    def cell_with_checkpoint(self, driver, after=0):
        """The process and the folder of a cell that has saved after a step, once there is one."""

        def saved():
            assert driver.poll() is None, driver.communicate()
            return [(pid, folder) for pid, folder in self.cells().items() if last_checkpoint(folder) > after]

        return until(saved, lambda: self.below())[0]


def last_checkpoint(folder):
    return max((int(saved.name) for saved in folder.glob("checkpoints/*/*") if saved.name.isdigit()), default=0)


class Cluster:
    """A head node, and drivers; all that is started with it is gone at the end of a `with` block."""

    def __init__(self, folder):
        self.mark, self.address = secrets.token_hex(8), f"127.0.0.1:{free_port()}"
        self.started, self.hold = contextlib.ExitStack(), Hold(Path(folder) / "hold")
        (Path(folder) / "modules").mkdir()
        (Path(folder) / "modules" / "tests").symlink_to(ROOT / "tests")
        self.env = self.hold.env | {
            # The code that is sent to the nodes is without the tests, and so without their models.
            "PYTHONPATH": f"{folder}/modules",
            MARK: self.mark, "TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0",
            # A token of its own, so that Ray makes and reads none in the user's home.
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
            # A dead node, which refuses connections, is found dead in 5 seconds; a slow one is given ten times as long.
            "RAY_health_check_period_ms": "1000",
        }  # fmt: skip

    def __enter__(self):
        self.started.callback(self.kill)
        ports = [f"--port={self.address.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
        place = ["--head", f"--temp-dir={self.env['TMPDIR']}/ray", "--include-dashboard=false"]
        try:
            self.head = self.node("head", *place, *ports)
        except BaseException:
            self.started.close()
            raise
        return self

    def __exit__(self, *error):
        self.started.close()

    def kill(self):
        while left := processes(self.mark):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def node(self, name, *arguments):
        node = Node(name, self.env, *arguments)
        self.started.push(node.process)
        self.started.callback(self.kill)
        until(lambda: "Ray runtime started" in node.log.read_text(), node.log.read_text)
        return node

    def second(self):
        return self.node("second", f"--address={self.address}", "--node-ip-address=127.0.0.2")

    def command(self, folder, *arguments):
        return [*arguments, "--launcher=ray", f"--ray_address={self.address}", *places(folder)]

    def start(self, folder, *arguments):
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *self.command(folder, *arguments)],
            cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.push(driver)
        self.started.callback(self.kill)
        return driver


@pytest.fixture(scope="module")
def cluster():
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="lra", dir="/tmp") as folder, Cluster(folder) as started:
        yield started


def ends_well(driver):
    out, wrong = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0, out + wrong
    return out


@needs_ray
def test_a_node_and_a_worker_die_in_the_middle_of_their_cells_and_nothing_is_lost(cluster, tmp_path):
    second = cluster.second()
    cluster.hold.at(60)
    driver = cluster.start(tmp_path, *LONG, "--seeds=0,1")
    _, folder = second.cell_with_checkpoint(driver)
    cell, _ = cluster.head.cell_with_checkpoint(driver)
    os.kill(parent_of(cell), signal.SIGKILL)
    for pid in [*second.below(), second.process.pid]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(cell))  # it ends by itself, and could otherwise be quicker to end its training
    cluster.hold.release()
    assert ends_well(driver).count(": test ") == 2
    saved = [json.loads(file.read_text()) for file in record_files(tmp_path)]
    assert [record["status"] for record in saved] == ["ok"] * 2
    # Both nodes are of one machine, so the second tries have found the checkpoints.
    assert [record["resumed"] for record in saved] == [1] * 2
    assert not list((tmp_path / "results" / "leases").iterdir()) and not folder.exists()


@needs_ray
def test_the_cell_of_a_killed_and_of_a_stopped_driver_goes_on(cluster, tmp_path):
    command = [*LONG, "--seeds=0"]
    cluster.hold.at(40)
    driver = cluster.start(tmp_path, *command)
    cell, folder = cluster.head.cell_with_checkpoint(driver)
    driver.kill()
    driver.communicate()
    until(lambda: not alive(cell) and not cluster.head.cells(), cluster.head.below)
    assert not record_files(tmp_path)

    cluster.hold.at(80)
    driver = cluster.start(tmp_path, *command)
    cluster.head.cell_with_checkpoint(driver, after=last_checkpoint(folder))
    driver.terminate()
    out, wrong = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 130 and "the same command goes on from here" in wrong
    assert "taken over from" in out and only_record(tmp_path)["status"] == "interrupted"

    cluster.hold.release()
    assert ends_well(cluster.start(tmp_path, *command)).count(": test ") == 1
    record = only_record(tmp_path)
    assert record["status"] == "ok" and record["resumed"] >= 1 and "--seeds=0" in record["command"]
    assert not list((tmp_path / "results" / "leases").iterdir()) and not folder.exists()


@needs_ray
def test_a_driver_and_a_local_run_share_the_cells(cluster, tmp_path):
    cells = [*TINY, HELD, "--seeds=0,1"]
    leases = tmp_path / "results" / "leases"
    cluster.hold.at(3)
    driver = cluster.start(tmp_path, *cells)
    until(lambda: any(leases.glob("*.1")), driver.poll)
    local = start(*cells, *places(tmp_path)[:2], f"--out={tmp_path}/other", env=cluster.hold.env)
    until(lambda: len(list(leases.glob("*.1"))) == 2, lambda: (driver.poll(), local.poll()))
    cluster.hold.release()
    printed = ends_well(driver) + ends_well(local)
    done = [line for line in printed.splitlines() if line[:1] == "[" and ": test " in line]
    assert len({line.partition("]")[2].partition(": test ")[0] for line in done}) == len(done) == 2
    assert [record["status"] for record in map(json.loads, map(Path.read_text, record_files(tmp_path)))] == ["ok"] * 2
    assert len(list((tmp_path / "results" / "logs").iterdir())) == 2


@needs_ray
def test_a_sweep_s_trials_and_its_chosen_cells_are_those_of_a_local_run(cluster, tmp_path):
    sweep = [*TINY, "--models=fnet", "--seeds=0,1", "--sweep=optimizer.learning_rate=1e-5,3e-2"]
    printed = ends_well(cluster.start(tmp_path, *sweep))
    assert printed.count(": validation ") == 2 and printed.count(": test ") == 2
    assert cli(*sweep, *places(tmp_path / "local")).returncode == 0
    there, here = (
        [json.loads(file.read_text()) for file in record_files(path)] for path in (tmp_path, tmp_path / "local")
    )
    for one, other in zip(there, here, strict=True):
        assert one["results"] == other["results"] and one["tuning"]["chosen"] == other["tuning"]["chosen"]
    assert len(list((tmp_path / "results" / "trials").iterdir())) == 2
    assert not list(Path(cluster.env["TMPDIR"]).glob("lra-*"))


@needs_ray
def test_a_missing_cluster_is_reported_in_one_line(tmp_path):
    done = cli(*TINY, "--launcher=ray", f"--ray_address=127.0.0.1:{free_port()}", *places(tmp_path))
    assert done.returncode == 2 and "--ray_address=127.0.0.1" in done.stderr and done.stderr.count("\n") == 1
