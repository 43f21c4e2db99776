"""Turns on a device: side by side while they prepare, alone while they measure."""

import multiprocessing
import time
from pathlib import Path

from lra.train.turns import Turns

HELD = 0.3


def take_part(folder: Path, late: float) -> list[tuple[str, float, float]]:
    """Prepares and measures for a while; returns (turn, begin, end) by a clock that all processes share."""
    spans, turns = [], Turns(folder)
    time.sleep(late)
    for name, turn in (("prepare", turns.preparing), ("measure", turns.measuring)):
        with turn():
            begun = time.monotonic()
            time.sleep(HELD)
            spans.append((name, begun, time.monotonic()))
    return spans


def overlap(a: tuple[str, float, float], b: tuple[str, float, float]) -> bool:
    return a[1] < b[2] and b[1] < a[2]


def test_one_measures_alone_and_all_prepare_together(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        spans_of = pool.starmap(take_part, [(tmp_path, 0.0), (tmp_path, 0.0), (tmp_path, 0.05), (tmp_path, 1.0)])
    all_spans = [(process, span) for process, spans in enumerate(spans_of) for span in spans]
    for process_a, span in all_spans:
        for process_b, other_span in all_spans:
            if process_a != process_b and "measure" in (span[0], other_span[0]):
                assert not overlap(span, other_span)
    assert any(overlap(spans_of[0][0], spans_of[i][0]) for i in (1, 2))


def test_a_process_that_dies_gives_its_turn_back(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.05)
    child.kill()
    child.join()
    with Turns(tmp_path).preparing():
        pass
    with Turns(tmp_path).measuring():
        pass


def _hold(folder: Path) -> None:
    with Turns(folder).measuring():
        (folder / "held").touch()
        time.sleep(60)
