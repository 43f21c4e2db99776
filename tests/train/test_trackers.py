"""Event files hold each step's metrics once, also after resumption; a flag without its package gets an error."""

import struct
import subprocess
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from lra.train import trackers
from tests.helpers.cli import ROOT, TINY, call, places


def scalars(folder) -> dict[str, dict[int, float]]:
    """curve → step → value, as a viewer shows them: later files win, and a restart drops what is at or after it."""
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == 1:
                for curve in curves.values():
                    for step in [s for s in curve if s >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


@pytest.mark.process
def test_training_from_the_command_line_writes_event_files(tmp_path):
    done = call(*TINY, "--models=fnet", "--tensorboard", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results" / "tensorboard").iterdir()
    curves = scalars(folder)
    assert set(curves) == {"train/loss", "validation/accuracy", "speed/steps_per_second"}
    assert list(curves["validation/accuracy"]) == [3, 6] and 6 in curves["train/loss"]
    assert all(loss > 0 for loss in curves["train/loss"].values())


def test_going_on_replaces_what_came_after_the_checkpoint(tmp_path, monkeypatch):
    times = iter(range(1_700_000_000, 1_800_000_000))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    for steps, loss in (((1, 2, 3, 4), 1.0), ((3, 4, 5), 2.0)):
        tell = trackers.TensorBoard(tmp_path)
        tell({"warning": "no step"})
        for step in steps:
            tell({"step": step, "loss": loss})
        tell.close()
    assert scalars(tmp_path)["train/loss"] == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0}


def test_weights_and_biases_gets_the_curves(tmp_path, monkeypatch):
    logged, started = [], []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

    package = types.ModuleType("wandb")
    package.init = lambda **settings: started.append(settings) or Run()
    monkeypatch.setitem(sys.modules, "wandb", package)
    tell = trackers.wandb("lra", "listops-fnet-0123456789", {"train": {"steps": 5}}, tmp_path)
    tell({"step": 5, "loss": 0.5, "steps_per_second": 3.0})
    tell({"warning": "not a point"})
    assert logged == [(5, {"train/loss": 0.5, "speed/steps_per_second": 3.0})]
    assert started[0]["project"] == "lra" and started[0]["config"] == {"train": {"steps": 5}}
    assert started[0]["resume"] == "allow" and started[0]["id"] == "0123456789"


def test_a_missing_package_is_named():
    program = "import runpy, sys; sys.modules['wandb'] = None; runpy.run_path('run.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, "--models=fnet", "--wandb=project"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("--wandb needs the package wandb: pip install wandb")
