"""Text: bytes of IMDb, the held-out split, damaged copies."""

import re
import shutil

import numpy as np
import pytest

from tasks.task import DataError
from tasks.text import TEXT
from tests.helpers import archives, real_data


def build(source, length=4000, **settings):
    return TEXT.build(archives.request(TEXT, source, length, **settings))


def texts(arrays, split):
    rows = arrays.splits[split].index[:, 0]
    return [bytes(arrays.values[row, : arrays.lengths[row]]) for row in rows]


@pytest.fixture(scope="module")
def real():
    return build(real_data.folder(), allow_unverified=False)


def test_real_counts_and_classes(real):
    counts = {name: np.bincount(split.labels).tolist() for name, split in real.splits.items()}
    assert counts == {"train": [11_250] * 2, "validation": [1_250] * 2, "test": [12_500] * 2}
    assert real.values.shape == (50_000, 4000) and real.values.dtype == np.uint8
    assert real.lengths.min() == 32 and real.lengths.max() == 4000
    assert real.notes == (
        "418 of 50,000 reviews are copies of another; 123 of the test split are in another split",
        "1,510 of 50,000 reviews, longer than 4,000 bytes, were cut",
    )
    assert not real.unverified


def test_real_reviews_are_their_files(real):
    folder = real_data.folder() / "aclImdb"
    for split, parts in (("train", ("train", "validation")), ("test", ("test",))):
        files = {
            (file.read_bytes().strip()[:4000], int(label == "pos"))
            for label in ("neg", "pos")
            for file in (folder / split / label).iterdir()
        }
        ours = {pair for part in parts for pair in zip(texts(real, part), real.splits[part].labels, strict=True)}
        assert ours == files


@pytest.mark.parametrize("length", [1000, 2000, 3000, 17])
def test_any_length(tmp_path, length):
    long = archives.imdb(tmp_path) / "train" / "pos" / "long_1.txt"
    long.write_bytes(b"x" * 5000)
    arrays = build(tmp_path, length)
    assert arrays.values.shape[1] == length == arrays.lengths.max()
    assert b"x" * length in texts(arrays, "train") + texts(arrays, "validation")
    assert f"longer than {length:,} bytes, were cut" in arrays.notes[-1]


def test_padding_is_told_from_a_zero_byte(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "test" / "neg" / "zero_1.txt").write_bytes(b"\x00a\x00")
    arrays = build(folder)
    row = next(r for r in arrays.splits["test"].index[:, 0] if arrays.lengths[r] == 3)
    from tasks.task import Dataset

    tokens = Dataset(**vars(arrays)).tokens(np.array([row]))[0]
    assert tokens[:5].tolist() == [1, 98, 1, 0, 0]


def test_white_space_at_the_ends_is_cut_and_the_rest_stays(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "test" / "neg" / "space_1.txt").write_bytes(b" \n a  <br /> b\xc2\xa0 \n")
    assert b"a  <br /> b\xc2\xa0" in texts(build(folder), "test")


def test_the_split_is_stratified_seeded_and_by_content(tmp_path):
    folder = archives.imdb(tmp_path / "a")
    renamed = tmp_path / "b" / "aclImdb"
    shutil.copytree(folder, renamed)
    for i, file in enumerate(sorted((renamed / "train" / "pos").iterdir(), reverse=True)):
        file.rename(file.with_name(f"renamed_{i}.txt"))
    first, same, other = build(folder), build(renamed), build(folder, seed=1)
    assert np.array_equal(first.values, same.values)
    assert np.bincount(first.splits["validation"].labels).tolist() == [4, 4]
    assert set(texts(first, "validation")) != set(texts(other, "validation"))
    assert not set(texts(first, "train")) & set(texts(first, "validation"))


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "0_0.txt").write_text("no label")
    expected = build(folder)
    arrays = build(archives.pack(folder, tmp_path / "aclImdb_v1.tar.gz"), scratch=tmp_path)
    assert np.array_equal(arrays.values, expected.values)
    assert arrays.notes[0].startswith("an unverified copy of aclImdb_v1.tar.gz: sha256")
    assert not list(tmp_path.glob("unpacked-*"))


def test_a_byte_that_is_not_utf8_is_named_or_counted(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "train" / "pos" / "latin_1.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin_1.txt: byte 3 is not UTF-8 .* --allow_unverified"):
        build(folder, allow_unverified=False)
    arrays = build(folder)
    assert "1 reviews are not UTF-8" in arrays.notes
    assert b"caf\xe9" in texts(arrays, "train") + texts(arrays, "validation")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: shutil.rmtree(f / "test"), "has train/neg but no test/neg: the copy is incomplete"),
        (lambda f: (f / "train/pos/0_1.txt").write_text(" \n"), "0_1.txt is empty"),
        (lambda f: [file.unlink() for file in (f / "train" / "neg").iterdir()], "neg holds no reviews"),
    ],
)
def test_a_damaged_copy_is_named(tmp_path, damage, words):
    folder = archives.imdb(tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=words):
        build(folder)


@pytest.mark.parametrize("name", ["0_5.txt", "0_3.txt", "0_11.txt", "0.txt", "0_7 (1).txt", "notes.txt"])
def test_a_name_without_a_rating_of_its_class_needs_a_word_from_the_user(tmp_path, name, monkeypatch):
    folder = archives.imdb(tmp_path, each=100)
    monkeypatch.setattr("tasks.text._COUNTS", (180, 20, 200))
    assert build(folder, allow_unverified=False).notes == ()
    next((folder / "train" / "pos").iterdir()).rename(folder / "train" / "pos" / name)
    first = re.escape(f"train/pos/{name} is the first")
    with pytest.raises(DataError, match=rf"1 reviews are not named NUMBER_RATING.txt.*{first}.*--allow_unverified"):
        build(folder, allow_unverified=False)
    arrays = build(folder)
    assert arrays.unverified and any(f"train/pos/{name} is the first" in note for note in arrays.notes)


def test_what_operating_systems_leave_behind_is_left_out(tmp_path):
    folder = archives.imdb(tmp_path)
    expected = build(folder)
    for name in ("train/pos/._0_7.txt", "train/neg/.DS_Store", "test/pos/Thumbs.db"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert np.array_equal(build(folder).values, expected.values)


def test_train_in_the_place_of_test_needs_a_word_from_the_user(tmp_path, monkeypatch):
    folder = archives.imdb(tmp_path)
    shutil.rmtree(folder / "test")
    shutil.copytree(folder / "train", folder / "test")
    monkeypatch.setattr("tasks.text._COUNTS", (72, 8, 80))
    with pytest.raises(DataError, match=r"80 of the 80 reviews of test are in train, too: .*--allow_unverified"):
        build(folder, allow_unverified=False)


def test_a_file_that_is_far_too_long_is_no_review(tmp_path):
    folder = archives.imdb(tmp_path)
    (folder / "test/neg/99_1.txt").write_text("x" * 2_000_000)
    with pytest.raises(DataError, match=r"99_1.txt has more than 1,048,576 bytes"):
        build(folder)


def test_a_copy_with_reviews_missing_needs_a_word_from_the_user(tmp_path):
    folder = archives.imdb(tmp_path)
    with pytest.raises(DataError, match="25,000 train and 25,000 test examples and this copy 80 train and 80 test"):
        build(folder, allow_unverified=False)
