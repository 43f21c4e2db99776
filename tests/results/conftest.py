"""A clock that leases look at, in the test's hands."""

import pytest

from tests.helpers.leases import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("lra.results.lease.time.monotonic", clock)
    return clock
