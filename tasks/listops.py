"""ListOps: evaluate a nested list expression (Nangia & Bowman 2018, arXiv:1804.06028).

Data card
    What        `[MAX 2 9 [MIN 4 7 ] 0 ]` → 9. Operators MIN, MAX, MED (median, truncated to an integer) and SM
                (sum modulo 10) over 2 to 10 arguments, nested at most 10 deep; ten classes.
    From        Our generator, by the rules of the Long Range Arena (Tay et al. 2020, arXiv:2011.04006): below
                the maximum depth a node is an operator with probability 1/4, else a digit; a tree is kept when
                500 < length < 2000; duplicates are dropped; 96,000 / 2,000 / 2,000 examples. Or the files
                `basic_{train,val,test}.tsv` of the benchmark's release.
    Decided     The closing bracket is a token (an early release dropped it, which makes the task unlearnable).
                The vocabulary is fixed, so that ids never depend on a split or on a hash seed. Round brackets
                carry no meaning and are removed. The generator never cuts an expression: at a shorter `length`
                it draws shorter ones. Longer rows of a release are cut and counted. Every row of a release is
                evaluated: one that is no whole expression, or whose answer is another, is refused.
    Also        `listops_short`: the same rules with short expressions, for laptops and tests; not comparable
                with published numbers.
    Licence     Generated data has none; the release is Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tasks.io.archives import open_source
from tasks.io.generate import draw_distinct
from tasks.io.lines import read_ascii_lines
from tasks.io.room import require_room
from tasks.io.sources import LRA_RELEASE, find_parts
from tasks.io.splits import consecutive, content_digest, note_repeats
from tasks.task import SPLITS, BuildRequest, DataError, RawDataset, Task

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
VOCABULARY = (*"0123456789", *OPERATORS, "]")
"""Value v is VOCABULARY[v]; its token id is v + 1."""
_OPERATOR, _CLOSE = 10, 14
FILES = tuple(f"basic_{part}.tsv" for part in ("train", "val", "test"))
_IDS = {token: value for value, token in enumerate(VOCABULARY)}
_CANDIDATES = 8192
"""Trees drawn per block: a constant of the stream, so changing it changes the data (and the version)."""
_ANSWERS = tuple("0123456789")
_CHECKED = 200
"""Rows of a release that are evaluated together: few enough for the processor's cache."""


@dataclass(frozen=True)
class ListOpsConfig:
    """Which expressions to draw, and how many; the defaults are the benchmark's."""

    max_depth: int = 10
    """Depth of the deepest digit; the root has depth 1."""
    max_args: int = 10
    """An operator has 2 to this many arguments."""
    min_length: int = 500
    """An expression is kept when min_length < tokens < max_length."""
    max_length: int = 2000
    train: int = 96_000
    validation: int = 2_000
    test: int = 2_000


def evaluate(values: np.ndarray) -> int:
    """Evaluates one expression, given as raw values [n]. Raises `DataError` if it is not well formed."""
    if not len(values):
        raise DataError("the expression is empty")
    stack: list[list[int]] = [[]]
    for value in values.tolist():
        if len(stack) == 1 and stack[0]:
            raise DataError(f"'{VOCABULARY[value]}' follows the expression's end")
        if value < _OPERATOR:
            stack[-1].append(value)
        elif value < _CLOSE:
            stack.append([value])
        else:
            if len(stack) < 2:
                raise DataError("a ']' closes an operator that was never opened")
            operator, *args = stack.pop()
            if not args:
                raise DataError(f"{VOCABULARY[operator]} has no arguments")
            stack[-1].append(_apply(operator - _OPERATOR, args))
    if len(stack) > 1:
        raise DataError(f"{VOCABULARY[stack[-1][0]]} is not closed by a ']'")
    return stack[0][0]


def _apply(operator: int, args: list[int]) -> int:
    if operator == 0:
        return min(args)
    if operator == 1:
        return max(args)
    if operator == 2:
        ordered = sorted(args)
        return (ordered[(len(args) - 1) // 2] + ordered[len(args) // 2]) // 2
    return sum(args) % 10


def evaluate_all(expressions: Sequence[bytes]) -> np.ndarray:
    """Evaluates many expressions at once, level by level: int64 [N], −1 where one is not well formed.

    Args:
        expressions: raw values of each.
    """
    sizes = np.array([len(expression) for expression in expressions], np.int64)
    tokens = np.frombuffer(b"".join(expressions), np.uint8)
    answers = np.full(len(sizes), -1, np.int64)
    depth, well_formed = _depths(tokens, sizes)
    kept = np.repeat(well_formed, sizes)
    if well_formed.any():
        answers[well_formed] = _evaluate_levels(tokens[kept], depth[kept])
    return answers


def _depths(tokens: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many operators are open before each token (int64 [n]), and which expressions are well formed (bool [N])."""
    step = np.zeros(len(tokens), np.int64)
    step[tokens >= _OPERATOR] = 1
    step[tokens == _CLOSE] = -1
    after = np.cumsum(step)
    ends = np.cumsum(sizes)
    filled = sizes > 0
    well_formed = filled.copy()
    starts = (ends - sizes)[filled]
    if not len(starts):
        return after, well_formed
    before_row = np.repeat(after[starts] - step[starts], sizes[filled])
    depth = after - step - before_row
    lowest = np.minimum.reduceat(after - before_row, starts)
    # One value stands at depth 0: a digit or an operator; a ']' brings its own operator's depth back.
    values = np.add.reduceat((depth == 0) & (tokens != _CLOSE), starts, dtype=np.int64)
    balanced = (after[ends[filled] - 1] - before_row[ends[filled] - 1]) == 0
    empty = np.zeros(len(tokens), bool)
    empty[1:] = (tokens[1:] == _CLOSE) & (tokens[:-1] >= _OPERATOR) & (tokens[:-1] < _CLOSE)
    well_formed[filled] = balanced & (lowest >= 0) & (values == 1) & ~np.logical_or.reduceat(empty, starts)
    return depth, well_formed


def _evaluate_levels(tokens: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The values of well-formed expressions that follow each other, from the deepest level up.

    Args:
        tokens: raw values uint8 [n].
        depth: how many operators are open before each token, int64 [n].
    """
    nodes = np.flatnonzero(tokens != _CLOSE)
    order = np.argsort(depth[nodes].astype(np.uint16), kind="stable")  # a radix sort
    ends = np.cumsum(np.bincount(depth[nodes]))
    values = tokens.astype(np.int64)
    below = np.zeros(0, np.int64)
    for end, start in zip(ends[::-1], [*ends[-2::-1], 0], strict=True):
        level = nodes[order[start:end]]
        operators = level[tokens[level] >= _OPERATOR]
        if len(operators):
            # The arguments of an operator are the values one level deeper between it and the next operator.
            starts = np.searchsorted(below, operators)
            values[operators] = _apply_all(tokens[operators] - _OPERATOR, values[below], starts)
        below = level
    return values[below]


def _apply_all(operators: np.ndarray, args: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Applies each operator (0 MIN, 1 MAX, 2 MED, 3 SM) to its arguments, which begin at `starts` in `args`."""
    counts = np.diff(starts, append=len(args))
    answers = np.where(operators == 0, np.minimum.reduceat(args, starts), np.maximum.reduceat(args, starts))
    answers = np.where(operators == 3, np.add.reduceat(args, starts) % 10, answers)
    median = operators == 2
    if median.any():
        sizes = counts[median]
        ordered = np.sort(np.repeat(np.arange(len(sizes)) * 16, sizes) + args[np.repeat(median, counts)]) & 15
        first = np.cumsum(sizes) - sizes
        answers[median] = (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) // 2
    return answers


def parse(text: str) -> np.ndarray:
    """Converts an expression's text to raw values uint8 [n]. Raises `DataError` on an unknown token."""
    try:
        return np.array([_IDS[t] for t in text.replace("(", " ").replace(")", " ").split()], np.uint8)
    except KeyError as unknown:
        raise DataError(f"unknown ListOps token {unknown}; known are {' '.join(VOCABULARY)}") from None


# --- the generator -----------------------------------------------------------------------------------


def draw_block(rules: ListOpsConfig, seed: int, block: int) -> list[tuple[bytes, int]]:
    """Draws one block of the stream: expressions as (raw values, answer), in a fixed order.

    A block draws `_CANDIDATES` trees at once, level by level, and keeps those of the right length: nearly all
    work is spent on array operations over one level. The result depends on (rules, seed, block) only.

    Args:
        rules: which expressions to draw.
        seed: the stream.
        block: the block's number.
    """
    rng = np.random.default_rng([seed, block])
    levels, lengths = _draw_shapes(rng, rules)
    kept = (lengths > rules.min_length) & (lengths < rules.max_length)
    if not kept.any():
        return []
    values, sizes = _draw_symbols(rng, [arity[kept[tree]] for tree, arity in levels])
    flat = _flatten(values, sizes)
    ends = np.cumsum(sizes[0])
    answers = values[0][1]
    data = flat.tobytes()
    return [(data[end - size : end], int(a)) for end, size, a in zip(ends, sizes[0], answers, strict=True)]


def _draw_shapes(
    rng: np.random.Generator, rules: ListOpsConfig
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Draws the trees' shapes. Returns (tree, arity) of the nodes of each level (arity 0 is a digit), and lengths.

    A tree that has grown too long is not grown further: its length only has to stay out of range.
    """
    tree = np.arange(_CANDIDATES)
    lengths = np.zeros(_CANDIDATES, np.int64)
    levels = []
    for depth in range(1, rules.max_depth + 1):
        operator = rng.random(len(tree), dtype=np.float32) < 0.25
        if depth == rules.max_depth:
            operator[:] = False
        arity = np.where(operator, rng.integers(2, rules.max_args + 1, len(tree), dtype=np.int8), 0)
        levels.append((tree, arity))
        lengths += np.bincount(tree, np.where(operator, 2, 1), _CANDIDATES).astype(np.int64)
        tree = np.repeat(tree, arity)
        pending = np.bincount(tree, minlength=_CANDIDATES)
        overlong = lengths + pending >= rules.max_length
        lengths[overlong] = rules.max_length
        tree = tree[~overlong[tree]]
        if not len(tree):
            break
    return levels, lengths


def _draw_symbols(
    rng: np.random.Generator, arities: list[np.ndarray]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
    """Draws symbols and evaluates them, from the leaves up.

    Returns (symbol, answer) of the nodes of each level, and the sizes of their subtrees in tokens.
    """
    values: list[tuple[np.ndarray, np.ndarray]] = []
    sizes: list[np.ndarray] = []
    below, below_size = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for arity in reversed(arities):
        operator = arity > 0
        answer = rng.integers(0, 10, len(arity))
        symbol = answer.copy()
        size = np.ones(len(arity), np.int64)
        counts = arity[operator].astype(np.int64)
        if len(counts):
            kind = rng.integers(0, len(OPERATORS), len(counts))
            starts = np.cumsum(counts) - counts
            answer[operator] = _apply_all(kind, below, starts)
            symbol[operator] = _OPERATOR + kind
            size[operator] = 2 + np.add.reduceat(below_size, starts)
        values.append((symbol, answer))
        sizes.append(size)
        below, below_size = answer, size
    return values[::-1], sizes[::-1]


def _flatten(values: list[tuple[np.ndarray, np.ndarray]], sizes: list[np.ndarray]) -> np.ndarray:
    """Concatenates all expressions, uint8: a node's position follows from its parent's and the subtree sizes."""
    out = np.empty(int(sizes[0].sum()), np.uint8)
    position = np.cumsum(sizes[0]) - sizes[0]
    for depth, ((symbol, _), size) in enumerate(zip(values, sizes, strict=True)):
        out[position] = symbol
        operator = symbol >= _OPERATOR
        out[position[operator] + size[operator] - 1] = _CLOSE
        if depth + 1 == len(sizes) or not operator.any():
            break
        # Children follow their parent one after the other; between families are the parents' own two tokens.
        child = sizes[depth + 1]
        before = np.cumsum(child) - child
        parent_span = size[operator] - 2
        first = np.cumsum(parent_span) - parent_span
        parent = np.searchsorted(first, before, side="right") - 1
        position = position[operator][parent] + 1 + before - first[parent]
    return out


def _generate(request: BuildRequest) -> RawDataset:
    rules: ListOpsConfig = replace(request.rules, max_length=min(request.rules.max_length, request.length))
    if not 2 <= rules.max_args <= 100 or rules.max_depth < 1:
        raise DataError("ListOps needs 2 ≤ max_args ≤ 100 and max_depth ≥ 1")
    if rules.min_length + 1 >= rules.max_length:
        raise DataError(
            f"no ListOps expression is longer than {rules.min_length} and shorter than {rules.max_length} tokens: "
            "lower data.min_length or choose a greater length"
        )
    counts = [rules.train, rules.validation, rules.test]
    if min(counts) < 1:
        raise DataError("every split of ListOps needs at least one example")
    require_room(request, sum(counts))
    examples = draw_distinct(
        partial(draw_block, rules, request.seed), sum(counts), "expressions", request.workers, request.report
    )
    values, lengths, labels = _pack(examples, request)
    return RawDataset(values, lengths, consecutive(labels, counts), f"generated (seed {request.seed})")


def _pack(examples: list[tuple[bytes, int]], request: BuildRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    require_room(request, len(examples))
    values = np.zeros((len(examples), request.length), np.uint8)
    lengths = np.zeros(len(examples), np.int32)
    for row, (data, _) in enumerate(examples):
        lengths[row] = min(len(data), request.length)
        values[row, : lengths[row]] = np.frombuffer(data, np.uint8)[: request.length]
    return values, lengths, np.array([answer for _, answer in examples], np.uint8)


# --- the reader of the release -----------------------------------------------------------------------


def _find_files(path: Path) -> list[Path]:
    """Finds the three TSVs in `path`, or in `listops-1000` or `lra_release/listops-1000` below it; or the archive."""
    roots = ("listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
    return find_parts(path, roots, FILES, LRA_RELEASE, "ListOps")


def read_tsv(file: Path) -> list[tuple[bytes, int]]:
    """Reads (raw values, answer) from each row of a TSV of the release, and checks that the answers are right.

    Raises:
        DataError: the file is no such TSV, an expression is not well formed, or its answer is another; names the line.
    """
    examples: list[tuple[bytes, int]] = []
    for line, text in read_ascii_lines(file):
        row = text.split("\t")
        if line == 1:
            if row != ["Source", "Target"]:
                raise DataError(f"{file}: the first line must be 'Source<tab>Target'")
            continue
        if len(row) != 2 or row[1] not in _ANSWERS:
            raise DataError(f"{file}, line {line}: expected an expression, a tab and a digit, and nothing else")
        try:
            examples.append((parse(row[0]).tobytes(), int(row[1])))
        except DataError as error:
            raise DataError(f"{file}, line {line}: {error}") from None
        if len(examples) % _CHECKED == 0:
            _check_answers(file, examples, len(examples) - _CHECKED)
    if not examples:
        raise DataError(f"{file}: no rows" if file.stat().st_size else f"{file} is empty: the first line is missing")
    _check_answers(file, examples, len(examples) // _CHECKED * _CHECKED)
    return examples


def _check_answers(file: Path, examples: list[tuple[bytes, int]], first: int) -> None:
    """Raises `DataError` if an example from number `first` on is not well formed or has another answer."""
    expressions, answers = [data for data, _ in examples[first:]], [answer for _, answer in examples[first:]]
    wrong = np.flatnonzero(evaluate_all(expressions) != np.array(answers, np.int64))
    if not len(wrong):
        return
    row = int(wrong[0])
    line = first + row + 2  # the header is line 1
    try:
        value = evaluate(np.frombuffer(expressions[row], np.uint8))
    except DataError as error:
        raise DataError(f"{file}, line {line}: {error}") from None
    raise DataError(f"{file}, line {line}: the expression is {value}, and the file says {answers[row]}")


def _is_wanted(name: str) -> bool:
    return Path(name).name in FILES


def _read(request: BuildRequest) -> RawDataset:
    with open_source(request, LRA_RELEASE, _is_wanted, 1_000_000_000) as (folder, remarks):
        parts = [read_tsv(file) for file in _find_files(folder)]
    examples = [example for part in parts for example in part]
    values, lengths, labels = _pack(examples, request)
    splits = consecutive(labels, [len(part) for part in parts])
    cut = sum(len(data) > request.length for data, _ in examples)
    if cut:
        remarks.notes.append(
            f"{cut:,} of {len(examples):,} expressions, longer than {request.length:,} tokens, were cut"
        )
    digests = {split: [content_digest(data) for data, _ in part] for split, part in zip(SPLITS, parts, strict=True)}
    remarks.notes += note_repeats(digests, "expressions")
    return RawDataset(values, lengths, splits, "lra_release", tuple(remarks.notes), unverified=remarks.unverified)


def build(request: BuildRequest) -> RawDataset:
    """Builds ListOps from the generator or from a folder. Raises `DataError`."""
    return _generate(request) if request.source == "generate" else _read(request)


LISTOPS = Task(
    name="listops",
    version="1",
    vocab=len(VOCABULARY) + 1,
    classes=10,
    length=2000,
    chance=0.1,
    build=build,
    rules=ListOpsConfig(),
    sources=("generate", "folder"),
    inputs=_find_files,
    archive=LRA_RELEASE,
    counts=(96_000, 2_000, 2_000),
    summary="nested list operators, up to 2,000 tokens; ten answers",
    names=tuple("0123456789"),
    alphabet=VOCABULARY,
)

LISTOPS_SHORT = replace(
    LISTOPS,
    name="listops_short",
    length=64,
    rules=ListOpsConfig(
        max_depth=4, max_args=5, min_length=4, max_length=64, train=48_000, validation=2_000, test=2_000
    ),
    sources=("generate",),
    inputs=None,
    archive=None,
    counts=(),
    summary="the same with expressions under 64 tokens, for laptops; not comparable with published numbers",
)
