"""Shared by all tests: JAX on the CPU, strict about types and ranks; one folder of prepared data and compiled programs.

The folder is new for each run of the tests, and is shared by its workers and by all processes that they start: what
one of them has prepared or compiled, no other does again.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.helpers import cli

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[cli.SHARED] = tempfile.mkdtemp(prefix="lra-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ[cli.SHARED]}/data/compiled"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(Path(os.environ[cli.SHARED]), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with what takes long first, so that the workers end together."""
    order = ("ray", "process", "slow")
    ranks: dict[Path, int] = {}
    for item in items:
        marked = [order.index(mark.name) for mark in item.iter_markers() if mark.name in order]
        ranks[item.path] = min([ranks.get(item.path, len(order)), *marked])
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    cli.allowed = any(item.get_closest_marker(name) for name in ("process", "ray"))
