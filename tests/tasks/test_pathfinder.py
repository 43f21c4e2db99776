"""Pathfinder: the release's folder and archive, broken pictures, generation as a stream."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasks import PAPER, TASKS
from tasks.pathfinder.task import PathfinderConfig, Variant, draw_block
from tasks.task import DataError
from tests.helpers import archives, real_data

HARD = TASKS["pathfinder"]
FEW = PathfinderConfig(train=80, validation=10, test=10)


def build(source, task=HARD, **settings):
    return task.build(archives.request(task, source, **settings))


def pictures(arrays, split):
    return [bytes(arrays.values[row]) for row in arrays.splits[split].index[:, 0]]


def test_the_names_cover_all_sizes_and_difficulties():
    named = {name for name in TASKS if name.startswith("path")}
    bases = ("pathfinder", "pathfinder64", "pathx", "pathfinder256")
    levels = {base + level for base in bases for level in ("", "_easy", "_intermediate")}
    assert named == levels | {"pathfinder_short", "pathfinder_mini"}
    assert [TASKS[name].length for name in bases] == [1024, 4096, 16384, 65536]
    assert set(PAPER) <= set(TASKS) and len(PAPER) == 6


def test_real_counts_and_pictures():
    arrays = build(real_data.folder(), allow_unverified=False)
    assert {name: len(split.labels) for name, split in arrays.splits.items()} == {
        "train": 320, "validation": 40, "test": 40,
    }  # fmt: skip
    assert arrays.values.dtype == np.uint8 and arrays.notes == ()
    folder = real_data.folder() / "lra_release" / "pathfinder32" / "curv_contour_length_14"
    theirs = {}
    for file in (folder / "metadata").iterdir():
        for line in file.read_text().split("\n")[:-1]:
            place, name, _, label, *_ = line.split(" ")
            with Image.open(folder / place / name) as picture:
                theirs[picture.tobytes()] = int(label)
    ours = {
        bytes(arrays.values[row]): label
        for split in arrays.splits.values()
        for (row,), label in zip(split.index, split.labels, strict=True)
    }
    assert ours == theirs and len(ours) == 400
    assert abs(np.mean(list(ours.values())) - 0.5) < 0.05


def test_the_splits_follow_seed_and_contents_not_the_order_of_the_files(tmp_path):
    folder = archives.drawings(tmp_path / "a")
    other = archives.drawings(tmp_path / "b")
    for file in (other / "metadata").iterdir():
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(reversed(lines)))
    first, same, seeded = build(folder), build(other), build(folder, seed=1)
    assert np.array_equal(first.values, same.values)
    assert [len(split.labels) for split in first.splits.values()] == [24, 3, 3]
    assert set(pictures(first, "test")) != set(pictures(seeded, "test"))
    assert len({p for split in first.splits for p in pictures(first, split)}) == 30


@pytest.mark.parametrize("place", [".", "pathfinder32", "pathfinder32/curv_contour_length_14"])
def test_the_folder_may_be_named_at_any_level(tmp_path, place):
    archives.drawings(tmp_path)
    assert len(build(tmp_path / place).values) == 30


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    release = tmp_path / "lra_release"
    expected = build(archives.drawings(release))
    archives.drawings(release, kind="curv_baseline")
    arrays = build(archives.pack(release, tmp_path / "lra_release.gz"))
    assert np.array_equal(arrays.values, expected.values)


def test_broken_pictures_are_counted_named_and_skipped(tmp_path):
    folder = archives.drawings(tmp_path)
    (folder / "imgs/0/sample_3.png").write_bytes(b"")
    whole = (folder / "imgs/0/sample_4.png").read_bytes()
    (folder / "imgs/0/sample_4.png").write_bytes(whole[:300])
    (folder / "imgs/1/sample_0.png").write_bytes(b"no picture at all")
    (folder / "imgs/1/sample_1.png").unlink()
    arrays = build(folder)
    assert len(arrays.values) == 26
    assert arrays.notes[0].startswith("4 empty or broken pictures were skipped: ")
    assert "imgs/0/sample_3.png" in arrays.notes[0] and "and 1 more" in arrays.notes[0]


def other_size(folder):
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(folder / "imgs/0/sample_1.png")


def coloured(folder):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "imgs/0/sample_1.png")


def deep(folder):
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "imgs/0/sample_1.png")


def disguised(folder):
    data = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(data, "BMP")
    for file in (folder / "imgs").glob("*/*.png"):
        file.write_bytes(data.getvalue())


TWICE = r"0 \(1\).npy, line 1: imgs/0/sample_0.png is in .*metadata/0.npy, line 1, too: remove the copy"


def add(folder, line):
    with open(folder / "metadata/0.npy", "a") as file:
        file.write(f"{line}\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (other_size, "sample_1.png has 32×16 pixels where 32×32 are expected"),
        (coloured, "sample_1.png is not a grey picture of 8 bits"),
        (deep, "sample_1.png is not a grey picture of 8 bits"),
        (disguised, "0 of 30 pictures can be read"),
        (
            lambda f: (f / "metadata/0.npy").write_text("imgs/0 sample_0.png 0\n"),
            "0.npy, line 1: folder, file",
        ),
        (
            lambda f: (f / "metadata/0.npy").write_text("imgs/0 sample_0.png 0 2\n"),
            "0.npy, line 1: folder, file",
        ),
        (lambda f: np.save(f / "metadata/0.npy", np.zeros(3)), "0.npy, line 1: not text of this release"),
        (lambda f: shutil.copy(f / "metadata/0.npy", f / "metadata/0 (1).npy"), TWICE),
        (
            lambda f: add(f, (f / "metadata/1.npy").read_text().splitlines()[4]),
            r"1.npy, line 5: imgs/1/sample_4.png is in .*0.npy, line 16, too",
        ),
        (lambda f: add(f, "imgs/0 sample_3.png 3 0"), r"0.npy, line 16: .*sample_3.png is .* with the labels 1 and 0"),
        (lambda f: add(f, "./imgs/0/ sample_3.png 3 1"), r"0.npy, line 16: .*sample_3.png is in .*line 4, too"),
        (
            lambda f: shutil.copy(f / "imgs/0/sample_1.png", f / "imgs/1/sample_2.png"),
            "sample_2.png has the label 0, and an equal picture has 1",
        ),
        (
            lambda f: shutil.copy(f / "imgs/0/sample_1.png", f / "imgs/1/sample_3.png"),
            r"1 of 30 pictures are copies of another, as .*sample_3.png.* remove what is there twice",
        ),
        (lambda f: (f / "metadata/0.npy").write_text("../../x a.png 0 1\n"), "lies outside the data set"),
        (lambda f: [file.unlink() for file in (f / "metadata").iterdir()], "holds no metadata"),
        (lambda f: shutil.rmtree(f / "metadata"), "has no metadata: the copy is incomplete"),
        (lambda f: shutil.rmtree(f / "imgs"), "has no imgs: the copy is incomplete"),
    ],
)
def test_a_damaged_copy_is_named(tmp_path, damage, words):
    folder = archives.drawings(tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=words):
        build(tmp_path)


def test_a_few_equal_pictures_are_noted(tmp_path):
    folder = archives.drawings(tmp_path, count=300)
    shutil.copy(folder / "imgs/0/sample_1.png", folder / "imgs/1/sample_3.png")
    arrays = build(folder)
    assert len(arrays.values) == 300
    assert arrays.notes == (
        "1 of 300 pictures are copies of another, as curv_contour_length_14/imgs/1/sample_3.png, and may be in several "
        "splits",
    )


def test_what_operating_systems_leave_behind_is_left_out(tmp_path):
    expected = build(archives.drawings(tmp_path / "a"))
    folder = archives.drawings(tmp_path / "b")
    for name in ("metadata/._0.npy", "metadata/.DS_Store", "imgs/.DS_Store", "imgs/._0", "imgs/0/._sample_0.png"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert np.array_equal(build(folder).values, expected.values)
    assert not [file for file in HARD.inputs(folder) if file.name.startswith(".")]


def test_metadata_that_an_editor_on_windows_saved_are_read(tmp_path):
    expected = build(archives.drawings(tmp_path / "a"))
    folder = archives.drawings(tmp_path / "b")
    for file in (folder / "metadata").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert np.array_equal(build(folder).values, expected.values)


def test_of_two_folders_none_is_chosen(tmp_path):
    archives.drawings(tmp_path)
    second = archives.drawings(tmp_path / "lra_release")
    with pytest.raises(DataError, match=r"there are two: .* name the one to read as the source"):
        build(tmp_path)
    assert len(build(second).values) == 30


def test_another_difficulty_is_not_taken_for_this_one(tmp_path):
    archives.drawings(tmp_path, kind="curv_baseline")
    assert len(build(tmp_path, TASKS["pathfinder_easy"]).values) == 30
    with pytest.raises(DataError, match="holds no pathfinder32/curv_contour_length_14"):
        build(tmp_path)


def test_a_length_that_pictures_have_not_is_refused():
    with pytest.raises(DataError, match=r"32×32 = 1,024 pixels: its length cannot be 4,096"):
        build("generate", length=4096, rules=FEW)


# --- generation ---------------------------------------------------------------------------------------


def test_generated_splits_and_their_source():
    arrays = build("generate", rules=FEW)
    assert [len(split.labels) for split in arrays.splits.values()] == [80, 10, 10]
    assert arrays.values.shape == (100, 1024) and (arrays.lengths == 1024).all()
    assert arrays.source == "generated (seed 0)"
    labels = np.concatenate([split.labels for split in arrays.splits.values()])
    assert 0.3 < labels.mean() < 0.7
    assert len(set(map(bytes, arrays.values))) == 100


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pictures_whatever_the_workers(monkeypatch):
    monkeypatch.setattr("tasks.pathfinder.task._BLOCK_PIXELS", 16 * 1024)  # several blocks
    one = build("generate", rules=FEW)
    monkeypatch.undo()
    two = HARD.build(replace(archives.request(HARD, "generate", rules=FEW), workers=2))
    assert np.array_equal(one.values, two.values)
    assert all(np.array_equal(one.splits[s].labels, two.splits[s].labels) for s in one.splits)
    assert not np.array_equal(one.values, build("generate", rules=FEW, seed=1).values)
    fewer = build("generate", rules=PathfinderConfig(train=30, validation=10, test=10))
    assert np.array_equal(fewer.values, one.values[:50])


@pytest.mark.parametrize("name", ["pathfinder_easy", "pathfinder_short", "pathfinder64", "pathx", "pathfinder256"])
def test_every_size_is_generated(name):
    arrays = build("generate", TASKS[name], rules=PathfinderConfig(train=3, validation=1, test=1))
    assert arrays.values.shape == (5, TASKS[name].length)
    assert all(row.max() == 255 and row.min() == 0 for row in arrays.values)


def test_blocks_are_small_whatever_the_size():
    pixels, labels = draw_block(Variant(128, "hard"), 0, 3)
    assert pixels.nbytes <= 1 << 20 and len(pixels) == len(labels) == 64


def test_a_split_without_pictures_is_refused(tmp_path):
    for source in ("generate", archives.drawings(tmp_path)):
        with pytest.raises(DataError, match="every split of Pathfinder needs at least one picture"):
            build(source, rules=PathfinderConfig(train=10, validation=0, test=10))
    with pytest.raises(DataError, match=r"of 30 pictures, data\.validation and data\.test leave none to train on"):
        build(tmp_path, rules=PathfinderConfig(train=50))
