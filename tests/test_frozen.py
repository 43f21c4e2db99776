"""What must stay while code moves: names and keys of cells, data, losses, contents of checkpoints, old tables.

tests/frozen.json was written before the modules were put into packages. A change that is meant to change one of these
says so in its commit, and writes the file anew: `python -m tests.test_frozen`.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import models
from configs import PROTOCOLS
from lra.grid import expand
from lra.report.write import write_leaderboard
from lra.train.loop import Hooks, TrainResult, fit
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from tasks import TASKS
from tasks.task import Dataset, Split
from tests.helpers import archives
from tests.helpers.cli import ROOT

FROZEN = Path(__file__).with_name("frozen.json")
BEFORE = "2026-11-27"
"""Records of results/cpu and results/learning that are younger are left out."""
DEVICES = {
    "cpu": {"platform": "cpu", "kind": "cpu", "count": 1, "host_cpu": "a CPU", "host_cores": 2},
    "gpu": {"platform": "gpu", "kind": "NVIDIA H100", "count": 8, "host_cpu": "a CPU", "host_cores": 2},
}
TRAINED = ("transformer", "fnet", "performer", "luna")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def cells_of(name: str, mixer: str) -> list[list[str]]:
    """[name, key] of a mixer's cells of a protocol on two devices, each with one seed and two that train together."""
    protocol = PROTOCOLS[name]
    plans = expand.make_plans(protocol, [*protocol.tasks, *protocol.variants], [mixer], [], [0, 1], [])
    cells = [expand.make_cell(plan, None, device) for plan in plans for device in DEVICES.values()]
    together = expand.group_seeds(plans, "on", DEVICES["gpu"])
    cells += [expand.make_cell(plan, None, DEVICES["gpu"]) for plan in together]
    return [[cell.name, cell.key] for cell in cells]


def data_of(name: str, folder: Path) -> dict[str, str]:
    """A task's version, and a digest of all arrays of a small copy, drawn or read from made-up archives."""
    task = TASKS[name]
    sizes = {"train": 30, "validation": 70, "test": 70}  # but where the validation split is a fraction, or none
    sizes = {split: size for split, size in sizes.items() if getattr(task.rules, split, 0) >= 1}
    rules = dataclasses.replace(task.rules, **sizes)
    source: str | Path = "generate"
    if "generate" not in task.sources:
        source = archives.papers(folder) if name == "retrieval" else folder
        archives.cifar(folder, test=200)
        archives.imdb(folder, each=120)
    arrays = task.build(archives.request(task, source, rules=rules))
    parts = [arrays.values, arrays.lengths]
    for split in sorted(arrays.splits):
        parts += [arrays.splits[split].index, arrays.splits[split].labels]
    return {"version": task.version, "sha256": hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()}


def trained(model: str) -> tuple[TrainResult, list[str], list[str]]:
    """Ten steps of a tiny model on random tokens: the result, and what its checkpoint holds."""
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 9, (48, 24)).astype(np.uint8), rng.integers(0, 3, 48).astype(np.uint8)
    parts = {"train": (0, 24), "validation": (24, 36), "test": (36, 48)}
    splits = {name: Split(np.arange(a, b, dtype=np.int32)[:, None], labels[a:b]) for name, (a, b) in parts.items()}
    data = Dataset(values, np.full(48, 24, np.int32), splits, "random", vocab=10, classes=3)
    recipe = PROTOCOLS["quick"].recipe("listops_short", model)
    shape = dataclasses.replace(recipe.encoder, dim=16, heads=2, qkv=16, mlp=16, layers=2)
    budget = dataclasses.replace(recipe.train, steps=10, batch=8, eval_every=5, precision="float32")
    recipe = dataclasses.replace(recipe, encoder=shape, train=budget)
    make_mixer = mixer_factory(model, {}, heads=2, qkv=16, dropout=0.1, layers=2)
    module = Encoder(make_mixer, vocab=10, classes=3, length=24, dim=16, layers=2, mlp=16, rngs=nnx.Rngs(0))
    kept = Kept()
    result = fit([module], data, recipe, [0], None, Hooks(checkpoints=kept))  # type: ignore[arg-type]
    return result, kept.arrays, kept.progress


class Kept:
    """Stands for `Checkpoints`: keeps the names that are saved."""

    def due(self) -> bool:
        return True

    def restore(self, like: object) -> None:
        return None

    def save(self, step: int, arrays: object, progress: dict[str, object], wait: bool = False) -> None:
        from lra.train.checkpoint import _named

        self.arrays = [f"{name} {leaf.shape}" for name, leaf in sorted(_named(arrays).items())]
        results = progress["results"]
        assert isinstance(results, list)
        self.progress = sorted([*progress, *(f"results.{name}" for name in results[0])])


def tables(folder: Path) -> dict[str, str]:
    """Digests of the tables of the older records trained on a CPU, and of measurements that stay as they are."""
    (folder / "records").mkdir(parents=True)
    places = [ROOT / "results" / name / "records" for name in ("cpu", "learning")]
    for file in sorted(file for place in places for file in place.glob("*.json")):
        if json.loads(file.read_text())["created"] < BEFORE:
            shutil.copy(file, folder / "records")
    shutil.copytree(ROOT / "results" / "gpu" / "h200-before" / "bench", folder / "bench")
    write_leaderboard([folder], folder / "out")
    names = ("leaderboard.csv", "cells.csv", "efficiency.csv", "leaderboard.md", "leaderboard.tex")
    return {name: hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def frozen():
    return json.loads(FROZEN.read_text())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_keys_and_names_of_cells(frozen, protocol):
    """Of the mixers that were there when the file was written."""
    expected = frozen["cells"][protocol]
    assert {mixer: digest(cells_of(protocol, mixer)) for mixer in expected} == expected


@pytest.mark.parametrize("name", TASKS)
def test_data_change_with_their_version_only(frozen, name, tmp_path):
    """Prepared copies are found by it: with other data under the same version a model trains on the old ones."""
    assert data_of(name, tmp_path) == frozen["data"][name], f"raise the version of {name} when its data change"


@pytest.mark.slow
@pytest.mark.parametrize("model", TRAINED)
def test_losses_and_checkpoints(frozen, model):
    result, arrays, progress = trained(model)
    before = frozen["training"][model]
    assert arrays == before["arrays"] and progress == before["progress"]
    (seed,) = result.results
    # Other processors and versions of XLA round otherwise; on the same ones the losses have been equal to the bit.
    losses = [[point["train_loss"], point["validation_loss"]] for point in seed.curve]
    np.testing.assert_allclose(losses, before["losses"], rtol=2e-5)
    assert sorted(dataclasses.asdict(seed)) == before["fields"]


def test_tables_of_old_records(frozen, tmp_path):
    assert tables(tmp_path) == frozen["tables"]


def main() -> None:
    """Writes tests/frozen.json anew."""
    import tempfile

    training = {}
    for model in TRAINED:
        result, arrays, progress = trained(model)
        (seed,) = result.results
        losses = [[point["train_loss"], point["validation_loss"]] for point in seed.curve]
        training[model] = {"losses": losses, "arrays": arrays, "progress": progress,
                           "fields": sorted(dataclasses.asdict(seed))}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        cells = {name: {mixer: digest(cells_of(name, mixer)) for mixer in models.MIXERS} for name in PROTOCOLS}
        data = {name: data_of(name, Path(folder) / name) for name in TASKS}
        frozen = {"cells": cells, "data": data, "training": training, "tables": tables(Path(folder) / "results")}
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main()
