"""Retrieval: the release's TSVs, each document once, damaged copies."""

import numpy as np
import pytest

from tasks.retrieval import FILES, RETRIEVAL
from tasks.task import SPLITS, DataError
from tests.helpers import archives, real_data


def build(source, length=4000, **settings):
    return RETRIEVAL.build(archives.request(RETRIEVAL, source, length, **settings))


def document(arrays, row):
    return bytes(arrays.values[row, : arrays.lengths[row]])


def check(arrays, folder, length):
    """Every line of the files against the arrays, read in another way than the reader's."""
    for split, name in zip(SPLITS, FILES, strict=True):
        lines = (folder / name).read_bytes().decode().split("\n")[:-1]
        part = arrays.splits[split]
        for line, (a, b), label in zip(lines, part.index, part.labels, strict=True):
            label_text, _, _, first, second = line.split("\t")
            assert float(label_text) == label
            assert document(arrays, a) == first.encode()[:length]
            assert document(arrays, b) == second.encode()[:length]


def test_real_counts_and_contents():
    arrays = build(real_data.folder(), allow_unverified=False)
    assert [len(split.labels) for split in arrays.splits.values()] == [1190, 149, 149]
    assert np.bincount(arrays.splits["train"].labels).tolist() == [592, 598]
    assert arrays.values.shape == (770, 4000) and arrays.values.dtype == np.uint8
    check(arrays, real_data.folder() / "lra_release" / "tsv_data", 4000)


def test_each_document_is_stored_once(tmp_path):
    folder = archives.papers(tmp_path)
    arrays = build(folder)
    assert len({document(arrays, row) for row in range(len(arrays.values))}) == len(arrays.values) == 30
    assert sum(len(split.labels) for split in arrays.splits.values()) == 80
    assert arrays.splits["train"].index.shape == (60, 2)
    assert arrays.splits["train"].index.dtype == np.int32
    check(arrays, folder, 4000)


def test_documents_are_known_by_content_and_not_by_id(tmp_path):
    folder = archives.papers(tmp_path)
    with open(folder / FILES[0], "a") as file:
        file.write("0.0\tP0\tP0\tone text\tanother text\n")
    arrays = build(folder)
    a, b = arrays.splits["train"].index[-1]
    assert (document(arrays, a), document(arrays, b)) == (b"one text", b"another text")


def test_any_length(tmp_path):
    folder = archives.papers(tmp_path)
    arrays = build(folder, 50)
    assert arrays.values.shape[1] == 50
    check(arrays, folder, 50)
    assert "documents fill the length" in arrays.notes[-1]


def test_quotes_are_text_and_lines_may_be_long(tmp_path):
    folder = archives.papers(tmp_path)
    long = '"' + 'a "b" ' * 300_000
    with open(folder / FILES[2], "a") as file:
        file.write(f'1.0\tX\tY\t{long}\t"unbalanced\n1\tX\tY\tplain\t{long}\r\n')
    arrays = build(folder)
    assert len(arrays.splits["test"].labels) == 12
    (a, b), (c, d) = arrays.splits["test"].index[-2:]
    assert document(arrays, a) == document(arrays, d) == long.encode()[:4000]
    assert document(arrays, b) == b'"unbalanced' and document(arrays, c) == b"plain"


def test_an_archive_gives_what_its_folder_gives(tmp_path):
    folder = archives.papers(tmp_path / "lra_release")
    expected = build(folder)
    arrays = build(archives.pack(folder.parent, tmp_path / "lra_release.gz"))
    assert np.array_equal(arrays.values, expected.values)
    assert arrays.notes[0].startswith("lra_release.gz: nobody has published a checksum")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1.0\tA\tB\ttext\n", "train.tsv, line 61: 4 columns where label, id, id, text, text belong"),
        (b"1.0\tA\tB\ttext\ttext\ttext\n", "line 61: 6 columns"),
        (b"\n", "line 61: 1 columns"),
        (b"0.5\tA\tB\ttext\ttext\n", "line 61: the label must be 0.0 or 1.0, not '0.5'"),
        (b"label\tid1\tid2\ttext1\ttext2\n", "not 'label'"),
        (b"1.0\tA\tB\t\ttext\n", "line 61: a document is empty"),
        (b"1.0\tA\tB\t \ttext\n", "line 61: a document is empty"),
        (b"1.0\tA\tB\tcaf\xe9\ttext\n", r"line 61: byte 11 is not UTF-8 .* --allow_unverified"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, words):
    folder = archives.papers(tmp_path)
    with open(folder / FILES[0], "ab") as file:
        file.write(line)
    with pytest.raises(DataError, match=words):
        build(folder, allow_unverified=False)


def test_a_byte_that_is_not_utf8_can_be_taken_as_it_is(tmp_path):
    folder = archives.papers(tmp_path)
    with open(folder / FILES[0], "ab") as file:
        file.write(b"1.0\tA\tB\tcaf\xe9\ttext\n")
    arrays = build(folder)
    assert document(arrays, arrays.splits["train"].index[-1][0]) == b"caf\xe9"
    assert "1 lines are not UTF-8" in arrays.notes


def test_an_empty_or_missing_file_is_named(tmp_path):
    folder = archives.papers(tmp_path)
    (folder / FILES[1]).write_text("")
    with pytest.raises(DataError, match=r"eval\.tsv is empty"):
        build(folder)
    (folder / FILES[1]).unlink()
    with pytest.raises(DataError, match=r"no new_aan_pairs\.eval\.tsv: the copy is incomplete"):
        build(folder)


def test_a_file_without_line_ends_is_not_read_as_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.io.lines.LONGEST", 1000)
    folder = archives.papers(tmp_path)
    (folder / FILES[0]).write_bytes(b"1.0\tA\tB\t" + b"x" * 5000)
    with pytest.raises(DataError, match=r"train\.tsv, line 1: longer than 1,000 bytes"):
        build(folder)


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path):
    plain, other = archives.papers(tmp_path / "a"), archives.papers(tmp_path / "b")
    for name in FILES:
        content = (other / name).read_bytes()
        (other / name).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert np.array_equal(build(plain).values, build(other).values)
    (other / FILES[0]).write_bytes((plain / FILES[0]).read_text().encode("utf-16"))
    with pytest.raises(DataError, match=r"train\.tsv is UTF-16"):
        build(other)


def test_pairs_that_are_in_two_splits_are_counted(tmp_path):
    folder = archives.papers(tmp_path)
    (folder / FILES[2]).write_bytes((folder / FILES[0]).read_bytes())
    assert any("; 60 of the test split are in another split" in note for note in build(folder).notes)
