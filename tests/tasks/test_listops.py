"""ListOps: the generator and the reader against an independent evaluator and an independent generator."""

import random
import re
import statistics
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tasks.listops import (
    FILES,
    LISTOPS,
    LISTOPS_SHORT,
    VOCABULARY,
    ListOpsConfig,
    draw_block,
    evaluate,
    evaluate_all,
    parse,
    read_tsv,
)  # fmt: skip
from tasks.task import BuildRequest, DataError

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "lra_release_mini.tar.xz"
SMALL = ListOpsConfig(train=300, validation=50, test=50)


def value_of(text: str) -> int:
    """The answer by rewriting innermost brackets until a digit is left: nothing shared with the code under test."""
    apply = {
        "MIN": min,
        "MAX": max,
        "MED": lambda a: int(statistics.median(a)),
        "SM": lambda a: sum(a) % 10,
    }
    innermost = re.compile(r"\[(MIN|MAX|MED|SM)((?: \d)+) \]")
    while "[" in text:
        text = innermost.sub(lambda m: str(apply[m[1]](list(map(int, m[2].split())))), text)
    return int(text)


def text_of(data: bytes) -> str:
    return " ".join(VOCABULARY[v] for v in data)


def made(rules: ListOpsConfig, seed: int = 0, workers: int = 1, length: int = 2000):
    return LISTOPS.build(BuildRequest(length, seed, "generate", rules, workers, lambda line: None))


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    if not ARCHIVE.exists():
        pytest.skip(f"no copy of the official layout at {ARCHIVE}")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder / "lra_release"


@pytest.mark.parametrize("rules", [ListOpsConfig(), LISTOPS_SHORT.rules], ids=["benchmark", "short"])
def test_every_generated_label_is_the_value_of_its_expression(rules):
    examples = draw_block(rules, seed=3, block=0)[:400]
    assert len(examples) > 100
    for data, answer in examples:
        text = text_of(data)
        assert value_of(text) == answer == evaluate(np.frombuffer(data, np.uint8))


def test_expressions_keep_the_rules():
    rules = ListOpsConfig(max_depth=5, max_args=4, min_length=10, max_length=60)
    for data, _ in draw_block(rules, seed=0, block=0):
        depth, deepest, args = 0, 0, [0]
        for token in text_of(data).split():
            if token == "]":
                assert 2 <= args.pop() <= 4
                depth -= 1
            else:
                args[-1] += 1
                deepest = max(deepest, depth + 1)
                if token.startswith("["):
                    args.append(0)
                    depth += 1
        assert depth == 0 and args == [1]
        assert deepest <= 5
        assert 10 < len(data) < 60


def reference_expressions(count: int) -> list[list[str]]:
    """The rules of the benchmark, one tree at a time."""
    rng = random.Random(5)

    def grow(depth: int) -> list[str]:
        if depth == 10 or rng.random() >= 0.25:
            return [str(rng.randrange(10))]
        args = [grow(depth + 1) for _ in range(rng.randint(2, 10))]
        return [rng.choice(VOCABULARY[10:14]), *(t for a in args for t in a), "]"]

    kept = []
    while len(kept) < count:
        tree = grow(1)
        if 500 < len(tree) < 2000:
            kept.append(tree)
    return kept


def test_the_distribution_is_the_reference_generator_s():
    ours = [data for block in range(4) for data, _ in draw_block(ListOpsConfig(), seed=1, block=block)]
    theirs = [bytes(VOCABULARY.index(t) for t in tree) for tree in reference_expressions(1500)]
    assert len(ours) > 1500
    for statistic in (len, *(lambda d, v=v: d.count(v) / len(d) for v in range(15))):
        a, b = np.array([statistic(d) for d in ours]), np.array([statistic(d) for d in theirs])
        error = np.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5)
        assert abs(a.mean() - b.mean()) < 4 * error
    # Lengths: Kolmogorov–Smirnov distance below its 0.1 % critical value.
    a, b = np.sort([len(d) for d in ours]), np.sort([len(d) for d in theirs])
    at = np.union1d(a, b)
    distance = np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max()
    assert distance < 1.95 * ((len(a) + len(b)) / (len(a) * len(b))) ** 0.5


def test_the_same_seed_gives_the_same_data_whatever_the_workers():
    one, two = made(SMALL), made(SMALL, workers=2)
    assert np.array_equal(one.values, two.values)
    assert all(np.array_equal(one.splits[s].labels, two.splits[s].labels) for s in one.splits)
    assert not np.array_equal(one.values, made(SMALL, seed=1).values)


def test_counts_are_kept_and_nothing_is_doubled():
    arrays = made(SMALL)
    assert {name: len(s.labels) for name, s in arrays.splits.items()} == {
        "train": 300,
        "validation": 50,
        "test": 50,
    }
    assert len({row.tobytes() for row in arrays.values}) == 400
    used = np.concatenate([s.index for s in arrays.splits.values()]).ravel()
    assert np.array_equal(np.sort(used), np.arange(400))


def test_a_shorter_length_gives_shorter_expressions_not_cut_ones():
    arrays = made(SMALL, length=700)
    assert arrays.lengths.max() < 700
    for row in range(50):
        evaluate(arrays.values[row, : arrays.lengths[row]])


@pytest.mark.parametrize(
    ("rules", "length", "words"),
    [
        (ListOpsConfig(), 400, "lower data.min_length"),
        (ListOpsConfig(max_depth=1, min_length=0, train=50), 2000, "only 10 distinct"),
        (ListOpsConfig(max_args=1), 2000, "max_args"),
        (ListOpsConfig(test=0), 2000, "at least one example"),
    ],
)
def test_rules_that_cannot_be_kept_are_told(rules, length, words):
    with pytest.raises(DataError, match=words):
        made(rules, length=length)


def test_the_reader_agrees_with_the_release(release):
    arrays = LISTOPS.build(BuildRequest(2000, 0, str(release), ListOpsConfig(), 1, lambda line: None))
    assert {name: len(s.labels) for name, s in arrays.splits.items()} == {
        "train": 500,
        "validation": 100,
        "test": 100,
    }
    checked = 0
    for name, split in zip(("train", "val", "test"), arrays.splits.values(), strict=True):
        lines = (release / "listops-1000" / f"basic_{name}.tsv").read_text().splitlines()[1:]
        for line, row, label in zip(lines, split.index[:, 0], split.labels, strict=True):
            source, target = line.split("\t")
            plain = re.sub(r"\s+", " ", re.sub(r"[()]", " ", source)).strip()
            tokens = arrays.values[row, : arrays.lengths[row]]
            assert text_of(tokens.tobytes()) == plain
            assert value_of(plain) == int(target) == label == evaluate(tokens)
            checked += 1
    assert checked == 700


ROWS = "( ( ( [MAX 1 ) 2 ) ] )\t2\n( ( ( [MIN 3 ) 4 ) ] )\t3\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_tsv_that_an_editor_on_windows_saved_is_read(tmp_path, mark, end):
    (tmp_path / "a.tsv").write_bytes(mark + f"Source\tTarget\n{ROWS}".replace("\n", end).encode())
    assert read_tsv(tmp_path / "a.tsv") == [(bytes([11, 1, 2, 14]), 2), (bytes([10, 3, 4, 14]), 3)]


@pytest.mark.parametrize("row", [0, 1, 199, 200, 201, 450])
def test_one_wrong_answer_is_found_wherever_it_stands(tmp_path, row):
    rows = ["[MED 1 5 9 [SM 4 8 ] ]\t3"] * 451
    rows[row] = "[MED 1 5 9 [SM 4 8 ] ]\t4"
    (tmp_path / "a.tsv").write_text("\n".join(["Source\tTarget", *rows]))
    with pytest.raises(DataError, match=rf"a.tsv, line {row + 2}: the expression is 3, and the file says 4$"):
        read_tsv(tmp_path / "a.tsv")


def test_many_expressions_are_evaluated_as_one_by_one():
    rng = random.Random(3)
    symbols = [*range(15), 14, 14, 14, 10, 11, 12, 13]
    rows = [bytes(rng.choices(symbols, k=rng.randint(0, 7))) for _ in range(20_000)]
    rows += [data for data, _ in draw_block(ListOpsConfig(), 0, 0)[:100]]
    expected = []
    for row in rows:
        try:
            expected.append(evaluate(np.frombuffer(row, np.uint8)))
        except DataError:
            expected.append(-1)
    assert 100 < sum(value >= 0 for value in expected) < 19_000
    assert evaluate_all(rows).tolist() == expected
    well_formed = [(row, value) for row, value in zip(rows, expected, strict=True) if value >= 0]
    assert all(value_of(text_of(row)) == value for row, value in well_formed)


def test_rows_that_are_in_two_splits_are_counted(tmp_path):
    for part, rows in zip(FILES, (ROWS, "5\t5\n", ROWS + ROWS), strict=True):
        (tmp_path / part).write_text(f"Source\tTarget\n{rows}")
    arrays = LISTOPS.build(BuildRequest(3, 0, str(tmp_path), ListOpsConfig(), 1, lambda line: None))
    assert arrays.notes == (
        "6 of 7 expressions, longer than 3 tokens, were cut",
        "4 of 7 expressions are copies of another; 4 of the test split are in another split",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "first line"),
        ("Source\tTarget\n", "no rows"),
        ("Source\tTarget\n[MAX 1 2 ]\n", "line 2"),
        ("Source\tTarget\n[MAX 1 2 ]\t12\n", "line 2"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\n[MUX 1 2 ]\t2\n", r"basic_train.tsv, line 3: unknown ListOps token '\[MUX'"),
        ("Source\tTarget\n[MAX é 2 ]\t2\n", "line 2: not text of this release"),
        ("Source\tTarget\n[MAX 1 2 ]\t2\t2\n", "line 2: expected an expression, a tab and a digit, and nothing"),
        ("Source\tTarget\n\n[MAX 1 2 ]\t2\n", "line 2: expected"),
        ("Source\tTarget\n\t2\n", "line 2: the expression is empty"),
        ("Source\tTarget\n( ( ) )\t2\n", "line 2: the expression is empty"),
        ("Source\tTarget\n[MAX 1 2\t2\n", r"line 2: \[MAX is not closed"),
        ("Source\tTarget\n[MAX ]\t2\n", r"line 2: \[MAX has no arguments"),
        ("Source\tTarget\n[MAX 1 2 ] 2\t2\n", "line 2: '2' follows the expression's end"),
        ("Source\tTarget\n] [MAX 1 2 ]\t2\n", "line 2: a ']' closes an operator that was never opened"),
    ],
)
def test_a_damaged_tsv_is_named(tmp_path, content, words):
    file = tmp_path / "basic_train.tsv"
    file.write_text(content)
    with pytest.raises(DataError, match=words):
        read_tsv(file)


@pytest.mark.parametrize("text", ["[MAX 1 2", "1 ]", "1 2", "[MAX ]", ""])
def test_an_ill_formed_expression_has_no_value(text):
    with pytest.raises(DataError):
        evaluate(parse(text))
