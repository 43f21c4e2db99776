"""The stream of blocks that workers draw: where the system gives them no semaphores, it is told what to do."""

import errno

import pytest

from tasks.io import generate
from tasks.task import DataError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (ImportError("This platform lacks a functioning sem_open implementation"), "lacks a functioning sem_open"),
    ],
)
def test_without_semaphores_their_folder_is_named_and_one_worker_does(monkeypatch, error, words):
    def refused(*arguments, **more):
        raise error

    monkeypatch.setattr(generate, "ProcessPoolExecutor", refused)
    with pytest.raises(DataError, match=rf"cannot write /dev/shm, .*{words}.*--workers=1"):
        next(generate.draw_blocks(abs, 2))
    assert next(generate.draw_blocks(abs, 1)) == 0
