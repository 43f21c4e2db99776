"""The real data that tests use where they are present: unpacked once, outside the repository.

`$LRA_SHARED` names the folder that holds `data/rebuild.py`; without it, `shared` beside the repository is
taken.
"""

import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tasks.task import Dataset, Split

REPOSITORY = Path(__file__).resolve().parents[2]


@functools.cache
def shared() -> Path:
    """The folder with the packed data; skips the test where there is none."""
    folder = Path(os.environ.get("LRA_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not (folder / "rebuild.py").is_file():
        pytest.skip(f"no real data: {folder / 'rebuild.py'} is not there (LRA_SHARED names another folder)")
    return folder


@functools.cache
def folder() -> Path:
    """The folder with aclImdb, cifar-10-batches-bin and lra_release. Takes 20 s the first time."""
    packed = shared()
    stamp = "".join(f"{file.name}{file.stat().st_size}" for file in sorted(packed.iterdir()))
    name = f"lra-test-data-{os.getuid()}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    place = Path(tempfile.gettempdir()) / name
    with open(f"{place}.lock", "w") as lock:  # processes of one test run unpack it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            subprocess.run([sys.executable, str(packed / "rebuild.py"), str(place)], check=True)
            (place / "whole").touch()
    return place


def first_examples(data: Dataset, count: int) -> Dataset:
    """Keeps `count` examples per split, so that testing is quick."""
    splits = {name: Split(s.index[:count], s.labels[:count]) for name, s in data.splits.items()}
    rows = np.unique(np.concatenate([s.index.ravel() for s in splits.values()]))
    splits = {name: Split(np.searchsorted(rows, s.index).astype(np.int32), s.labels) for name, s in splits.items()}
    return Dataset(
        np.asarray(data.values[rows]), np.asarray(data.lengths[rows]), splits, data.source, data.notes,
        data.fingerprint, data.vocab, data.classes,
    )  # fmt: skip
