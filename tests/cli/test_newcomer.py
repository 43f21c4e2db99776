"""The mini arena from a newcomer's side: a mixer of their own beside the shipped results, in the first table."""

import csv
import dataclasses
import json
import os

import pytest

from configs import mini
from tests.helpers.cli import ROOT, call, cli

SHIPPED = ROOT / "results" / "mini"
MIXER = '''
import jax.numpy as jnp
from flax import nnx


class Mean(nnx.Module):
    """Adds a linear map of the mean of all real positions."""

    def __init__(self, dim, length, *, rngs):
        self.map = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x, mask, rngs=None):
        real = mask[..., None].astype(x.dtype)
        mean = (x * real).sum(1, keepdims=True) / real.sum(1, keepdims=True)
        return self.map(jnp.broadcast_to(mean, x.shape))
'''


@pytest.mark.process
def test_a_newcomer_s_mixer_is_ranked_among_the_shipped_models(tmp_path, monkeypatch):
    """With 6 of the 3,000 steps; its record then says 3,000, as if it had run whole."""
    (tmp_path / "theirs.py").write_text(MIXER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(mini.STEPS, "listops_mini", 6)
    mine, out = tmp_path / "results", tmp_path / "leaderboard"
    ran = call(
        "run", "--protocol=mini", "--tasks=listops_mini", "--models=theirs:Mean", f"--results={mine}",
        f"--data={tmp_path / 'data'}", f"--out={out}", "--device=cpu", "--workers=1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    monkeypatch.undo()
    (file,) = (mine / "records").glob("*.json")
    record = json.loads(file.read_text())
    assert record["results"][0]["steps"] == 6
    whole = mini.recipe("listops_mini", "theirs:Mean")
    record["recipe"] |= {name: dataclasses.asdict(whole)[name] for name in ("train", "schedule")}
    record["recipe"]["train"]["precision"] = "float32"
    file.write_text(json.dumps(record))

    done = cli("leaderboard", f"--results={mine},{SHIPPED}", "--tasks=listops_mini", f"--out={out}", "--noplots")
    assert done.returncode == 0, done.stderr
    first = (out / "leaderboard.md").read_text().partition("\n## ")[0]
    lines = [line for line in first.splitlines() if line.startswith("|")]
    shipped = {json.loads(f.read_text())["cell"]["model"] for f in (SHIPPED / "records").glob("listops_mini*.json")}
    named = {line.split("|")[2].strip(): line.split("|")[1].strip() for line in lines[2:]}
    assert set(named) == shipped | {"theirs:Mean"} and "fnet" in shipped
    assert named["theirs:Mean"].isdigit() and int(named["theirs:Mean"]) > int(named["fnet"])
    with open(out / "leaderboard.csv", newline="", encoding="utf-8") as table:
        rows = {row["model"]: row for row in csv.DictReader(table)}
    assert rows["theirs:Mean"]["comparison"] == rows["fnet"]["comparison"]
