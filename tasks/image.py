"""Image: classify grey CIFAR-10 pictures, pixel by pixel (Krizhevsky 2009).

Data card
    What        32×32 photographs of ten kinds of objects, row by row as a sequence of 1,024 grey levels;
                which kind?
    From        CIFAR-10: its binary version or its Python version, as a folder or archive; or TensorFlow
                Datasets (`cifar10`). 50,000 and 10,000 pictures, a tenth of them of each class.
    Decided     Grey is 0.2989 R + 0.5870 G + 0.1140 B in float32, rounded as `tf.image.rgb_to_grayscale`
                does (checked for all 16.7 million colours); other libraries differ by 1 on a quarter of
                the pixels. The value is the grey level and the token id is value + 1: black is a level
                like any other, and never masked as padding. 45,000 / 5,000 / 10,000: the held-out
                pictures are stratified and seeded, and every test picture counts. Pictures are ordered by
                content, so that every copy gives the same splits.
    Traps       Published numbers may use RGB, data augmentation or normalised floats: none is done here.
                The Python version is a pickle; it is read without unpickling (`tasks.io.safe_pickle`), so
                that an untrusted file runs no code. A copy is refused where sizes, classes or numbers of
                pictures are not CIFAR-10's, or pictures of test are in train as well.
    Licence     None stated by its authors; made for research. Not distributed with this project.
    Cite        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.io import safe_pickle, tfds
from tasks.io.archives import open_source
from tasks.io.sources import CIFAR10, find_parts
from tasks.io.splits import canonical_order, check_counts, check_repeats, consecutive, content_digest, hold_out
from tasks.task import Archive, BuildRequest, DataError, RawDataset, Remarks, SourceNotFound, Task

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
PYTHON = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "the folder cifar-10-batches-py",
)
_RECORD = 1 + 3 * 1024
_COUNTS = (45_000, 5_000, 10_000)

Pictures = tuple[np.ndarray, np.ndarray]
"""Colours uint8 [N, 3, 32, 32] and classes uint8 [N]."""


@dataclass(frozen=True)
class ImageConfig:
    """The held-out split."""

    validation: float = 0.1
    """Share of the 50,000 training pictures that is held out of training."""


def grey(colours: np.ndarray) -> np.ndarray:
    """Converts pictures uint8 [..., 3, 32, 32] to grey levels uint8 [..., 1024].

    The truncation after multiplying by 255.5 and the order of the float32 operations are TensorFlow's.
    """
    unit = colours.astype(np.float32) * np.float32(1 / 255)
    red, green, blue = np.moveaxis(unit, -3, 0)
    level = red * np.float32(0.2989) + green * np.float32(0.5870) + blue * np.float32(0.1140)
    out: np.ndarray = (level * np.float32(255.5)).astype(np.uint8)
    return out.reshape(*out.shape[:-2], 1024)


def _find_files(path: Path) -> list[Path]:
    """Finds the files in `path`: the binary version, else the Python version."""
    names = (*_BATCHES, "test_batch")
    try:
        return find_parts(path, ("cifar-10-batches-bin",), [f"{name}.bin" for name in names], CIFAR10, "CIFAR-10")
    except SourceNotFound:
        with contextlib.suppress(SourceNotFound):
            return find_parts(path, ("cifar-10-batches-py",), names, PYTHON, "CIFAR-10")
        raise


def read_binary(file: Path) -> Pictures:
    """Reads a batch of the binary version: records of a class and 3,072 bytes. Raises `DataError` naming the file."""
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % _RECORD:
        raise DataError(f"{file}: {len(data):,} bytes are not whole records of {_RECORD:,}: fetch it again")
    records = data.reshape(-1, _RECORD)
    return _check_classes(file, records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def read_python(file: Path) -> Pictures:
    """Reads a batch of the Python version, without unpickling. Raises `DataError` naming the file."""
    batch = safe_pickle.read(file)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, safe_pickle.Array) or not isinstance(labels, list) or data.shape != (len(labels), 3072):
        raise DataError(f"{file}: not a CIFAR-10 batch, which has 'data' [N, 3072] and 'labels' [N]")
    if data.dtype != "u1" or not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise DataError(f"{file}: not a CIFAR-10 batch, which has bytes and classes")
    pictures = np.frombuffer(data.content, np.uint8).reshape(-1, 3, 32, 32)
    return _check_classes(file, pictures, np.array(labels, np.uint8))


def _check_classes(file: Path, pictures: np.ndarray, labels: np.ndarray) -> Pictures:
    wrong = np.flatnonzero(labels > 9)
    if len(wrong):
        number = int(wrong[0])
        raise DataError(
            f"{file}, picture {number + 1}: class {labels[number]} in a set of ten classes: it is not a CIFAR-10 batch"
        )
    return pictures, labels


def _read_folder(folder: Path) -> Iterator[tuple[str, Pictures]]:
    for file in _find_files(folder):
        split = "test" if file.name.startswith("test") else "train"
        yield split, (read_binary if file.suffix == ".bin" else read_python)(file)


def _read_tfds(folder: Path) -> Iterator[tuple[str, Pictures]]:
    for split in ("train", "test"):
        examples = list(tfds.read_examples(folder, split))
        pictures = np.stack([example["image"] for example in examples]).transpose(0, 3, 1, 2)
        yield split, _check_classes(folder, pictures, np.array([example["label"] for example in examples], np.uint8))


@dataclass(frozen=True)
class GreyPictures:
    """The pictures of a copy, checked, in an order that depends on their contents alone."""

    levels: dict[str, np.ndarray]
    """Grey levels uint8 [N, 1024] by split: 'train' and 'test'."""
    labels: dict[str, np.ndarray]
    """Classes uint8 [N] by split."""
    source: str
    remarks: Remarks


def read_pictures(request: BuildRequest) -> GreyPictures:
    """Reads and checks the pictures of a folder, an archive or a TFDS copy. Raises `DataError`."""
    path = Path(request.source)
    if (path / "dataset_info.json").is_file():
        remarks = tfds.copy_remarks(path, request.allow_unverified)
        return _check(_read_tfds(path), f"tfds {path.parent.name} {path.name}", remarks)
    archive = PYTHON if path.name.startswith("cifar-10-python") else CIFAR10
    names = {*_BATCHES, "test_batch"}

    def wanted(name: str) -> bool:
        return Path(name).name.removesuffix(".bin") in names

    with open_source(request, archive, wanted, 400_000_000) as (folder, remarks):
        return _check(_read_folder(folder), f"CIFAR-10 ({path.name})", remarks)


def _check(batches: Iterable[tuple[str, Pictures]], source: str, remarks: Remarks) -> GreyPictures:
    levels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    digests: dict[str, list[bytes]] = {"train": [], "test": []}
    labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for split, (colours, classes) in batches:
        for start in range(0, len(colours), 1000):  # floats of all pictures at once would need a gigabyte
            levels[split].append(grey(colours[start : start + 1000]))
        digests[split] += [content_digest(picture.tobytes()) for picture in colours]
        labels[split].append(classes)
    label = {split: np.concatenate(parts) for split, parts in labels.items()}
    check_counts(label, {"train": _COUNTS[0] + _COUNTS[1], "test": _COUNTS[2]}, remarks, "CIFAR-10")
    check_repeats(digests, remarks, "pictures")
    order = {split: canonical_order(digests[split], label[split]) for split in label}
    grey_levels = {split: np.concatenate(levels[split])[order[split]] for split in order}
    return GreyPictures(grey_levels, {split: label[split][order[split]] for split in order}, source, remarks)


def to_dataset(pictures: GreyPictures, chosen: Sequence[tuple[str, np.ndarray]], request: BuildRequest) -> RawDataset:
    """The data of the chosen pictures, as long as they are.

    Args:
        pictures: all pictures, of `request.length` pixels.
        chosen: the split they come from and their rows, for train, validation and test.
        request: the length.
    """
    values = np.concatenate([pictures.levels[split][rows] for split, rows in chosen])
    classes = np.concatenate([pictures.labels[split][rows] for split, rows in chosen])
    splits = consecutive(classes, [len(rows) for _, rows in chosen])
    lengths = np.full(len(values), request.length, np.int32)
    notes, unverified = tuple(pictures.remarks.notes), pictures.remarks.unverified
    return RawDataset(values, lengths, splits, pictures.source, notes, unverified=unverified)


def build(request: BuildRequest) -> RawDataset:
    """Builds Image from a folder, an archive or a TFDS copy. Raises `DataError`."""
    if request.length != 1024:
        raise DataError(f"Image has 1,024 pixels: its length cannot be {request.length}")
    pictures = read_pictures(request)
    kept, held = hold_out(pictures.labels["train"], request.rules.validation, request.seed)
    everything = np.arange(len(pictures.labels["test"]))
    return to_dataset(pictures, [("train", kept), ("train", held), ("test", everything)], request)


IMAGE = Task(
    name="image",
    version="1",
    vocab=257,
    classes=10,
    length=1024,
    chance=0.1,
    build=build,
    rules=ImageConfig(),
    sources=("folder", "tfds"),
    inputs=_find_files,
    archive=CIFAR10,
    counts=_COUNTS,
    tfds="cifar10",
    summary="grey CIFAR-10 pictures as 1,024 pixels; ten classes",
    shape=(32, 32),
    names=CLASSES,
)
