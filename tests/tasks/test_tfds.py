"""TensorFlow Datasets, offline: built from local archives, the same arrays as from our own reader."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import TASKS
from tasks.io import tfds
from tasks.io.cache import describe, open_entry, prepare
from tasks.io.sources import ACLIMDB, CIFAR10
from tasks.task import DataError
from tests.helpers import archives, real_data
from tests.helpers.cli import ROOT

pytest.importorskip("tensorflow_datasets")

TEXT, IMAGE = TASKS["text"], TASKS["image"]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in ("LRA_SOURCE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def part_of_imdb(folder: Path) -> Path:
    """An archive of 240 real reviews."""
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            place = folder / "aclImdb" / split / label
            place.mkdir(parents=True)
            for file in sorted((real_data.folder() / "aclImdb" / split / label).iterdir())[:60]:
                shutil.copy(file, place)
    return archives.pack(folder / "aclImdb", folder / ACLIMDB.name)


def part_of_cifar(folder: Path) -> Path:
    """An archive of 600 real pictures."""
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    for file in (real_data.folder() / "cifar-10-batches-bin").iterdir():
        (place / file.name).write_bytes(file.read_bytes()[: 3073 * 100])
    return archives.pack(place, folder / CIFAR10.name)


@pytest.mark.parametrize(
    ("task", "part", "version"),
    [(TEXT, part_of_imdb, "imdb_reviews/plain_text/1.0.0"), (IMAGE, part_of_cifar, "cifar10/3.0.2")],
    ids=["text", "image"],
)
@pytest.mark.slow
def test_tfds_gives_what_our_own_reader_gives(tmp_path, task, part, version):
    archive = part(tmp_path / "data")
    settings = {"cache": tmp_path / "cache", "source_dir": archive.parent}
    with pytest.raises(DataError, match=r"its sha256 is .* --allow_unverified"):
        prepare(task, task.length, 0, "tfds", **settings)
    entry = prepare(task, task.length, 0, "tfds", allow_unverified=True, **settings)
    ours = prepare(task, task.length, 0, str(archive), cache=tmp_path / "cache", allow_unverified=True)
    assert entry != ours
    assert "built by TFDS from an unverified copy of the archive" in describe(entry)["notes"]
    theirs, own = open_entry(entry), open_entry(ours)
    assert theirs.source.startswith("tfds")
    assert np.array_equal(theirs.values, own.values) and np.array_equal(theirs.lengths, own.lengths)
    for split in own.splits:
        assert np.array_equal(theirs.splits[split].labels, own.splits[split].labels)
        assert np.array_equal(theirs.splits[split].index, own.splits[split].index)
    assert theirs.fingerprint == own.fingerprint
    # An unverified copy is kept apart: it is found again only by who allows it.
    assert (tmp_path / "cache" / "tfds-unverified" / version / "dataset_info.json").exists()
    assert tfds.find_prepared(task.tfds, tfds.search_folders(tmp_path / "cache", False)) is None
    assert tfds.find_prepared(task.tfds, tfds.search_folders(tmp_path / "cache", True)) is not None


@pytest.mark.slow
def test_a_copy_that_tfds_has_prepared_is_found_by_auto(tmp_path, monkeypatch):
    archive = part_of_cifar(tmp_path / "data")
    built = prepare(IMAGE, 1024, 0, "tfds", cache=tmp_path / "a", source_dir=archive.parent, allow_unverified=True)
    shutil.move(tmp_path / "a" / "tfds-unverified", tmp_path / "home-of-tfds")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home-of-tfds"))
    found = prepare(IMAGE, 1024, 0, "auto", cache=tmp_path / "b", allow_unverified=True)
    assert describe(found)["source"] == "tfds cifar10 3.0.2"
    assert open_entry(found).fingerprint == open_entry(built).fingerprint
    # Nor does its own folder have to be named by a variable.
    named = prepare(IMAGE, 1024, 0, str(tmp_path / "home-of-tfds"), cache=tmp_path / "c", allow_unverified=True)
    assert open_entry(named).fingerprint == open_entry(built).fingerprint


def test_an_archive_of_something_else_is_told(tmp_path):
    archive = archives.pack(archives.imdb(tmp_path), tmp_path / CIFAR10.name)
    with pytest.raises(DataError, match=f"TensorFlow Datasets cannot build cifar10 from {archive}"):
        tfds.build("cifar10", archive, CIFAR10, tmp_path / "cache", True, lambda line: None)


def test_a_damaged_copy_is_told(tmp_path):
    archive = part_of_cifar(tmp_path / "data")
    folder = tfds.build("cifar10", archive, CIFAR10, tmp_path / "cache", True, lambda line: None)
    record = next(folder.glob("*train*.tfrecord*"))
    record.write_bytes(record.read_bytes()[:-1000])
    with pytest.raises(DataError, match=f"TensorFlow Datasets cannot read {folder}"):
        IMAGE.build(archives.request(IMAGE, folder))


# --- the benchmark's TFDS version of Pathfinder ---------------------------------------------------------


def pathfinder_records(place: Path, release: Path) -> Path:
    """`pathfinder32/1.0.0` as TFDS writes it: a split a difficulty, PNGs as they are, in shards."""
    import tensorflow as tf

    folder = place / "pathfinder32" / "1.0.0"
    folder.mkdir(parents=True)
    examples = []
    for file in sorted((release / "metadata").iterdir()):
        for line in file.read_text().splitlines():
            where, name, _, label, *_ = line.split()
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[(release / where / name).read_bytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"pathfinder32-hard.tfrecord-0000{shard}-of-00002")) as writer:
            for example in reversed(examples[shard::2]):
                writer.write(example)
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_the_tfds_version_of_pathfinder_gives_what_its_folder_gives(tmp_path):
    task = TASKS["pathfinder"]
    release = archives.drawings(tmp_path / "release")
    (release / "imgs/0/sample_3.png").write_bytes(b"")
    folder = pathfinder_records(tmp_path / "data" / "TFDS", release)
    expected = open_entry(prepare(task, 1024, 0, str(tmp_path / "release"), cache=tmp_path / "cache"))
    for source, settings in [
        (str(folder), {}),
        (str(tmp_path / "data"), {}),
        (str(tmp_path / "data" / "TFDS"), {}),
        ("tfds", {"source_dir": tmp_path / "data"}),
        ("auto", {"source_dir": tmp_path / "data"}),
    ]:
        entry = prepare(task, 1024, 0, source, cache=tmp_path / source.replace("/", "-"), **settings)
        data = open_entry(entry)
        assert data.source == "tfds pathfinder32 1.0.0" and data.fingerprint == expected.fingerprint
        assert data.notes[0] == "23 / 3 / 3 examples where the release has 160,000 / 20,000 / 20,000"
        assert data.notes[1].startswith("1 empty or broken pictures were skipped: record")
    archive = archives.pack(tmp_path / "data" / "TFDS", tmp_path / "pathfinder_tfds.gz")
    packed = open_entry(prepare(task, 1024, 0, str(archive), cache=tmp_path / "cache"))
    assert packed.fingerprint == expected.fingerprint
    with pytest.raises(DataError, match="holds no pathfinder32/curv_baseline"):
        prepare(TASKS["pathfinder_easy"], 1024, 0, str(tmp_path / "data"), cache=tmp_path / "cache")


def test_a_damaged_record_is_named(tmp_path):
    folder = pathfinder_records(tmp_path, archives.drawings(tmp_path / "release"))
    record = next(folder.glob("*00001-of*"))
    content = bytearray(record.read_bytes())
    content[500] ^= 1
    record.write_bytes(content)
    with pytest.raises(DataError, match=f"{record} is damaged"):
        TASKS["pathfinder"].build(archives.request(TASKS["pathfinder"], tmp_path))


# --- what TensorFlow may do ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gpu_is_hidden_from_tensorflow(tmp_path):
    program = """
import tasks.io.tfds, sys
assert "tensorflow" not in sys.modules
import tensorflow as tf
asked = []
tf.config.set_visible_devices = lambda devices, kind: asked.append((devices, kind))
tasks.io.tfds._import()
print(asked)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[([], 'GPU')]"


def test_the_installed_checksums_are_not_touched(tmp_path):
    import tensorflow_datasets

    installed = Path(tensorflow_datasets.__file__).parent
    files = [installed / "datasets/imdb_reviews/checksums.tsv", installed / "url_checksums/cifar10.txt"]
    before = [file.read_bytes() for file in files]
    archive = part_of_cifar(tmp_path / "data")
    tfds.build("cifar10", archive, CIFAR10, tmp_path / "cache", True, lambda line: None)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.skipif("LRA_SLOW" not in os.environ, reason="builds both data sets in full, some minutes: set LRA_SLOW")
@pytest.mark.parametrize("task", [TEXT, IMAGE], ids=["text", "image"])
def test_the_whole_data_sets_come_out_the_same(tmp_path, task):
    folder = {"text": "aclImdb", "image": "cifar-10-batches-bin"}[task.name]
    (tmp_path / "data").mkdir()
    archive = archives.pack(real_data.folder() / folder, tmp_path / "data" / task.archive.name)
    theirs = prepare(task, task.length, 0, "tfds", cache=tmp_path, source_dir=archive.parent, allow_unverified=True)
    ours = prepare(task, task.length, 0, str(real_data.folder()), cache=tmp_path)
    assert open_entry(theirs).fingerprint == open_entry(ours).fingerprint
