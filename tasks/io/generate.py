"""Generation of tasks: a stream of numbered blocks, drawn by any number of workers and read in order.

Block i depends on the settings, the seed and i alone, so the workers never change the result.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from tasks.io.files import Progress
from tasks.io.splits import content_digest
from tasks.task import DataError

Block = TypeVar("Block")


def draw_blocks(draw: Callable[[int], Block], workers: int) -> Generator[Block, None, None]:
    """Yields `draw(0)`, `draw(1)`, … in this order, without end. `draw` must be picklable if workers > 1."""
    if workers <= 1:
        yield from map(draw, itertools.count())
        return
    with _start_pool(workers) as pool:
        waiting: deque[Future[Block]] = deque()
        try:
            for number in itertools.count():
                waiting.append(pool.submit(draw, number))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _start_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes. Raises `DataError` where the system gives it no semaphores, which live in /dev/shm."""
    # Fresh interpreters: forking a process that has started threads (TensorFlow, BLAS) can hang.
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(workers, mp_context=context)
    except (OSError, ImportError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot write /dev/shm, which processes need to work together ({reason}): --workers=1 does without"
        ) from None


def draw_distinct(
    draw: Callable[[int], list[tuple[bytes, int]]],
    count: int,
    noun: str,
    workers: int,
    report: Callable[[str], None],
) -> list[tuple[bytes, int]]:
    """Draws `count` examples with distinct contents: the first ones of the stream.

    Args:
        draw: the examples (contents, label) of a block, given its number.
        count: how many examples to draw.
        noun: the examples' name in messages, in the plural.
        workers: maximum number of processes.
        report: receives progress messages.

    Raises:
        DataError: the stream has run dry: 100 blocks in a row brought at most one new example each.
    """
    seen: set[bytes] = set()
    examples: list[tuple[bytes, int]] = []
    lean_blocks, progress = 0, Progress(report)
    stream = draw_blocks(draw, workers)
    try:
        for block in stream:
            before = len(examples)
            for example in block:
                digest = content_digest(example[0])
                if digest not in seen:
                    seen.add(digest)
                    examples.append(example)
            if len(examples) >= count:
                break
            progress(lambda: f"{len(examples):,} of {count:,} {noun}")
            lean_blocks = lean_blocks + 1 if len(examples) - before < 2 else 0
            if lean_blocks == 100:
                raise DataError(
                    f"these rules give only {len(examples):,} distinct {noun} and {count:,} are asked for: "
                    "ask for fewer or loosen the rules"
                )
    finally:
        stream.close()
    return examples[:count]
