"""Leases: one owner at a time, whatever the clocks say, whoever dies, and in whatever order files come and go."""

import errno
import itertools
import json
import os
import subprocess
import sys
import threading

from lra.results import lease
from lra.results.lease import Leases, newest_lease
from tests.helpers.leases import elsewhere


def test_a_lease_is_one_owner_s_until_released(tmp_path):
    ours = Leases(tmp_path).take("cell")
    assert Leases(tmp_path).take("cell") is None and Leases(tmp_path).take("other")
    assert newest_lease(tmp_path, "cell").contents["pid"] == os.getpid()
    ours.release()
    assert newest_lease(tmp_path, "cell") is None and Leases(tmp_path).take("cell")


def test_a_lease_is_dead_when_it_has_not_changed_for_long_by_the_observer_s_own_clock(tmp_path, clock, monkeypatch):
    ours, theirs = elsewhere(tmp_path, "cell"), Leases(tmp_path)
    # The clock of the wall goes backwards between heartbeats, and is a day off on the other host.
    wall = itertools.cycle([2e9, 1e9, 5e8, 86400.0, 0.0])
    monkeypatch.setattr("lra.results.lease.time.time", lambda: next(wall))
    for _ in range(4):
        assert theirs.take("cell") is None
        clock.now += 0.9 * lease.DEAD_SECONDS
        assert theirs.take("cell") is None
        assert ours.renew()
        ours.path.write_bytes(
            json.dumps(newest_lease(tmp_path, "cell").contents | {"machine": "another"}).encode().ljust(1000)
        )
    assert theirs.take("cell") is None
    clock.now += lease.DEAD_SECONDS
    taken = theirs.take("cell")
    assert taken.generation == 2 and newest_lease(tmp_path, "cell").contents["owner"] == taken.owner
    # Who was thought dead learns that it has lost, harms nothing, and deletes nothing.
    assert not ours.renew()
    ours.lost.set()
    ours.release()
    assert newest_lease(tmp_path, "cell").contents["owner"] == taken.owner and taken.renew()
    taken.release()
    assert not list(tmp_path.iterdir())


def test_a_heartbeat_changes_the_file_even_if_the_wall_clock_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.results.lease.time.time", lambda: 86400.0)
    ours = Leases(tmp_path).take("cell")
    seen = {newest_lease(tmp_path, "cell").raw}
    for _ in range(3):
        assert ours.renew()
        seen.add(newest_lease(tmp_path, "cell").raw)
    assert len(seen) == 4


def test_a_lease_in_use_is_renewed_again_and_again_until_it_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.results.lease.HEARTBEAT_SECONDS", 0.001)
    ours, beats, real = Leases(tmp_path).take("cell"), threading.Semaphore(0), lease.Lease.renew

    def renew(self):
        beats.release()
        return real(self)

    monkeypatch.setattr(lease.Lease, "renew", renew)
    with ours:
        assert all(beats.acquire(timeout=30) for _ in range(3))
    assert not ours.lost.is_set() and newest_lease(tmp_path, "cell") is None


def test_a_dead_process_of_this_machine_is_seen_at_once(tmp_path):
    program = (
        "import sys, pathlib; from lra.results.lease import Leases; assert Leases(pathlib.Path(sys.argv[1])).take('c')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    told = newest_lease(tmp_path, "c").contents
    assert told["pid"] != os.getpid() and lease.owner_exited(told)
    assert not lease.owner_exited(told | {"machine": "another boot or name space"})
    assert lease.owner_exited(told | {"pid": os.getpid()}), "the number of a dead process was given to another"
    assert Leases(tmp_path).take("c").generation == 2


def test_of_many_observers_of_a_dead_lease_one_wins(tmp_path, clock):
    for number in range(20):
        name = f"cell{number}"
        elsewhere(tmp_path, name)
        observers = [Leases(tmp_path) for _ in range(8)]
        for observer in observers:
            assert observer.take(name) is None
        clock.now += lease.DEAD_SECONDS
        start, won = threading.Barrier(8), []

        def race(observer, name=name, start=start, won=won):
            start.wait()
            won.append(observer.take(name))

        threads = [threading.Thread(target=race, args=(observer,)) for observer in observers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken is not None for taken in won) == 1


def test_a_judgement_that_came_too_late_takes_nothing(tmp_path, clock):
    """The dead lease was taken over and released, and perhaps taken anew, between looking and creating."""
    for again in (False, True):
        elsewhere(tmp_path, "cell")
        slow, quick = Leases(tmp_path), Leases(tmp_path)
        assert slow.take("cell") is None and quick.take("cell") is None
        clock.now += lease.DEAD_SECONDS
        judged = newest_lease(tmp_path, "cell")
        quick.take("cell").release()
        owner = Leases(tmp_path).take("cell") if again else None
        late = lease.Lease(tmp_path, "cell", judged)
        assert not late.acquire()
        if owner:
            assert owner.renew() and newest_lease(tmp_path, "cell").contents["owner"] == owner.owner
            owner.release()
        assert newest_lease(tmp_path, "cell") is None


def test_the_number_of_links_decides_where_the_answer_is_lost(tmp_path, monkeypatch):
    """An NFS client asks again when no answer comes, and is told that the file, its own, exists."""
    real = os.link

    def lost_answer(source, target):
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr("lra.results.lease.os.link", lost_answer)
    assert Leases(tmp_path).take("cell")
    assert Leases(tmp_path).take("cell") is None


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("lra.results.lease.os.link", no_links)
    ours = Leases(tmp_path).take("cell")
    assert ours.renew() and Leases(tmp_path).take("cell") is None
    ours.release()
    assert not list(tmp_path.iterdir())


def test_a_lost_lease_ends_the_work_and_a_file_server_that_is_away_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.results.lease.HEARTBEAT_SECONDS", 0.01)
    ours, told, beaten = Leases(tmp_path).take("cell"), threading.Event(), threading.Event()
    ours.on_lost = told.set
    real = ours.renew

    def away():
        beaten.set()
        raise OSError("Stale file handle")

    monkeypatch.setattr(ours, "renew", away)
    with ours:
        assert beaten.wait(10) and not told.is_set()
        monkeypatch.setattr(ours, "renew", real)
        ours.path.unlink()
        assert told.wait(10) and ours.lost.is_set()


def test_progress_is_in_the_heartbeat_and_half_written_ones_are_no_error(tmp_path):
    ours = Leases(tmp_path).take("cell")
    ours.progress = {"step": 7, "steps_per_second": 2.5}
    assert ours.renew() and newest_lease(tmp_path, "cell").contents["progress"] == ours.progress
    ours.path.write_bytes(b'{"owner": ')
    assert newest_lease(tmp_path, "cell").contents == {} and Leases(tmp_path).take("cell") is None
