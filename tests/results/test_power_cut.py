"""Power cuts at any moment: what had been promised is there, and nothing is mistaken for what it is not."""

import os
import random
import shutil

import jax
import jax.numpy as jnp
import pytest

from lra.results import lease, load, records
from lra.results.folder import record_path, unfinished
from lra.results.lease import Leases
from lra.train.checkpoint import Checkpoints
from tasks.io.cache import open_entry
from tests.helpers.noise import prepared
from tests.helpers.power_cut import Disk, lay
from tests.helpers.records import quick_cell, record


@pytest.fixture
def found(tmp_path):
    """Lays the states that a power cut may leave, or so many of them, each into a folder of its own."""

    def states(disk, most=10**6):
        every = list(disk.crashes())
        for number, (tree, told) in enumerate(random.Random(0).sample(every, min(most, len(every)))):
            folder = lay(tree, tmp_path / f"after{number}")
            yield folder, told
            shutil.rmtree(folder)

    return states


def drawn(tmp_path):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk")


# --- the model itself: it finds what careless writers lose --------------------------------------------


def careless(path, text, sync_file=False, sync_folder=False):
    beside = path.with_name("beside")
    with open(beside, "w") as file:
        file.write(text)
        file.flush()
        if sync_file:
            os.fsync(file.fileno())
    os.replace(beside, path)
    if sync_folder:
        handle = os.open(path.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@pytest.mark.parametrize(
    ("care", "damaged", "lost"),
    [
        ({}, True, True),
        ({"sync_folder": True}, True, False),
        ({"sync_file": True}, False, True),
        ({"sync_file": True, "sync_folder": True}, False, False),
    ],
)
def test_the_model_finds_what_a_careless_writer_loses(tmp_path, care, damaged, lost):
    with drawn(tmp_path) as disk:
        careless(disk.root / "file", "old text", **care)
        disk.told("old")
        careless(disk.root / "file", "new text", **care)
        disk.told("new")
    states = list(disk.crashes())
    contents = {tree.get("file") for tree, _ in states}
    assert contents >= {None, b"old text", b"new text"}
    assert bool(contents - {None, b"old text", b"new text"}) == damaged
    assert any(tree.get("file") != b"new text" for tree, told in states if "new" in told) == (lost or damaged)
    assert any("beside" in tree for tree, _ in states)


def test_a_new_folder_is_lost_with_what_is_in_it_unless_it_is_synced(tmp_path):
    with drawn(tmp_path) as disk:
        os.mkdir(disk.root / "folder")
        careless(disk.root / "folder" / "file", "text", sync_file=True, sync_folder=True)
        disk.told("written")
    assert any(tree == {} for tree, told in disk.crashes() if told == ("written",))


# --- records ------------------------------------------------------------------------------------------


def test_a_record_survives_once_it_is_written_and_until_then_the_one_before_does(tmp_path, found):
    cell = quick_cell()
    with drawn(tmp_path) as disk:
        path = record_path(disk.root / "results", cell)
        records.write(path, record(key=cell.key, status="failed"))
        disk.told("failed")
        records.write(path, record(key=cell.key, score=0.25))
        disk.told("ok")
    may_be = {(): (None, "failed"), ("failed",): ("failed", "ok"), ("failed", "ok"): ("ok",)}
    seen = set()
    for folder, told in found(disk):
        there, lines = load.load_records([folder / "results"], records.BENCH)
        assert lines == [] and len(there) <= 1  # never half a record
        status = there[0]["status"] if there else None
        assert status in may_be[told]
        # What is not there, or has failed, is run again.
        assert unfinished([cell], folder / "results") == ([] if status == "ok" else [cell])
        seen.add((status, told))
    assert len(seen) == 5


# --- leases -------------------------------------------------------------------------------------------


def test_a_lease_that_a_power_cut_has_left_is_taken_over_whatever_is_in_it(tmp_path, found, clock):
    with drawn(tmp_path) as disk:
        ours = Leases(disk.root).take("cell")
        ours.progress = {"step": 7}
        assert ours.renew()
        disk.told("renewed")
        ours.release()
    for folder, _ in found(disk):
        after = Leases(folder)
        taken = after.take("cell")
        if taken is None:
            clock.now += lease.DEAD_SECONDS
            taken = after.take("cell")
        assert taken.renew() and Leases(folder).take("cell") is None
        taken.release()


# --- prepared data ------------------------------------------------------------------------------------


def test_prepared_data_are_there_once_they_are_told_and_else_are_made_anew(tmp_path, found):
    with drawn(tmp_path) as disk:
        entry = prepared(disk.root / "data")
        good = open_entry(entry).fingerprint
        disk.told(entry.name)
    for folder, told in found(disk, 40):
        if told:
            assert open_entry(folder / "data" / told[0]).fingerprint == good
        assert open_entry(prepared(folder / "data")).fingerprint == good
    # Of the many states a sample is enough, but not of those in which the data have been promised.
    promised = [(tree, names) for tree, names in disk.crashes() if names]
    assert promised
    for number, (tree, names) in enumerate(promised):
        assert open_entry(lay(tree, tmp_path / f"promised{number}") / "data" / names[0]).fingerprint == good


# --- checkpoints --------------------------------------------------------------------------------------


def arrays(step):
    return {"a": jnp.full((3, 4), step, jnp.float32), "b": jnp.arange(5) + step}


def restored(folder, told_of):
    """The step of the newest usable checkpoint, None without one; its arrays and numbers are that step's."""
    back = Checkpoints(folder, "key", 0, told_of.append)
    got = back.restore(arrays(0))
    back.close()
    if got is None:
        return None
    step = got[1]["step"]
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), got[0], arrays(step)))
    return step


def save_all(folder, steps, told=lambda step: None):
    checkpoints = Checkpoints(folder, "key", 0, pytest.fail)
    for step in steps:
        checkpoints.save(step, arrays(step), {"step": step}, wait=True)
        told(step)
    checkpoints.close()


# Where a file is damaged, a thread of TensorStore's may answer after Orbax has given up, and is told off on stderr.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_checkpoint_that_was_saved_survives_and_half_a_one_is_never_used(tmp_path, found):
    with drawn(tmp_path) as disk:
        save_all(disk.root / "checkpoints" / "cell", (1, 2, 3, 4), disk.told)
    steps = set[int | None]()
    for folder, told in found(disk, 20):
        lines = []
        step = restored(folder / "checkpoints" / "cell", lines)
        assert (step or 0) >= (told[-1] if told and told[-1] != "the end" else 0)
        assert all("cannot be used and is left out" in line for line in lines)
        steps.add(step)
    assert len(steps) >= 4


def other_file(place, one_before):
    place.write_bytes(one_before.read_bytes()) if one_before.exists() else place.unlink()


DAMAGES = {
    "missing": lambda place, _: place.unlink(),
    "cut": lambda place, _: place.write_bytes(place.read_bytes()[: place.stat().st_size // 2]),
    "of another step": other_file,
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_of_a_checkpoint_may_be_damaged(tmp_path, damage):
    """The numbers are one step's whole ones, the newer's where the file says nothing of them, and a line tells else."""
    save_all(tmp_path / "whole", (1, 2))
    files = [file.relative_to(tmp_path / "whole" / "2") for file in sorted((tmp_path / "whole" / "2").rglob("*"))]
    names = [name for name in files if (tmp_path / "whole" / "2" / name).is_file()]
    used = set()
    for number, name in enumerate(names):
        folder = tmp_path / f"hurt{number}"
        shutil.copytree(tmp_path / "whole", folder)
        DAMAGES[damage](folder / "2" / name, folder / "1" / name)
        lines = []
        step = restored(folder, lines)
        assert step == 2 or (step == 1 and len(lines) == 1 and "step 2 cannot be used" in lines[0])
        used.add(step)
        shutil.rmtree(folder)
    assert 1 in used


def test_a_checkpoint_is_kept_where_the_machine_lacks_what_reading_it_takes(tmp_path, monkeypatch):
    save_all(tmp_path, (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr("lra.train.checkpoint.checksums", raising(MemoryError("no room")))
        with pytest.raises(MemoryError):
            restored(tmp_path, [])
    lines = []
    assert restored(tmp_path, lines) == 2 and lines == []


def raising(error):
    def call(*arguments):
        raise error

    return call
