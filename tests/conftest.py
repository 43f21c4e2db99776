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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first, so that the workers end together; quick tests of a file stay together."""
    order = ("ray", "process", "slow")
    for item in items:
        if not any(item.get_closest_marker(name) for name in (*order, "xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: min((order.index(m.name) for m in item.iter_markers() if m.name in order), default=9))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    cli.allowed = any(item.get_closest_marker(name) for name in ("process", "ray"))
