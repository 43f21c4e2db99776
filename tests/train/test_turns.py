"""Turns on a device: side by side while they prepare, alone while they measure."""

import multiprocessing
import time
from pathlib import Path

from lra.train.turns import Turns

HELD = 0.3


def take_part(folder: Path, late: float) -> list[tuple[str, float, float]]:
    """Prepares and measures for a while; returns when, by a clock that all processes share."""
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
        found = pool.starmap(take_part, [(tmp_path, 0.0), (tmp_path, 0.0), (tmp_path, 0.05), (tmp_path, 1.0)])
    every = [(process, span) for process, spans in enumerate(found) for span in spans]
    for one, span in every:
        for other, its in every:
            if one != other and "measure" in (span[0], its[0]):
                assert not overlap(span, its)
    assert any(overlap(found[0][0], found[i][0]) for i in (1, 2))


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
