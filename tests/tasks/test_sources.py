"""Which source is taken, what is said where there is none, and that only TFDS needs TensorFlow."""

import dataclasses
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from tasks import TASKS
from tasks.io import download, sources, tfds
from tasks.io.cache import describe, open_entry, prepare
from tasks.io.sources import resolve
from tasks.task import Archive, DataError, SourceNotFound
from tests.helpers import archives
from tests.helpers.cli import ROOT
from tests.helpers.waiting import SECONDS

TEXT, IMAGE, SHORT = TASKS["text"], TASKS["image"], TASKS["listops_short"]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data of this machine's user is found, and no test reaches the network."""
    for name in ("LRA_SOURCE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_silent", set())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: (_ for _ in ()).throw(socket.gaierror("no network")))


def found(task, source="auto", cache=Path("no-cache"), **settings):
    return resolve(task, source, cache, report=lambda line: None, **settings)


# --- the order ----------------------------------------------------------------------------------------


def prepared_copy(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_auto_takes_the_user_s_folder_then_tfds_then_the_download(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"aclImdb_v1\.tar\.gz is missing"):
        found(TEXT, cache=cache)
    fetched = archives.pack(archives.imdb(tmp_path / "fetched"), tmp_path / "aclImdb_v1.tar.gz")
    with monkeypatch.context() as patch:
        patch.setattr(download, "fetch", lambda *arguments: fetched)
        assert found(TEXT, cache=cache).source == str(fetched)
    home = prepared_copy(tmp_path / "home/tensorflow_datasets", "imdb_reviews/plain_text/1.0.0")
    assert found(TEXT, cache=cache).source == str(home)
    archives.imdb(cache / "sources")
    assert found(TEXT, cache=cache).source == str(cache / "sources")
    archives.imdb(tmp_path / "variable")
    monkeypatch.setenv("LRA_SOURCE", str(tmp_path / "variable"))
    assert found(TEXT, cache=cache).source == str(tmp_path / "variable")
    named = archives.pack(tmp_path / "variable/aclImdb", tmp_path / "fetched/aclImdb_v1.tar.gz").parent
    (named / "aclImdb").rename(named / "elsewhere")
    assert found(TEXT, cache=cache, source_dir=named).source == str(named / "aclImdb_v1.tar.gz")


def test_auto_generates_rather_than_downloads(tmp_path):
    for name in ("listops", "listops_short", "pathfinder", "pathx"):
        assert found(TASKS[name], cache=tmp_path).source == "generate"
    archives.drawings(tmp_path / "sources" / "lra_release")
    assert found(TASKS["pathfinder"], cache=tmp_path).identity["kind"] == "folder"
    assert found(TASKS["pathx"], cache=tmp_path).source == "generate"


def test_what_is_broken_in_the_user_s_folder_is_told_and_not_passed_over(tmp_path):
    folder = archives.cifar(tmp_path)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"no test_batch\.bin"):
        found(IMAGE, source_dir=tmp_path)


def test_a_changed_folder_is_another_source(tmp_path):
    folder = archives.cifar(tmp_path)
    before = found(IMAGE, str(tmp_path)).identity
    assert found(IMAGE, str(tmp_path)).identity == before
    (folder / "test_batch.bin").write_bytes(b"\x00" * 3073)
    assert found(IMAGE, str(tmp_path)).identity != before


@pytest.mark.parametrize(
    ("task", "source", "words"),
    [
        (TEXT, "generate", "text cannot be generated: its sources are a folder or archive, tfds, download"),
        (
            TASKS["retrieval"],
            "tfds",
            "retrieval is not in TensorFlow Datasets: its sources are a folder or archive, download",
        ),
        (SHORT, "download", "listops_short has no download: its sources are generate"),
        (SHORT, "/", "listops_short cannot be read from a folder: its sources are generate"),
        (TEXT, "nowhere", "no source 'nowhere': give auto, generate, tfds, download or a path"),
        (TASKS["pathfinder"], "tfds", "no prepared copy of pathfinder32 was found; put its folder into"),
    ],
)
def test_a_source_that_there_is_not_is_told(task, source, words, tmp_path):
    with pytest.raises(DataError, match=words):
        found(task, source, tmp_path)


def test_one_of_several_files_is_no_source(tmp_path):
    file = archives.expressions(tmp_path) / "basic_train.tsv"
    with pytest.raises(DataError, match=r"basic_train\.tsv is one of the files of ListOps: name the folder"):
        found(TASKS["listops"], str(file))


def test_an_empty_or_missing_folder_is_told(tmp_path):
    with pytest.raises(SourceNotFound, match=f"{tmp_path} holds no IMDb reviews: train/neg"):
        found(TEXT, str(tmp_path))
    with pytest.raises(DataError, match=r"the source folder .*nowhere does not exist"):
        found(TEXT, source_dir=tmp_path / "nowhere")


def test_the_newest_version_of_a_prepared_copy_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.9"):
        prepared_copy(tmp_path, f"cifar10/{version}")
    assert tfds.find_prepared("cifar10", [tmp_path / "nowhere", tmp_path]).name == "3.0.10"


@pytest.mark.parametrize(
    ("name", "mode"),
    [("lra_release", "w"), ("lra_release.tar", "w"), ("lra_release.gz", "w:gz"), ("lra_release.tar.gz", "w:gz"),
     ("lra_release.tgz", "w:gz"), ("lra_release.tar.xz", "w:xz"), ("lra_release.tar.bz2", "w:bz2"),
     ("lra_release.gz", "w"), ("lra_release.zip", "zip")],
)  # fmt: skip
@pytest.mark.parametrize("task", ["listops", "pathfinder"])
def test_a_release_packed_otherwise_is_read_by_its_content(tmp_path, task, name, mode):
    """As gunzip, a browser, or another site leaves it: also with an ending that is not true."""
    folder = tmp_path / "unpacked"
    archives.expressions(folder / "lra_release")
    archives.drawings(folder / "lra_release")
    (tmp_path / "named").mkdir()
    if mode == "zip":
        shutil.make_archive(str(tmp_path / "named/lra_release"), "zip", folder)
    else:
        with tarfile.open(tmp_path / "named" / name, mode) as tar:
            tar.add(folder / "lra_release", "lra_release")
    entry = prepare(TASKS[task], TASKS[task].length, 0, "auto", cache=tmp_path, source_dir=tmp_path / "named")
    whole = prepare(TASKS[task], TASKS[task].length, 0, str(folder), cache=tmp_path)
    assert describe(entry)["settings"]["source"]["path"] == str(tmp_path / "named" / name)
    assert open_entry(entry).fingerprint == open_entry(whole).fingerprint


@pytest.mark.parametrize(
    ("name", "example", "words"),
    [
        ("text", {"text": b"good", "label": -1}, "1.0.0 train 0 has the class -1 where 0 and 1 are known"),
        ("text", {"text": b" ", "label": 1}, "1.0.0 train 0 is empty"),
        (
            "image",
            {"image": np.zeros((32, 32, 3), np.uint8), "label": 10},
            "1.0.0, picture 1: class 10 in a set of ten",
        ),
    ],
)
def test_a_tfds_copy_is_checked_as_well(tmp_path, monkeypatch, name, example, words):
    folder = prepared_copy(tmp_path, "1.0.0")
    monkeypatch.setattr(tfds, "read_examples", lambda folder, split: iter([example]))
    with pytest.raises(DataError, match=words):
        TASKS[name].build(archives.request(TASKS[name], folder))


# --- without network ----------------------------------------------------------------------------------


def test_without_network_the_answer_comes_soon_and_says_what_to_do(tmp_path, monkeypatch):
    end = threading.Event()
    for name in ("image", "retrieval", "text"):
        if name == "text":  # a name server that says nothing holds it up most
            monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **settings: end.wait(SECONDS))
        with pytest.raises(DataError) as refused:
            prepare(TASKS[name], TASKS[name].length, 0, "auto", cache=tmp_path)
        archive = TASKS[name].archive
        assert archive.name in str(refused.value) and archive.url in str(refused.value)
        assert str(tmp_path / "sources") in str(refused.value) and "--source_dir" in str(refused.value)
        assert "--source=generate" in str(refused.value) and "\n" not in str(refused.value)
    end.set()
    assert not [path for path in (tmp_path / "sources").iterdir() if path.suffix != ".lock"]


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(download, "CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        archive = Archive(f"http://127.0.0.1:{server.getsockname()[1]}/file")
        for words in ("gave no answer in", "does not answer"):  # the second time without waiting again
            with pytest.raises(download.Unreachable, match=words):
                download.fetch(archive, tmp_path, False, lambda line: None)
    download._silent.clear()


def test_the_tasks_that_are_said_to_need_no_download_are_those(tmp_path):
    named = {name for name in TASKS if f"{name}" in sources.GENERATED.replace(",", "").split()}
    assert named == {"listops", "pathfinder", "pathx"}
    assert all("generate" in TASKS[name].sources for name in named)


# --- without TensorFlow -------------------------------------------------------------------------------

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "jax", "lra", "models", "configs"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from tasks import TASKS
from tasks.io.cache import open_entry, prepare
from tasks.io.preview import details, preview
from tasks.pathfinder.task import PathfinderConfig
cache, folder = map(Path, sys.argv[1:])
entries = []
for name in ("text", "image", "retrieval", "pathfinder"):
    task = TASKS[name]
    entries.append(prepare(task, task.length, 0, str(folder), cache=cache, allow_unverified=True))
rules = PathfinderConfig(train=8, validation=1, test=1)
entries.append(prepare(TASKS["pathfinder"], 1024, 0, "generate", rules=rules, cache=cache))
for entry in entries:
    open_entry(entry)
    print(details(entry))
"""


def test_everything_else_works_where_tensorflow_is_not_installed(tmp_path):
    for make in (archives.imdb, archives.cifar, archives.papers, archives.drawings):
        make(tmp_path / "data")
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "cache"), str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fingerprint") == 5


def test_where_tfds_is_not_installed_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "is_installed", lambda: False)
    with pytest.raises(DataError, match="TensorFlow Datasets is not installed: pip install"):
        found(TEXT, "tfds", tmp_path)
    prepared_copy(tmp_path / "home/tensorflow_datasets", "cifar10/3.0.2")
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is missing"):
        found(IMAGE, cache=tmp_path)  # auto leaves a copy that cannot be read aside


def test_prepare_takes_a_path_and_says_what_it_took(tmp_path):
    archives.imdb(tmp_path / "data")
    entry = prepare(TEXT, 1000, 0, "auto", cache=tmp_path, source_dir=tmp_path / "data", allow_unverified=True)
    assert describe(entry)["source"] == "aclImdb (data)"
    assert open_entry(entry).values.shape == (160, 1000)
    with pytest.raises(DataError, match="--allow_unverified"):
        prepare(TEXT, 1000, 0, str(tmp_path / "data"), cache=tmp_path / "other")


def test_every_task_says_what_it_is():
    for name, task in TASKS.items():
        assert task.name == name and task.summary and task.sources
        assert len(task.names) == task.classes
        assert (task.inputs is not None) == ("folder" in task.sources)
        assert bool(task.tfds) == ("tfds" in task.sources)
        assert dataclasses.is_dataclass(task.rules)
        if name.endswith("_mini"):
            module, words = f"mini.{name.removesuffix('_mini')}", ("What", "Shrunk", "Demands", "From", "Licence")
        elif task.distance:
            module, words = "ordered_pair", ("What", "Demands", "Beware", "From", "Licence")
        else:
            words = ("What", "From", "Decided", "Licence")
            module = "listops" if "listops" in name else "pathfinder.task" if name.startswith("path") else name
        card = sys.modules[f"tasks.{module}"].__doc__
        assert all(f"\n    {word} " in card for word in words), name
