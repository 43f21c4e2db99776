"""Predictions from elsewhere: every form gives the same classes, and what is wrong is told with its place."""

import json
import warnings

import numpy as np
import pytest

from lra.errors import UsageError
from lra.results import predictions

N, CLASSES = 6, 3
RIGHT = np.array([2, 0, 1, 1, 0, 2])
LOGITS = np.array([[-1, 0, 3], [1e9, 0, 0], [0, 5, 4], [0, 1, 0], [-1, -2, -3], [0, 0, 1e-3]])


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def write(folder, name, content):
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SHUFFLED = [3, 1, 5, 0, 2, 4]
NUMBERED = [(i, LOGITS[i]) for i in SHUFFLED]
FORMS = {
    "classes": ("p.npy", RIGHT), "uint8": ("p.npy", RIGHT.astype(np.uint8)),
    "float": ("p.npy", RIGHT.astype(np.float32)), "one column": ("p.npy", RIGHT[:, None]), "logits": ("p.npy", LOGITS),
    "big-endian, by columns": ("p.npy", np.asfortranarray(LOGITS.astype(">f4"))),
    "csv": ("p.csv", lines(*RIGHT)), "csv with header": ("p.csv", lines("class", *RIGHT)),
    "csv with byte order mark": ("p.csv", "\ufeff" + "\r\n".join(["Prediction", *map(str, RIGHT), ""])),
    "csv of logits": ("p.csv", lines(*(",".join(map(str, row)) for row in LOGITS))),
    "numbered csv": ("p.csv", lines("example,prediction", *(f"{i},{RIGHT[i]}" for i in SHUFFLED))),
    "numbered csv of logits": ("p.csv", lines("a,example,b,c", *(f"{a},{i},{b},{c}" for i, (a, b, c) in NUMBERED))),
    "jsonl": ("p.jsonl", lines(*RIGHT)),
    "jsonl of lists": ("p.jsonl", lines(*(json.dumps(list(row)) for row in LOGITS))),
    "jsonl of objects": ("p.jsonl", lines(*(f'{{"example": {i}, "prediction": {RIGHT[i]}}}' for i in SHUFFLED))),
    "jsonl of logits": ("p.jsonl", lines(*(json.dumps({"logits": list(row), "text": "?"}) for row in LOGITS))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_classes(tmp_path, form):
    found, given_as = predictions.read(write(tmp_path, *FORMS[form]), N, CLASSES)
    assert found.tolist() == RIGHT.tolist() and found.dtype == np.int64
    has_logits = np.size(FORMS[form][1]) == LOGITS.size or "logits" in form or "lists" in form
    assert given_as == ("logits" if has_logits else "classes")


def test_of_equal_logits_the_first_counts(tmp_path):
    assert predictions.read(write(tmp_path, "p.npy", np.zeros((N, CLASSES))), N, CLASSES)[0].tolist() == [0] * N


def test_two_classes_in_two_columns_without_a_header_are_logits(tmp_path):
    path = write(tmp_path, "p.csv", lines("0,1", "1,0", "2,1"))
    assert predictions.read(path, 3, 2) == (pytest.approx([1, 0, 0]), "logits")


def changed(array, place, value):
    array = np.array(array, float)
    array[place] = value
    return array


def npy(kind, count):
    """The header of an array whose numbers are missing."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}".ljust(117)
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + b"\n"


def test_a_file_of_python_2_is_read_without_a_warning(tmp_path):
    whole = npy("<i8", N) + RIGHT.astype("<i8").tobytes()
    path = write(tmp_path, "p.npy", whole.replace(f"({N},), }} ".encode(), f"({N}L,), }}".encode()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predictions.read(path, N, CLASSES)[0].tolist() == RIGHT.tolist()


HEADER = "example,prediction"
WRONG = {
    "another ending": ("p.txt", "1", "ends in none of .npy, .csv, .jsonl"),
    "too few": ("p.npy", RIGHT[:-1], "5 predictions, and the test split has 6 examples"),
    "too many": ("p.npy", np.append(RIGHT, 0), "7 predictions, and the test split has 6 examples"),
    "too many lines": ("p.csv", lines(*RIGHT, 0), "line 7 is one more prediction than the test split has examples (6)"),
    "none": ("p.csv", "", "0 predictions, and the test split has 6 examples"),
    "only a header": ("p.csv", "class\n", "0 predictions, and the test split has 6"),
    "a class too high": ("p.npy", changed(RIGHT, 4, 3), "example 4 has class 3, and classes are 0 to 2"),
    "a negative class": ("p.csv", lines(*changed(RIGHT, 1, -1)), "example 1 has class -1"),
    "half a class": ("p.npy", changed(RIGHT, 0, 1.5), "example 0 has class 1.5"),
    "class NaN": ("p.npy", changed(RIGHT, 2, np.nan), "example 2 has class nan"),
    "logits NaN": ("p.npy", changed(LOGITS, (3, 1), np.nan), "logits of example 3 are not finite"),
    "logits inf": ("p.npy", changed(LOGITS, (5, 0), -np.inf), "logits of example 5 are not finite"),
    "JSON's NaN": ("p.jsonl", lines(*RIGHT[:5], "NaN"), "example 5 has class nan"),
    "two logits": ("p.npy", LOGITS[:, :2], "2 logits for each example, and the task has 3 classes"),
    "three axes": ("p.npy", LOGITS[None], "shape 1 × 6 × 3"),
    "a number": ("p.npy", np.array(3), "shape none"),
    "booleans": ("p.npy", RIGHT > 0, "bool values"),
    "complex": ("p.npy", RIGHT * 1j, "complex128 values"),
    "text": ("p.npy", np.array(["a"] * 6), "values of shape 6"),
    "objects": ("p.npy", npy("|O", 6), "no NumPy array"),
    "no array": ("p.npy", b"hello", "no NumPy array"),
    "empty file": ("p.npy", b"", "no NumPy array"),
    "a promise": ("p.npy", npy("<f8", 10**12), "no NumPy array"),
    "not UTF-8": ("p.csv", b"\xff\xfe1\n", "not UTF-8 text"),
    "NUL": ("p.csv", lines("1", "\x00", "2"), "line 2 has"),
    "a word": ("p.csv", lines(1, 2, "two"), "line 3 has 'two', which is no number"),
    "a gap": ("p.csv", lines(HEADER, "0,1", "1,"), "line 3 has no prediction"),
    "ragged": ("p.csv", lines("1,2,3", "1,2"), "line 2 has 2 values, and the lines before it 3"),
    "one twice": ("p.csv", lines(HEADER, "0,1", "1,1", "2,1", "2,1", "4,1", "5,1"), "example 2 is there twice"),
    "one missing": ("p.csv", lines(HEADER, "0,1", "2,1"), "2 of 6 examples have a prediction: example 1 has none"),
    "an example too high": ("p.csv", lines(HEADER, "6,1"), "line 2 has example '6', and they are 0 to 5"),
    "an example that is none": ("p.jsonl", '{"example": true, "prediction": 1}\n', "line 1 has example 'True'"),
    "numbered in part": ("p.jsonl", lines('{"example": 0, "prediction": 1}', *[1] * 5), "some lines have an 'example'"),
    "no JSON": ("p.jsonl", lines(1, "{"), "line 2 is no JSON"),
    "deep JSON": ("p.jsonl", "[" * 10**5, "line 1 is no JSON"),
    "no prediction": ("p.jsonl", '{"example": 0}\n', "line 1 needs 'prediction' or 'logits'"),
    "both": ("p.jsonl", '{"prediction": 0, "logits": [0, 1, 2]}\n', "one of them"),
    "a list in a list": ("p.jsonl", "[[1], 2, 3]\n", "line 1 has '[1]', which is no number"),
    "true": ("p.jsonl", "true\n", "line 1 has 'True', which is no number"),
    "a great number": ("p.jsonl", "1" + "0" * 400 + "\n", "which is no number"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line_with_its_place(tmp_path, case):
    name, content, said = WRONG[case]
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError) as told:
        predictions.read(path, N, CLASSES)
    assert (
        said in str(told.value) and str(told.value).startswith(f"--predictions={path}") and "\n" not in str(told.value)
    )


def test_a_file_that_is_not_there_and_an_archive_are_told(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        predictions.read(tmp_path / "p.csv", N, CLASSES)
    np.savez(tmp_path / "p.npz", RIGHT)
    with pytest.raises(UsageError, match="archive of arrays"):
        predictions.read((tmp_path / "p.npz").rename(tmp_path / "p.npy"), N, CLASSES)
