"""Text: classify IMDb reviews, as bytes, by sentiment (Maas et al. 2011)

Data card
    What        A film review as a sequence of bytes, cut at the length; 0 is negative, 1 positive. The
                paper's length is 4,000 (its code's base configuration says 1,000); reviews have 32 to
                13,704 bytes.
    From        `aclImdb_v1.tar.gz` or its folder, or TensorFlow Datasets (`imdb_reviews/plain_text`).
                25,000 reviews to train and 25,000 to test, half of them positive.
    Decided     The value is the byte and the token id is value + 1. White space at both ends is cut, as
                TFDS does; nothing else is touched, and `<br />` stays. The official code selects on the
                test split: here a tenth of train is held out, stratified and seeded, and test is only used for
                one final score. Reviews are ordered by content, so that every copy gives the same splits.
                The length is part of a result's name: accuracy grows with it.
    Traps       418 of the 50,000 reviews are copies of another, some of them across train and test: as
                published, and noted. Bytes that are not UTF-8 mean a re-encoded copy, whose tokens differ:
                it is refused. So is an empty review, and one whose name, NUMBER_RATING.txt, has no rating of
                its class (neg has 1 to 4, pos 7 to 10).
    Licence     None stated; IMDb's reviews, collected for research. Not distributed with this project.
    Cite        A. L. Maas et al., "Learning word vectors for sentiment analysis", ACL 2011, P11-1015.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tasks.io import tfds
from tasks.io.archives import is_clutter, open_source
from tasks.io.room import require_room
from tasks.io.sources import ACLIMDB, find_parts
from tasks.io.splits import canonical_order, check_counts, check_repeats, consecutive, content_digest, hold_out
from tasks.task import BuildRequest, DataError, RawDataset, Remarks, Split, Task

_FOLDERS = ("train/neg", "train/pos", "test/neg", "test/pos")
_COUNTS = (22_500, 2_500, 25_000)
_TOO_LONG = 1 << 20
"""Bytes that no review has: the longest has 13,704."""

Review = tuple[str, str, bytes, int]
"""(split, name for messages, content, class)"""


@dataclass(frozen=True)
class TextConfig:
    """The held-out split."""

    validation: float = 0.1
    """Share of the 25,000 training reviews that is held out of training."""


def _find_files(path: Path) -> list[Path]:
    return find_parts(path, ("aclImdb",), _FOLDERS, ACLIMDB, "IMDb reviews")


def _read_folder(path: Path, misplaced: list[str]) -> Iterator[Review]:
    """Yields the reviews of a folder; names without a rating of their class are added to `misplaced`."""
    for folder in _find_files(path):
        split, label = folder.parent.name, int(folder.name == "pos")
        with os.scandir(folder) as files:
            names = sorted(file.path for file in files if file.name.endswith(".txt") and not is_clutter(file.name))
        if not names:
            raise DataError(f"{folder} holds no reviews (*.txt): the copy is incomplete")
        for name in names:
            if not _is_named_for(label, os.path.basename(name)):
                misplaced.append(name)
            with open(name, "rb") as file:
                yield split, name, file.read(_TOO_LONG + 1), label


def _is_named_for(label: int, name: str) -> bool:
    """Whether a review's name, as '0_9.txt', has a rating of its class."""
    rating = re.fullmatch(r"\d+_(\d+)\.txt", name)
    return rating is not None and int(rating[1]) in ((7, 8, 9, 10) if label else (1, 2, 3, 4))


def _read_tfds(folder: Path) -> Iterator[Review]:
    for split in ("train", "test"):
        for number, example in enumerate(tfds.read_examples(folder, split)):
            yield split, f"{folder} {split} {number}", example["text"], int(example["label"])


def _is_wanted(name: str) -> bool:
    """Whether a file of the archive is a labelled review: 'aclImdb/train/pos/0_9.txt'."""
    path = PurePosixPath(name)
    return path.suffix == ".txt" and "/".join(path.parts[-3:-1]) in _FOLDERS


@dataclass(frozen=True)
class Reviews:
    """The reviews of a copy, checked, in an order that depends on their contents alone."""

    texts: dict[str, list[bytes]]
    """By split: 'train' and 'test'."""
    labels: dict[str, np.ndarray]
    """uint8 [N] by split: 0 negative, 1 positive."""
    source: str
    remarks: Remarks


def read_reviews(request: BuildRequest) -> Reviews:
    """Reads and checks the reviews of a folder, an archive or a TFDS copy. Raises `DataError`."""
    path = Path(request.source)
    if (path / "dataset_info.json").is_file():
        remarks = tfds.copy_remarks(path, request.allow_unverified)
        return _check(request, _read_tfds(path), f"tfds imdb_reviews {path.name}", remarks)
    with open_source(request, ACLIMDB, _is_wanted, 1_000_000_000) as (folder, remarks):
        misplaced: list[str] = []
        return _check(request, _read_folder(folder, misplaced), f"aclImdb ({path.name})", remarks, misplaced)


def _check(
    request: BuildRequest, reviews: Iterable[Review], source: str, remarks: Remarks, misplaced: Sequence[str] = ()
) -> Reviews:
    texts: dict[str, list[bytes]] = {"train": [], "test": []}
    digests: dict[str, list[bytes]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    not_utf8 = 0
    for split, name, content, label in reviews:
        text = content.strip()
        if not text:
            raise DataError(f"{name} is empty: the copy is damaged, fetch {ACLIMDB.url} again")
        if len(text) > _TOO_LONG:
            raise DataError(f"{name} has more than {_TOO_LONG:,} bytes, and the longest review 13,704: it is no review")
        if label not in (0, 1):
            raise DataError(f"{name} has the class {label} where 0 and 1 are known: the copy is damaged")
        not_utf8 += not _check_utf8(text, name, request.allow_unverified)
        texts[split].append(text)
        digests[split].append(content_digest(text))
        labels[split].append(label)
    if not_utf8:
        remarks.accept(f"{not_utf8} reviews are not UTF-8")
    liked = {split: np.array(values, np.uint8) for split, values in labels.items()}
    check_counts(liked, {"train": _COUNTS[0] + _COUNTS[1], "test": _COUNTS[2]}, remarks, "IMDb")
    check_repeats(digests, remarks, "reviews")
    if misplaced:
        remarks.accept(
            f"{len(misplaced):,} reviews are not named NUMBER_RATING.txt, with a rating of 1 to 4 in neg and of 7 to "
            f"10 in pos: {'/'.join(Path(misplaced[0]).parts[-3:])} is the first"
        )
    order = {split: canonical_order(digests[split], liked[split]) for split in texts}
    ordered = {split: [texts[split][i] for i in rows] for split, rows in order.items()}
    return Reviews(ordered, {split: liked[split][rows] for split, rows in order.items()}, source, remarks)


def to_dataset(
    reviews: Reviews,
    documents: Sequence[bytes],
    splits: dict[str, Split],
    request: BuildRequest,
    notes: Sequence[str] = (),
) -> RawDataset:
    """The data of documents of at most the asked length, with the reviews' source and remarks.

    Args:
        reviews: what the documents were cut from.
        documents: rows of the table.
        splits: point into it.
        request: the length.
        notes: remarks beside the reviews' own.
    """
    require_room(request, len(documents))
    values = np.zeros((len(documents), request.length), np.uint8)
    lengths = np.array([len(text) for text in documents], np.int32)
    for row, text in zip(values, documents, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    remarks = reviews.remarks
    told = (*remarks.notes, *notes)
    return RawDataset(values, lengths, splits, reviews.source, told, unverified=remarks.unverified)


def build(request: BuildRequest) -> RawDataset:
    """Builds Text from a folder, an archive or a TFDS copy. Raises `DataError`."""
    reviews = read_reviews(request)
    kept, held = hold_out(reviews.labels["train"], request.rules.validation, request.seed)
    texts, labels = reviews.texts["train"], reviews.labels
    documents = [*(texts[i] for i in kept), *(texts[i] for i in held), *reviews.texts["test"]]
    classes = np.concatenate([labels["train"][kept], labels["train"][held], labels["test"]])
    splits = consecutive(classes, [len(kept), len(held), len(labels["test"])])
    cut = sum(len(text) > request.length for text in documents)
    notes = [f"{cut:,} of {len(documents):,} reviews, longer than {request.length:,} bytes, were cut"] if cut else []
    return to_dataset(reviews, [text[: request.length] for text in documents], splits, request, notes)


def _check_utf8(text: bytes, name: str, allow: bool) -> bool:
    """Whether the text is UTF-8. Raises `DataError` if it is not and `allow` is False."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if not allow:
            raise DataError(
                f"{name}: byte {error.start} is not UTF-8 ({error.reason}): the copy was re-encoded or is "
                "damaged; take its bytes as they are with --allow_unverified"
            ) from None
        return False
    return True


TEXT = Task(
    name="text",
    version="1",
    vocab=257,
    classes=2,
    length=4000,
    chance=0.5,
    build=build,
    rules=TextConfig(),
    sources=("folder", "tfds"),
    inputs=_find_files,
    archive=ACLIMDB,
    counts=_COUNTS,
    tfds="imdb_reviews/plain_text",
    summary="IMDb reviews as bytes: liked or not",
    names=("negative", "positive"),
)
