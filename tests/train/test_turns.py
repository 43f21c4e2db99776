"""Turns on a device: side by side while they prepare, alone while they measure."""

import contextlib
import multiprocessing
import os
from pathlib import Path

from lra.train.turns import Turns
from tests.helpers.waiting import SECONDS, until

CONTEXT = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def seen(folder: Path, turn: str):
    """Leaves a file for as long as this process has its turn; no other may be there if one measures."""
    file = folder / f"{turn}-{os.getpid()}"
    file.touch(exist_ok=False)
    others = [path.name for path in folder.glob("*-*") if path != file and "measure" in path.name + turn]
    if others:
        (folder / "broken").write_text(f"{turn} beside {others}")
    yield
    file.unlink()


def take_part(folder: Path, meeting=None) -> None:
    """Prepares, where there is a meeting until others do so too, and measures."""
    turns = Turns(folder)
    with turns.preparing(), seen(folder, "prepare"):
        if meeting:
            meeting.wait(SECONDS)
    for _ in range(20):
        with turns.measuring(), seen(folder, "measure"):
            pass
    (folder / f"end{os.getpid()}").touch()


def test_one_measures_alone_and_all_prepare_together(tmp_path):
    meeting = CONTEXT.Barrier(3)
    processes = [CONTEXT.Process(target=take_part, args=(tmp_path, meeting)) for _ in range(2)]
    for process in processes:
        process.start()
    meeting.wait(SECONDS)
    later = [CONTEXT.Process(target=take_part, args=(tmp_path,)) for _ in range(2)]
    for process in later:
        process.start()
    for process in [*processes, *later]:
        process.join(SECONDS)
        assert process.exitcode == 0
    assert not (tmp_path / "broken").exists() and len(list(tmp_path.glob("end*"))) == 4


def test_a_process_that_dies_gives_its_turn_back(tmp_path):
    child = CONTEXT.Process(target=_hold, args=(tmp_path,))
    child.start()
    until((tmp_path / "held").exists)
    child.kill()
    child.join()
    with Turns(tmp_path).preparing():
        pass
    with Turns(tmp_path).measuring():
        pass


def _hold(folder: Path) -> None:
    with Turns(folder).measuring():
        (folder / "held").touch()
        CONTEXT.Event().wait()
