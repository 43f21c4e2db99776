"""Hand-made records for the tests of what reads them."""

import dataclasses
import functools
import itertools
import json
import random
from pathlib import Path
from typing import Any

from configs import PROTOCOLS
from lra.grid import expand
from lra.grid.cell import Cell
from lra.results import records
from models import code_versions
from tasks import TASKS


def recipe(task: str = "listops", model: str = "fnet", protocol: str = "lra") -> dict[str, Any]:
    """The protocol's own recipe, as a record holds it."""
    found: dict[str, Any] = json.loads(_recipe(task, model, protocol))
    return found


@functools.cache
def _recipe(task: str, model: str, protocol: str) -> str:
    made = PROTOCOLS[protocol].recipe(task, model)
    train = dataclasses.replace(made.train, precision="float32")
    return json.dumps(dataclasses.asdict(dataclasses.replace(made, train=train, data=TASKS[task].rules)))


def made_by(source: str, model: str = "fnet", task: str = "listops", **versions: int) -> dict[str, Any]:
    """The code of a mixer as it is now, with another source or other versions."""
    current = code_versions(model, recipe(task, model).get("encoder", {}))
    return {"fingerprint": source, "versions": current | versions}


def record(
    model: str = "fnet",
    task: str = "listops",
    score: float | None = 0.5,
    seed: int = 0,
    status: str = "ok",
    length: int = 2000,
    **changes: Any,
) -> dict[str, Any]:
    """A record as the runner writes it; `changes` replace top-level fields, or the cell's where they are its."""
    cell = {
        "task": task, "model": model, "mixer": model, "length": length, "protocol": "lra", "seeds": [seed],
        "accelerator": "CPU",
    }  # fmt: skip
    cell |= {name: changes.pop(name) for name in list(changes) if name in cell}
    settings = changes["recipe"] if "recipe" in changes else recipe(task, cell["mixer"])
    made: dict[str, Any] = {
        "schema": records.SCHEMA,
        "status": status,
        "error": "" if status == "ok" else "it went wrong",
        "key": f"{cell}-{status}-{score}-{changes}",
        "created": "2026-01-01T00:00:00+00:00",
        "cell": cell,
        "recipe": settings,
        "overrides": [],
        "code": {"fingerprint": "", "versions": code_versions(cell["mixer"], settings.get("encoder", {}))},
        "data": {
            "source": "generated (seed 0)", "fingerprint": f"{task}-{length}", "task_version": "1", "notes": [],
            "counts": {"train": 96_000, "validation": 2_000, "test": 2_000}, "majority": {"test": 0.2},
        },
        "device": {"platform": "cpu", "kind": "cpu", "count": 1, "host_cpu": "a CPU", "host_cores": 2},
        "versions": {"python": "3.11.2", "jax": "0.10.2"},
        "commit": "c" * 40,
        "command": "python run.py run",
        "wall_seconds": 60.0,
        "results": [],
    }  # fmt: skip
    if status == "ok":
        made["results"] = [result(score, seed)]
        made["parameters"] = 10_000
        made["compile_seconds"] = 3.0
        made["memory"] = {"device_peak_bytes": None, "compiled_bytes": 2 * 10**9, "host_peak_bytes": 3 * 10**9}
        made["train_speed"] = {"steps_per_second": 2.0 + seed, "quartile_1": 1.0, "quartile_3": 4.0, "blocks": 5}
    return made | changes


def result(score: float | None, seed: int = 0, status: str = "ok", points: int = 2) -> dict[str, Any]:
    """One seed's result, with a curve that ends at `score`."""
    curve = [
        {
            "step": 50 * (i + 1), "train_loss": 2.0 / (i + 1), "train_accuracy": 0.3, "validation_loss": 2.1 / (i + 1),
            "validation_accuracy": None if score is None else score * (i + 1) / points,
        }
        for i in range(points)
    ]  # fmt: skip
    return {
        "seed": seed, "status": status, "error": "", "steps": 50 * points, "best_step": 50 * points,
        "validation_best": score, "validation_last": score, "test_best": score, "test_last": score, "curve": curve,
    }  # fmt: skip


def grid_of_records(folder: Path, settings: int) -> int:
    """Writes records of 4 models × 5 tasks and lengths × 5 seeds × `settings` numbers of steps, and counts them."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    inputs = (("listops", 2000), ("text", 4000), ("image", 1024), ("retrieval", 4000), ("text", 9))
    models = ("transformer", "fnet", "local", "performer")
    grid = list(itertools.product(range(settings), models, inputs, range(5)))
    for number, (setting, model, (task, length), seed) in enumerate(grid):
        score = rng.random()
        cell = record(model, task, score, seed, length=length, overrides=[f"train.steps={setting}"])
        cell |= {"key": f"{number:064x}", "results": [result(score, seed, points=20)]}
        (folder / f"{number}.json").write_bytes(records.to_bytes(cell))
    return len(grid)


def measurement(
    model: str = "fnet",
    length: int = 1024,
    speed: float | None = 8.0,
    status: str = "ok",
    batch: int = 4,
    **changes: Any,
) -> dict[str, Any]:
    """A record of `bench` at `speed` training steps a second, or of one that ended with another status."""
    made = record(model, "text", length=length, status="ok") | {
        "status": status,
        "error": "" if status == "ok" else "it went wrong",
        "key": f"{model}-{length}-{batch}-{status}",
        "recipe": {"train": {"batch": batch, "precision": "float32"}},
        "device": {"used": 1},
        "results": [],
        "train_speed": None,
        "memory": {"device_peak_bytes": None, "compiled_bytes": None, "host_peak_bytes": 10**9},
    }
    made["cell"]["protocol"] = "efficiency_quick"
    if status == "ok" and speed is not None:
        for name, rate in (("train_speed", speed), ("inference_speed", 3 * speed)):
            made[name] = {
                "steps_per_second": rate, "quartile_1": 0.9 * rate, "quartile_3": 1.1 * rate, "blocks": 9,
                "examples_per_second": batch * rate, "tokens_per_second": batch * length * rate,
            }  # fmt: skip
        made["memory"]["compiled_bytes"] = 10**5 * length
    return made | changes


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028{{data}}\\"


def hostile_record() -> dict[str, Any]:
    """A record whose every text is hostile."""
    hostile = record(HOSTILE, mixer=HOSTILE, accelerator=HOSTILE, overrides=[HOSTILE], score=0.5)
    hostile |= {"command": HOSTILE, "commit": HOSTILE, "versions": {HOSTILE: HOSTILE}, "device": {"kind": HOSTILE}}
    hostile["data"] = hostile["data"] | {"source": HOSTILE, "fingerprint": HOSTILE}
    hostile["results"][0]["error"] = HOSTILE
    return hostile


def quick_cell() -> Cell:
    """FNet on short ListOps, without data."""
    device = {"platform": "cpu", "host_cpu": "a CPU", "host_cores": 2, "count": 1}
    (plan,) = expand.make_plans(PROTOCOLS["quick"], ["listops_short"], ["fnet"], [64], [0], [])
    return expand.make_cell(plan, None, device)
