"""The tasks in PyTorch: items, batches, other processes, and the loop of docs/tasks.md."""

import functools
import pickle
import re
import runpy
import shlex

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from torch.utils.data import DataLoader, Subset, default_collate  # noqa: E402

from tasks import TASKS, Examples, load  # noqa: E402
from tasks.io.cache import prepare  # noqa: E402
from tests.helpers import archives  # noqa: E402
from tests.helpers.cli import ROOT, call, only_record  # noqa: E402


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    archives.imdb(place / "copy")
    archives.papers(place / "copy")
    return {
        name: prepare(TASKS[name], 200, 0, str(place / "copy"), cache=place, allow_unverified=True)
        for name in ("text", "retrieval")
    }


@pytest.mark.parametrize("task", ["text", "retrieval"])
def test_an_item_is_an_example_as_int64(entries, task):
    examples = Examples.open(entries[task], "train")
    dataset = examples.torch()
    assert len(dataset) == len(examples)
    for number in (0, 7, len(examples) - 1, -1):
        tokens, lengths, label = item = dataset[number]
        assert all(part.dtype == torch.int64 for part in item)
        assert np.array_equal(tokens, examples.tokens[number])
        assert np.array_equal(lengths, examples.lengths[number]) and label.item() == examples.labels[number]
    with pytest.raises(IndexError):
        dataset[len(examples)]


def whole(loader):
    return [torch.cat(parts).numpy() for parts in zip(*loader, strict=True)]


@pytest.mark.parametrize("task", ["text", "retrieval"])
def test_batches_of_the_loader_are_the_arrays_and_nothing_else_is_made(entries, task):
    examples = Examples.open(entries[task], "train")
    dataset = examples.torch()
    batch = next(iter(DataLoader(dataset, batch_size=7)))
    pair = (2,) if task == "retrieval" else ()
    assert [tuple(part.shape) for part in batch] == [(7, *pair, 200), (7, *pair), (7,)]
    read = whole(DataLoader(dataset, batch_size=7))
    assert "tokens" not in vars(examples) and isinstance(examples.data.values, np.memmap)
    for part, array in zip(read, (examples.tokens, examples.lengths, examples.labels), strict=True):
        assert part.dtype == np.int64 and np.array_equal(part, array)


def test_a_batch_is_gathered_at_once_also_from_a_subset(entries, monkeypatch):
    taken = []
    real = Examples.take
    monkeypatch.setattr(Examples, "take", lambda self, numbers: (taken.append(len(numbers)), real(self, numbers))[1])
    dataset = Examples.open(entries["text"], "test").torch()
    batch = next(iter(DataLoader(Subset(dataset, range(10, 30)), batch_size=20)))
    assert taken == [20]
    assert all(
        torch.equal(*both) for both in zip(batch, default_collate([dataset[i] for i in range(10, 30)]), strict=True)
    )


def test_a_spawned_worker_maps_the_files_itself(entries):
    examples = Examples.open(entries["retrieval"], "validation")
    dataset = examples.torch()
    assert len(pickle.dumps(dataset)) < 1000
    loader = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
    assert np.array_equal(whole(loader)[0], examples.tokens)


def test_the_loop_of_the_documentation_trains_and_its_predictions_are_submitted(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "tasks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "loop.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    few = functools.partial(load, train=640, validation=50, test=100)
    monkeypatch.setattr("tasks.load", few)  # the rest is as it stands there
    runpy.run_path("loop.py")
    predictions, test = np.load("preds.npy"), few("listops_short", "test")
    assert predictions.shape == (100, 10) and np.isfinite(predictions).all()
    printed = capsys.readouterr().out.strip()
    assert printed == f"--fingerprint={test.fingerprint}"
    (command,) = re.findall(r"python run.py (submit --task.*?\n.*)", text)
    words = [word for word in shlex.split(command.replace("\\\n", "")) if not word.startswith("--fingerprint")]
    sizes = [f"--set=data.{name}={count}" for name, count in (("train", 640), ("validation", 50), ("test", 100))]
    done = call(*words, printed, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right = (predictions.argmax(1) == test.labels).mean()
    assert done.stdout.startswith(
        f"listops_short@64 × My GRU (PyTorch), seed 0: {100 * right:.2f} % of 100 test examples"
    )
    assert only_record(tmp_path)["results"][0]["test_best"] == right
