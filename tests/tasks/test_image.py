"""Image: the grey formula, both versions of CIFAR-10, the held-out split, damaged copies."""

import os
import pickle
import shutil
import struct

import numpy as np
import pytest

from tasks.image import CLASSES, IMAGE, grey, read_binary, read_python
from tasks.task import DataError
from tests.helpers import archives, real_data


def build(source, **settings):
    return IMAGE.build(archives.request(IMAGE, source, **settings))


@pytest.mark.slow
def test_grey_is_tensorflow_s_to_the_last_level():
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    edge = np.array(np.meshgrid(*[[0, 1, 2, 127, 128, 253, 254, 255]] * 3)).reshape(3, -1)
    same = np.repeat(np.arange(256)[None], 3, 0)
    drawn = rng.integers(0, 256, (3, 1024 * 1024 - edge.shape[1] - same.shape[1]))
    colours = np.concatenate([edge, same, drawn], 1).astype(np.uint8).reshape(3, -1, 32, 32).swapaxes(0, 1)
    theirs = tf.image.rgb_to_grayscale(colours.transpose(0, 2, 3, 1)).numpy().reshape(-1, 1024)
    assert np.array_equal(grey(colours), theirs)
    # A formula that rounds to nearest is not the same one.
    nearest = np.rint(np.einsum("nchw,c->nhw", colours.astype(float), [0.2989, 0.5870, 0.1140]))
    assert (nearest.reshape(-1, 1024) != theirs).mean() > 0.001


def test_grey_by_hand():
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    pictures = np.broadcast_to(colours[:, :, None, None], (5, 3, 32, 32))
    # 255.5 × the weight, truncated: 0.9999 × 255.5 = 255.47, 76.4, 149.98, 29.1.
    assert grey(pictures)[:, 0].tolist() == [255, 0, 76, 149, 29]


def test_real_counts_and_classes():
    arrays = build(real_data.folder(), allow_unverified=False)
    counts = {name: np.bincount(split.labels).tolist() for name, split in arrays.splits.items()}
    assert counts == {"train": [4500] * 10, "validation": [500] * 10, "test": [1000] * 10}
    assert arrays.values.shape == (60_000, 1024) and arrays.values.dtype == np.uint8
    assert (arrays.lengths == 1024).all()
    rows = np.concatenate([split.index[:, 0] for split in arrays.splits.values()])
    assert np.array_equal(np.sort(rows), np.arange(60_000))
    test = read_binary(real_data.folder() / "cifar-10-batches-bin" / "test_batch.bin")
    ours = sorted(zip(map(bytes, arrays.values[50_000:]), arrays.splits["test"].labels, strict=True))
    assert ours == sorted(zip(map(bytes, grey(test[0])), test[1], strict=True))


def test_the_splits_do_not_depend_on_the_order_of_the_records(tmp_path):
    folder = archives.cifar(tmp_path / "a")
    other = archives.cifar(tmp_path / "b")
    records = np.concatenate([np.fromfile(other / f"data_batch_{i}.bin", np.uint8) for i in range(1, 6)])
    mixed = np.random.default_rng(1).permutation(records.reshape(-1, 3073))
    for i, part in enumerate(np.array_split(mixed, 5), start=1):
        part.tofile(other / f"data_batch_{i}.bin")
    a, b = build(folder), build(other)
    assert np.array_equal(a.values, b.values)
    assert all(np.array_equal(a.splits[s].labels, b.splits[s].labels) for s in a.splits)


def test_the_held_out_pictures_are_stratified_and_follow_the_seed(tmp_path):
    folder = archives.cifar(tmp_path)
    first, again, other = build(folder), build(folder), build(folder, seed=1)
    held = [set(map(bytes, a.values[a.splits["validation"].index[:, 0]])) for a in (first, again, other)]
    assert held[0] == held[1] != held[2]
    assert np.bincount(first.splits["validation"].labels).tolist() == [2] * 10
    kept = set(map(bytes, first.values[first.splits["train"].index[:, 0]]))
    assert len(kept) == 180 and not kept & held[0]


def python_2(labels: list[int], pictures: bytes) -> bytes:
    """A batch as Python 2's cPickle wrote it, which is what the official archive holds."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    kind = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    shape = b"M" + struct.pack("<H", len(labels)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(K\x01"
        + shape + kind + b"\x89T" + struct.pack("<i", len(pictures)) + pictures + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"training batch 1 of 5")
        + string(b"labels") + b"](" + numbers + b"e" + string(b"data") + array
        + string(b"filenames") + b"](" + string(b"a.png") + b"eu."
    )  # fmt: skip


@pytest.fixture
def both(tmp_path):
    """The same pictures in the binary and in the Python version."""
    binary = archives.cifar(tmp_path / "binary")
    python = tmp_path / "python" / "cifar-10-batches-py"
    python.mkdir(parents=True)
    for file in binary.glob("*.bin"):
        pictures, labels = read_binary(file)
        (python / file.stem).write_bytes(python_2(labels.tolist(), pictures.tobytes()))
    return binary, python


def test_the_python_version_gives_the_same_arrays(both, tmp_path):
    binary, python = both
    expected = build(binary)
    packed = archives.pack(python, tmp_path / "cifar-10-python.tar.gz")
    for source in (python, python.parent, packed):
        arrays = build(source)
        assert np.array_equal(arrays.values, expected.values)
        assert all(np.array_equal(arrays.splits[s].labels, expected.splits[s].labels) for s in arrays.splits)


def test_a_pickle_of_today_s_numpy_is_read_too(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)
    for protocol in (2, 4):
        file = tmp_path / "batch"
        file.write_bytes(pickle.dumps({b"data": pictures, b"labels": list(range(10)) * 2}, protocol))
        if protocol == 2:
            colours, labels = read_python(file)
            assert np.array_equal(colours.reshape(20, -1), pictures)
            assert labels.tolist() == list(range(10)) * 2
        else:  # a newer instruction set than any published copy's is refused, not guessed at
            with pytest.raises(DataError, match="refused"):
                read_python(file)


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    mark = tmp_path / "mark"
    for harm in (Harm(mark), {"data": Harm(mark), "labels": [1]}):
        file = tmp_path / "batch"
        file.write_bytes(pickle.dumps(harm, 2))
        with pytest.raises(DataError, match="mkdir, which is refused"):
            read_python(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists(), "the example was harmless: the test proves nothing"


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: cut(f / "data_batch_3.bin", 5000), "data_batch_3.bin: 5,000 bytes are not whole records"),
        (lambda f: cut(f / "data_batch_3.bin", 0), "data_batch_3.bin: 0 bytes"),
        (lambda f: (f / "test_batch.bin").unlink(), "no test_batch.bin: the copy is incomplete"),
        (
            lambda f: (f / "test_batch.bin").write_bytes(b"\x0a" * 3073),
            "batch.bin, picture 1: class 10 in",
        ),
    ],
)
def test_a_damaged_copy_is_named(tmp_path, damage, words):
    folder = archives.cifar(tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=words):
        build(folder)


def test_a_damaged_python_version_is_named(both):
    _, python = both
    batch = python / "data_batch_2"
    whole = batch.read_bytes()
    for content in (whole[:40_000], b"", b"no pickle", pickle.dumps([1], 2), pickle.dumps({"data": 3}, 2)):
        batch.write_bytes(content)
        with pytest.raises(DataError, match="data_batch_2"):
            build(python)


def test_a_batch_in_the_place_of_the_test_batch_needs_a_word_from_the_user(tmp_path):
    folder = archives.cifar(tmp_path, train=250)
    shutil.copy(folder / "data_batch_2.bin", folder / "test_batch.bin")
    arrays = build(folder)
    assert "50 of 300 pictures are copies of another; 50 of the test split are in another split" in arrays.notes
    assert "50 of the 50 pictures of test are in train, too" in arrays.notes and arrays.unverified


def test_other_counts_need_a_word_from_the_user(tmp_path):
    folder = archives.cifar(tmp_path)
    with pytest.raises(DataError, match="50,000 train and 10,000 test examples and this copy 200 train and 50 test"):
        build(folder, allow_unverified=False)
    assert "this copy 200 train" in build(folder).notes[0]


def test_a_length_that_pictures_have_not_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1,024 pixels: its length cannot be 512"):
        build(archives.cifar(tmp_path), length=512)


def test_the_classes_are_in_the_order_of_the_published_names():
    meta = real_data.folder() / "cifar-10-batches-bin" / "batches.meta.txt"
    assert tuple(meta.read_text().split()) == CLASSES
