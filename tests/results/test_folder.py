"""Leftovers of killed runs are deleted when a later run ends, and nothing that is in use or needed."""

import dataclasses

import pytest

from lra.grid.cell import split_seeds
from lra.results import lease, records
from lra.results.folder import clean_up, record_path
from tests.helpers.leases import elsewhere
from tests.helpers.records import record
from tests.scale.launcher import ENTRY, cells_of, entry


@pytest.fixture
def cells(tmp_path):
    entry(tmp_path / "data")
    return cells_of(4, tmp_path / "data" / ENTRY)


def leave(results, cell, status):
    """A record, a checkpoint and half a record of a cell, and the lease of a process of this machine that is gone."""
    path = record_path(results, cell)
    records.write(path, record(status=status, key=cell.key))
    path.with_name(f".{path.name}.123").write_text('{"sche')
    (results / "checkpoints" / cell.name / "7").mkdir(parents=True)
    elsewhere(results / "leases", cell.name, machine=lease.machine_id(), started="0")


def there(results):
    return {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file() or not any(path.iterdir())}


def test_what_is_left_of_finished_cells_goes_and_checkpoints_of_others_stay(tmp_path, cells):
    statuses = {"ok": False, "diverged": False, "interrupted": True, "oom": True}
    for cell, status in zip(cells, statuses, strict=True):
        leave(tmp_path, cell, status)
    clean_up(cells, tmp_path)
    kept = [f"checkpoints/{cell.name}/7" for cell, stays in zip(cells, statuses.values(), strict=True) if stays]
    assert there(tmp_path) - {f"data/{ENTRY}/meta.json"} == {
        "leases", *kept, *(f"records/{cell.name}.json" for cell in cells)
    }  # fmt: skip


def test_a_cell_that_another_run_has_and_one_not_asked_for_are_left_alone(tmp_path, cells):
    theirs, asked, other, _ = cells
    for cell in (theirs, other):
        leave(tmp_path, cell, "ok")
    (tmp_path / "leases" / f"{theirs.name}.1").unlink()
    elsewhere(tmp_path / "leases", theirs.name)
    before = there(tmp_path)
    clean_up([theirs, asked], tmp_path)
    assert there(tmp_path) == before


def test_leases_that_were_being_made_go_where_their_maker_is_gone(tmp_path, cells):
    lease.Leases(tmp_path / "leases").take("a cell")
    content = (tmp_path / "leases" / "a cell.1").read_bytes()
    started = lease.process_start(lease.os.getpid()).encode()
    (tmp_path / "leases" / ".alive").write_bytes(content)
    (tmp_path / "leases" / ".gone").write_bytes(content.replace(b'"started": "' + started, b'"started": "1'))
    clean_up([], tmp_path)
    assert there(tmp_path) >= {"leases/.alive", "leases/a cell.1"} and "leases/.gone" not in there(tmp_path)


def test_seeds_that_trained_one_after_the_other_are_swept_too(tmp_path, cells):
    plan = dataclasses.replace(cells[0].plan, seeds=(0, 1))
    both = dataclasses.replace(cells[0], plan=plan)
    parts = split_seeds(both)
    for part in parts:
        leave(tmp_path, part, "ok")
    clean_up([both], tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_folder_without_anything_is_left_as_it_is(tmp_path, cells):
    clean_up(cells, tmp_path / "none")
    assert not (tmp_path / "none").exists()
