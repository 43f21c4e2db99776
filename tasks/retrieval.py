"""Retrieval: does one of two papers, given as bytes, cite the other? (ACL Anthology Network, Radev et al. 2009)

Data card
    What        Two papers of computational linguistics as sequences of bytes, each cut at the length
                (4,000); 1 where one cites the other.
    From        `new_aan_pairs.{train,eval,test}.tsv` of the benchmark's release: 147,086 / 18,090 /
                17,437 pairs of some ten thousand papers. There is no other source, and it cannot be
                generated.
    Decided     A line is label, id, id, text, text between tabs. There is no header and no quoting: a
                quote is a character of the text (a reader of CSV would join lines at unbalanced ones).
                The label is written as a float. Lines are long, and are read one at a time. Each document
                is stored once, known by its contents and not by its id, and a pair is two rows of the
                table. The value is the byte and the token id is value + 1. The release's splits are kept,
                and every pair of the test split counts.
    Traps       A paper can occur in pairs of several splits (the pairs differ): as published. Pairs that are
                repeated are counted and noted; a line that is no pair is refused. The release's own trainer
                compares the two encodings as [x1, x2] alone, the paper says [x1, x2, x1·x2, x1−x2].
    Licence     Papers of the ACL Anthology (CC BY-NC-SA 3.0 before 2016, CC BY 4.0 since). Not
                distributed with this project.
    Cite        D. R. Radev et al., "The ACL Anthology Network corpus", 2009 (W09-3607); Y. Tay et al.,
                "Long Range Arena", 2020, arXiv:2011.04006.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.io.archives import open_source
from tasks.io.files import Progress
from tasks.io.lines import read_lines
from tasks.io.npy_writer import Table
from tasks.io.sources import LRA_RELEASE, find_parts
from tasks.io.splits import content_digest, note_repeats
from tasks.task import SPLITS, BuildRequest, DataError, RawDataset, Remarks, Split, Task

FILES = tuple(f"new_aan_pairs.{part}.tsv" for part in ("train", "eval", "test"))
_LABELS = {b"0.0": 0, b"1.0": 1, b"0": 0, b"1": 1}
_BLOCK = 256
"""Documents that are buffered and written together."""

Pair = tuple[int, bytes, bytes]


@dataclass(frozen=True)
class RetrievalConfig:
    """Retrieval has no settings."""


def _find_files(path: Path) -> list[Path]:
    roots = ("tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")
    return find_parts(path, roots, FILES, LRA_RELEASE, "Retrieval")


def read_pairs(file: Path, allow_unverified: bool, not_utf8: list[int]) -> Iterator[Pair]:
    """Yields (class, text, text) for each line of a TSV, one line at a time.

    Args:
        file: the TSV.
        allow_unverified: accept lines that are not UTF-8.
        not_utf8: one counter, raised for each line that is not UTF-8.

    Raises:
        DataError: the file is malformed; the message names file and line.
    """
    for number, line in read_lines(file):
        fields = line.split(b"\t")
        if len(fields) != 5:
            raise DataError(f"{file}, line {number}: {len(fields)} columns where label, id, id, text, text belong")
        label = _LABELS.get(fields[0])
        if label is None:
            shown = fields[0][:20].decode("latin-1")
            raise DataError(f"{file}, line {number}: the label must be 0.0 or 1.0, not '{shown}'")
        if not fields[3].strip() or not fields[4].strip():
            raise DataError(f"{file}, line {number}: a document is empty")
        try:
            line.decode()
        except UnicodeDecodeError as error:
            if not allow_unverified:
                raise DataError(
                    f"{file}, line {number}: byte {error.start} is not UTF-8 ({error.reason}): the copy "
                    "was re-encoded or is damaged; take its bytes as they are with --allow_unverified"
                ) from None
            not_utf8[0] += 1
        yield label, fields[3], fields[4]


class _Documents:
    """The table of distinct documents, growing on disk; a 16-byte digest per document is kept in memory."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: dict[bytes, int] = {}
        self.lengths: list[int] = []
        self._buffer: list[bytes] = []

    def row(self, text: bytes) -> int:
        """The row of a document; a new document is appended."""
        cut = text[: self.table.length]
        row = self.rows.setdefault(content_digest(cut), len(self.lengths))
        if row == len(self.lengths):
            self.lengths.append(len(cut))
            self._buffer.append(cut)
            if len(self._buffer) == _BLOCK:
                self.flush()
        return row

    def flush(self) -> None:
        """Writes the buffered documents."""
        block = np.zeros((len(self._buffer), self.table.length), np.uint8)
        for row, text in zip(block, self._buffer, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)
        self.table.add(block)
        self._buffer.clear()


def build(request: BuildRequest) -> RawDataset:
    """Builds Retrieval from a folder or the release's archive. Raises `DataError`."""
    path = Path(request.source)

    def wanted(name: str) -> bool:
        return Path(name).name in FILES

    with open_source(request, LRA_RELEASE, wanted, 50_000_000_000) as (folder, remarks):
        return _assemble(request, _find_files(folder), f"lra_release ({path.name})", remarks)


def _assemble(request: BuildRequest, files: list[Path], source: str, remarks: Remarks) -> RawDataset:
    splits: dict[str, Split] = {}
    progress, not_utf8 = Progress(request.report), [0]
    with Table(request.scratch, request.length) as table:
        documents = _Documents(table)
        for split, file in zip(SPLITS, files, strict=True):
            index, labels = array("i"), bytearray()
            for label, *texts in read_pairs(file, request.allow_unverified, not_utf8):
                index.extend(documents.row(text) for text in texts)
                labels.append(label)
                progress(lambda: f"{len(documents.lengths):,} documents, {len(labels):,} {split} pairs")  # noqa: B023
            if not labels:
                raise DataError(f"{file} is empty")
            pairs = np.array(index, np.int32).reshape(-1, 2)
            splits[split] = Split(pairs, np.frombuffer(bytes(labels), np.uint8))
        documents.flush()
    remarks.notes += _note_repeats(splits)
    lengths = np.array(documents.lengths, np.int32)
    full = int((lengths == request.length).sum())
    if full:
        remarks.notes.append(f"{full:,} of {len(lengths):,} documents fill the length: longer ones were cut")
    if not_utf8[0]:
        remarks.accept(f"{not_utf8[0]:,} lines are not UTF-8")
    return RawDataset(table.array(), lengths, splits, source, tuple(remarks.notes), unverified=remarks.unverified)


def _note_repeats(splits: dict[str, Split]) -> list[str]:
    """A note on pairs that occur more than once: two equal rows of documents, whatever their label."""
    digests = {name: [pair.tobytes() for pair in split.index] for name, split in splits.items()}
    return note_repeats(digests, "pairs")


RETRIEVAL = Task(
    name="retrieval",
    version="1",
    vocab=257,
    classes=2,
    length=4000,
    chance=0.5,
    build=build,
    rules=RetrievalConfig(),
    sources=("folder",),
    inputs=_find_files,
    archive=LRA_RELEASE,
    counts=(147_086, 18_090, 17_437),
    pair=True,
    summary="two papers as bytes: does one cite the other",
    names=("unrelated", "cites"),
)
