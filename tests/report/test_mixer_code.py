"""Records made by different code of a mixer, and by other code than this checkout's."""

import pytest

import models
from lra.grid.source import fingerprint
from lra.report import leaderboard, mixer_code
from lra.report.tables import to_markdown
from lra.report.write import write_leaderboard
from lra.results import records
from tests.helpers.records import made_by, record


def by(source, versions=(), **changes):
    """A record that some code has made."""
    return record(code=made_by(source, **dict(versions)), **changes)


def test_seeds_by_different_code_are_named():
    built = leaderboard.build([by("a", seed=0), by("b", seed=1), by("a", seed=2), record(seed=3)])
    line = "code: fnet, listops@2000: seeds 0, 2 and seed 1 are by different code of the mixer"
    assert built.conflicts == [line] and line in to_markdown(built)
    assert not leaderboard.build([by("a", seed=0), by("a", seed=1), record(seed=2)]).conflicts


def test_a_seed_trained_by_old_and_new_code_counts_once_by_the_later():
    old = by("a", score=0.9, created="2026-01-01T00:00:00+00:00")
    new = by("b", score=0.4, created="2026-01-02T00:00:00+00:00")
    built = leaderboard.build([new, old])
    assert built.rows[0].scores["listops@2000"].values == {0: pytest.approx(40)}
    assert built.conflicts == [
        "duplicate: fnet, listops@2000, seed 0: two records have a score by different code of the mixer, "
        "the later counts"
    ]


def test_seeds_of_another_version_are_a_row_of_their_own():
    new = [by("b", {"mixer": 2}, seed=s, score=0.4, created="2026-01-02T00:00:00+00:00") for s in (0, 1)]
    built = leaderboard.build([record(score=0.9), *new])
    rows = {row.variant: row.scores["listops@2000"].values for row in built.rows}
    assert rows == {
        "": {0: pytest.approx(40), 1: pytest.approx(40)},
        "encoder.positions version 2": {0: pytest.approx(90)},
    }
    newest = record(score=0.9, created="2026-01-03T00:00:00+00:00")
    assert {row.variant for row in leaderboard.build([newest, *new]).rows} == {
        "",
        "encoder.positions version 2, mixer version 2",
    }


def test_records_of_other_code_than_this_checkout_s_are_named(monkeypatch):
    now = fingerprint(models.MIXERS["fnet"])
    assert mixer_code.outdated([record(), by(now), by("x", mixer="no.such:Mixer")]) == []
    assert mixer_code.outdated([by("other"), by(now, seed=1), by("other", seed=2)]) == [
        "code: 2 records are of fnet from before its mixer's code was changed"
    ]
    assert mixer_code.outdated([by("x"), by("x", model="local", mixer="local"), by("y", seed=1)]) == [
        "code: 3 records are from before their mixer's code was changed: 2 of fnet, 1 of local"
    ]
    monkeypatch.setitem(models.VERSIONS, "fnet", 2)
    assert mixer_code.outdated([record(code={}), by(now, {"mixer": 2}), record("luna")]) == [
        "code: 1 record is of fnet by another version of its code, which gives other numbers: run again"
    ]


def test_the_tables_say_so(tmp_path):
    records.write(tmp_path / "records" / "a.json", by("other"))
    text, lines = write_leaderboard([tmp_path], tmp_path / "out")
    line = "1 record is of fnet from before its mixer's code was changed"
    assert any(line in told for told in lines)
    for place in (text, (tmp_path / "out" / "leaderboard.html").read_text()):
        assert line in place


def test_a_record_s_code_is_checked():
    records.check(by("a"))
    for wrong in ({"fingerprint": 1}, {"versions": []}, {"versions": {"mixer": "2"}}, ["x"]):
        with pytest.raises(ValueError, match="'code"):
            records.check(record(code=wrong))
