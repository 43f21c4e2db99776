"""Pathfinder: are two discs joined by one dashed path? (Linsley et al. 2018, arXiv:1805.08315)

Data card
    What        A square drawing of dashed curves, pixel by pixel, row by row, as a sequence of grey
                levels: 1 where the two discs mark the ends of one curve, 0 where they mark ends of two.
    Names       `pathfinder` is the paper's task: 32×32, hard. `pathx` (Path-X) is 128×128, hard. The
                names of sizes 64 and 256 and of the difficulties easy and intermediate say so:
                `pathfinder64_easy`. Easy curves have 6 dashes, intermediate 9, hard 14.
    Also        `pathfinder_short`: the same rules with curves of 3 dashes, for laptops. Not comparable with
                other results: the distance between the discs reveals 77 % of the answers (56 % of the
                easy ones) to a linear classifier of the bright pixels' autocorrelation.
    From        Our generator, by the rules of the original one (`tasks.pathfinder.draw`); or the
                benchmark's release: its folder (`pathfinder32/curv_contour_length_14/{imgs,metadata}`),
                its archive, or its TFDS version (`pathfinder_tfds.gz`, unpacked:
                `TFDS/pathfinder32/1.0.0`). 200,000 pictures.
    Decided     160,000 / 20,000 / 20,000, seeded: a release's pictures are ordered by content and then
                shuffled, so that its copies give the same splits; the official code takes them as they
                are stored. The value is the grey level and the token id is value + 1: black pixels, most
                of the picture, are tokens like any other, while the official code masks them as padding.
                The difficulty is in the name: some published examples are easy ones.
    Traps       A release's `metadata/*.npy` are text files. One picture of the official release is an
                empty file (32×32, easy): empty or broken pictures are skipped, counted and named. A picture
                named twice in the metadata, as by a copy `0 (1).npy`, is refused; so are equal pictures
                with two labels, and equal ones under several names if they are more than 1 %: fewer are
                noted. The official archive has two folders `pathfinder128`, and users report that one
                cannot be learned: if a folder contains two, neither is chosen, and the user has to name one.
    Licence     The original generator has an MIT licence, the release is Apache-2.0; generated data has
                none.
    Cite        D. Linsley et al., "Learning long-range spatial dependencies with horizontal gated
                recurrent units", 2018; J. Kim et al., "Disentangling neural mechanisms for perceptual
                grouping", 2020, arXiv:1906.01558; Y. Tay et al., "Long Range Arena", 2020,
                arXiv:2011.04006.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tasks.io import tfds
from tasks.io.archives import find_archive, is_clutter, open_source
from tasks.io.files import Progress
from tasks.io.generate import draw_blocks
from tasks.io.lines import read_ascii_lines
from tasks.io.npy_writer import Table
from tasks.io.room import require_room
from tasks.io.sources import LRA_RELEASE
from tasks.io.splits import canonical_order, consecutive, content_digest
from tasks.task import BuildRequest, DataError, RawDataset, Remarks, SourceNotFound, Task

if TYPE_CHECKING:
    pass

FOLDERS = {"easy": "curv_baseline", "intermediate": "curv_contour_length_9", "hard": "curv_contour_length_14"}
_FEW = 0.01
"""Share of pictures that may be copies of another; more means that a part of the data is there twice."""
Picture = tuple[str, bytes, int]
"""(name for messages, PNG, label)"""
_BLOCK_PIXELS = 1 << 20
"""Pixels that a worker draws per block. The pictures depend on their indices, not on the blocks."""


@dataclass(frozen=True)
class Variant:
    """One task of the family."""

    size: int
    """Pixels along an edge: 32, 64, 128 or 256."""
    difficulty: str

    @property
    def name(self) -> str:
        """The size's name in the release and in TFDS."""
        return f"pathfinder{self.size}"


@dataclass(frozen=True)
class PathfinderConfig:
    """Numbers of pictures. How they are drawn follows from the task's size and difficulty."""

    train: int = 160_000
    """Pictures to generate; a release is split in the same proportions."""
    validation: int = 20_000
    test: int = 20_000


# --- the generator -----------------------------------------------------------------------------------


def draw_block(variant: Variant, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one block of the stream: pictures uint8 [n, size²] and labels uint8 [n].

    Args:
        variant: size and difficulty.
        seed: the stream.
        block: the block's number.
    """
    # Numba takes a second to import, and only drawing needs it.
    from tasks.pathfinder import draw

    count = max(1, _BLOCK_PIXELS // variant.size**2)
    rules = draw.rules(variant.size, variant.difficulty)
    pictures, labels = draw.draw(rules, seed, block * count, count)
    return pictures.reshape(count, -1), labels


def generate(draw_block: Callable[[int], tuple[np.ndarray, np.ndarray]], request: BuildRequest) -> RawDataset:
    """Builds the arrays from a stream of drawings.

    Args:
        draw_block: pictures uint8 [n, size²] and labels uint8 [n] of a block, given its number.
        request: its rules are a `PathfinderConfig`.
    """
    rules: PathfinderConfig = request.rules
    counts = [rules.train, rules.validation, rules.test]
    total, labels = sum(counts), np.zeros(0, np.uint8)
    require_room(request, total)
    progress = Progress(request.report)
    stream = draw_blocks(draw_block, request.workers)
    with Table(request.scratch, request.length) as table:
        try:
            for pictures, classes in stream:
                missing = total - table.rows
                table.add(pictures[:missing])
                labels = np.concatenate([labels, classes[:missing]])
                progress(lambda: f"{table.rows:,} of {total:,} pictures")
                if table.rows == total:
                    break
        finally:
            stream.close()
    lengths = np.full(total, request.length, np.int32)
    return RawDataset(table.array(), lengths, consecutive(labels, counts), f"generated (seed {request.seed})")


# --- the reader of the release -----------------------------------------------------------------------


def _find_folder(path: Path, variant: Variant) -> Path:
    """Finds the folder with `imgs` and `metadata`, or that with the records of a TFDS copy, at or below `path`."""
    if _record_files(path, variant):
        return path
    release = f"{variant.name}/{FOLDERS[variant.difficulty]}"
    if {path.parent.name, path.name} == set(release.split("/")) and (path / "metadata").exists():
        return path
    places = [path, path / "lra_release", path / "lra_release" / "lra_release", path / "TFDS"]
    if path.name == variant.name:
        places.insert(0, path.parent)
    releases = [place / release for place in places if (place / release).is_dir()]
    releases = list({folder.resolve(): folder for folder in releases}.values())
    if len(releases) > 1:
        raise DataError(f"there are two: {releases[0]} and {releases[1]}; name the one to read as the source")
    if releases:
        for part in ("metadata", "imgs"):
            if not (releases[0] / part).is_dir():
                raise DataError(f"{releases[0]} has no {part}: the copy is incomplete")
        return releases[0]
    records = [place / variant.name for place in places]
    copies = [folder for place in records for folder in place.glob("*.*.*") if _record_files(folder, variant)]
    if copies:
        return copies[-1]
    raise SourceNotFound(
        f"{path} holds no {release}: this folder, a TFDS copy of {variant.name} or {LRA_RELEASE.name} should be in it"
    )


def _record_files(folder: Path, variant: Variant) -> list[Path]:
    """The TFRecord files of a TFDS copy, sorted; empty if `folder` is no such copy."""
    return sorted(folder.glob(f"{variant.name}-{variant.difficulty}.tfrecord-*"))


def _metadata_files(folder: Path) -> list[Path]:
    files = (file for file in (folder / "metadata").glob("*.npy") if not is_clutter(file.name))
    return sorted(files, key=lambda file: (len(file.stem), file.stem))  # 0, 1, … 9, 10


def _find_files(variant: Variant, path: Path) -> list[Path]:
    """Files whose sizes and times enter the cache key: the archive; metadata and folders of pictures; records."""
    if path.is_file():
        return [path]
    try:
        folder = _find_folder(path, variant)
    except SourceNotFound:
        packed = find_archive(path, LRA_RELEASE)
        if packed:
            return [packed]
        raise
    pictures = (place for place in (folder / "imgs").glob("*") if not is_clutter(place.name))
    return _record_files(folder, variant) or [*_metadata_files(folder), *sorted(pictures)]


def _read_release(folder: Path) -> Iterator[Picture]:
    """Yields each picture in a release's metadata; the PNG is b'' if its file is missing."""
    files = _metadata_files(folder)
    if not files:
        raise DataError(f"{folder / 'metadata'} holds no metadata (*.npy): the copy is incomplete")
    named: dict[bytes, tuple[int, int, int]] = {}  # a digest takes less memory than a path
    for place, file in enumerate(files):
        for number, name, label in _read_metadata(file):
            earlier, line, other = named.setdefault(content_digest(name.as_posix().encode()), (place, number, label))
            if (earlier, line) != (place, number):
                labels = "" if label == other else f", with the labels {other} and {label}"
                raise DataError(
                    f"{file}, line {number}: {name} is in {files[earlier]}, line {line}, too{labels}: remove the copy"
                )
            picture = folder / name
            yield str(picture), picture.read_bytes() if os.path.isfile(picture) else b"", label


def _read_metadata(file: Path) -> Iterator[tuple[int, PurePosixPath, int]]:
    """Yields (line, picture, label) of each line of a metadata file, which is text. Raises `DataError`."""
    for number, line in read_ascii_lines(file):
        fields = line.split()
        if len(fields) < 4 or fields[3] not in ("0", "1"):
            raise DataError(f"{file}, line {number}: folder, file, number and label 0 or 1 are expected")
        name = PurePosixPath(fields[0], fields[1])
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"{file}, line {number}: {name} lies outside the data set")
        yield number, name, int(fields[3])


def _read_records(files: list[Path]) -> Iterator[Picture]:
    """Yields each picture of a TFDS copy."""
    for number, record in enumerate(tfds.read_records(files, {"image": bytes, "label": int})):
        yield f"record {number} of {files[0].parent}", record["image"], record["label"]


def decode(name: str, content: bytes, size: int) -> np.ndarray | None:
    """Decodes a PNG to grey levels uint8 [size²].

    Args:
        name: the picture's name in messages.
        content: the PNG.
        size: pixels along an edge.

    Returns:
        The grey levels, or None if the PNG is empty or broken.

    Raises:
        DataError: the picture is intact but of another size or mode, so it belongs to another task.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.size != (size, size):
                width, height = picture.size
                raise DataError(f"{name} has {width}×{height} pixels where {size}×{size} are expected")
            if picture.mode != "L":
                raise DataError(f"{name} is not a grey picture of 8 bits (its mode is {picture.mode})")
            return np.asarray(picture).reshape(-1)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):  # Pillow's, on damaged files
        return None


def _read(variant: Variant, request: BuildRequest) -> RawDataset:
    subset = (variant.name, FOLDERS[variant.difficulty])

    def wanted(name: str) -> bool:
        parts = PurePosixPath(name).parts
        return subset in pairwise(parts) or f"{variant.name}-{variant.difficulty}.tfrecord-" in parts[-1]

    with open_source(request, LRA_RELEASE, wanted, 100_000_000_000) as (place, remarks):
        folder = _find_folder(place, variant)
        records = _record_files(folder, variant)
        pictures = _read_records(records) if records else _read_release(folder)
        source = f"tfds {folder.parent.name} {folder.name}" if records else f"lra_release ({folder.name})"
        arrays = _assemble(variant, request, pictures, source, remarks)
        # Notes end up in tables, where the folder's place is of no use.
        return replace(arrays, notes=tuple(note.replace(str(folder), folder.name) for note in arrays.notes))


def _assemble(
    variant: Variant, request: BuildRequest, pictures: Iterator[Picture], source: str, remarks: Remarks
) -> RawDataset:
    labels = bytearray()
    broken: list[str] = []
    contents = _Contents(source)
    progress = Progress(request.report)
    with Table(request.scratch, request.length, "stored.npy") as table:
        for name, content, label in pictures:
            pixels = decode(name, content, variant.size)
            if pixels is None:
                broken.append(name)
                continue
            contents.add(name, pixels.tobytes(), label)
            table.add(pixels[None])
            labels.append(label)
            progress(lambda: f"{table.rows:,} pictures read")
    if len(labels) < 3:
        raise DataError(f"{source}: {len(labels)} of {len(labels) + len(broken)} pictures can be read")
    if broken:
        ellipsis = f" and {len(broken) - 3:,} more" if len(broken) > 3 else ""
        remarks.notes.append(
            f"{len(broken):,} empty or broken pictures were skipped: {', '.join(broken[:3])}{ellipsis}"
        )
    contents.check(remarks)
    classes = np.frombuffer(bytes(labels), np.uint8)
    order = canonical_order(contents.digests, classes)
    order = order[np.random.default_rng([request.seed, 0x9A7F]).permutation(len(order))]
    lengths = np.full(len(order), request.length, np.int32)
    splits = consecutive(classes[order], _split_sizes(len(order), request.rules))
    values = _reorder(table, order, request)
    return RawDataset(values, lengths, splits, source, tuple(remarks.notes), unverified=remarks.unverified)


def _split_sizes(pictures: int, rules: PathfinderConfig) -> list[int]:
    """Divides a release's pictures in the proportions of the settings, with at least one each.

    Raises:
        DataError: none is left to train on.
    """
    total = rules.train + rules.validation + rules.test
    validation, test = (max(1, round(pictures * part / total)) for part in (rules.validation, rules.test))
    if pictures <= validation + test:
        raise DataError(
            f"of {pictures:,} pictures, data.validation and data.test leave none to train on: make data.train greater"
        )
    return [pictures - validation - test, validation, test]


class _Contents:
    """The pictures' contents: finds those that occur more than once, under one name or several."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digests: list[bytes] = []
        self._labels: dict[bytes, int] = {}
        self._copies: list[str] = []

    def add(self, name: str, pixels: bytes, label: int) -> None:
        """Adds a picture. Raises `DataError` if there is an equal one with another label."""
        digest = content_digest(pixels)
        if digest in self._labels:
            if self._labels[digest] != label:
                raise DataError(f"{name} has the label {label}, and an equal picture has {1 - label}: fetch it again")
            self._copies.append(name)
        self._labels[digest] = label
        self.digests.append(digest)

    def check(self, remarks: Remarks) -> None:
        """Notes pictures that are equal to another. Raises `DataError` if they are too many to be by chance."""
        if not self._copies:
            return
        line = (
            f"{len(self._copies):,} of {len(self.digests):,} pictures are copies of another, as {self._copies[0]}, and "
            "may be in several splits"
        )
        if len(self._copies) > _FEW * len(self.digests):
            raise DataError(f"{self.source}: {line}: remove what is there twice")
        remarks.notes.append(line)


def _reorder(table: Table, order: np.ndarray, request: BuildRequest) -> np.ndarray:
    """Copies the table's rows in the given order to a new table, and deletes the old one."""
    with Table(request.scratch, request.length) as shuffled:
        for start in range(0, len(order), 1024):
            shuffled.add(table.array()[order[start : start + 1024]])
    table.remove()
    return shuffled.array()


def build(variant: Variant, request: BuildRequest) -> RawDataset:
    """Builds Pathfinder from the generator, a release's folder or archive, or its TFDS copy. Raises `DataError`."""
    if request.length != variant.size**2:
        raise DataError(
            f"{variant.name} has {variant.size}×{variant.size} = {variant.size**2:,} pixels: its length cannot be "
            f"{request.length:,}"
        )
    check_sizes(request.rules)
    if request.source == "generate":
        return generate(partial(draw_block, variant, request.seed), request)
    return _read(variant, request)


def check_sizes(rules: PathfinderConfig) -> None:
    """Raises `DataError` if a split would be empty."""
    if min(rules.train, rules.validation, rules.test) < 1:
        raise DataError("every split of Pathfinder needs at least one picture")


def _task(size: int, difficulty: str) -> Task:
    variant = Variant(size, difficulty)
    name = {32: "pathfinder", 128: "pathx"}.get(size, variant.name)
    return Task(
        name=name if difficulty == "hard" else f"{name}_{difficulty}",
        version="1",
        vocab=257,
        classes=2,
        length=size**2,
        chance=0.5,
        build=partial(build, variant),
        rules=PathfinderConfig(),
        sources=("generate", "folder", "tfds"),
        inputs=partial(_find_files, variant),
        archive=LRA_RELEASE,
        counts=(160_000, 20_000, 20_000),
        tfds=variant.name,
        summary=f"{size}×{size} drawings: are two discs joined by a dashed path ({difficulty})",
        shape=(size, size),
        names=("apart", "joined"),
    )


PATHFINDERS = tuple(_task(size, level) for size in (32, 64, 128, 256) for level in reversed(FOLDERS))
"""`pathfinder`, `pathfinder_intermediate`, `pathfinder_easy`, `pathfinder64`, …, `pathx`, …"""

PATHFINDER_SHORT = replace(
    _task(32, "short"),
    rules=PathfinderConfig(validation=2_000, test=5_000),
    sources=("generate",),
    inputs=None,
    archive=None,
    counts=(),
    tfds="",
    summary="the same with curves of 3 dashes, for laptops; not comparable with published numbers",
)
