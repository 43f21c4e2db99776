"""Records with anything anywhere: each is shown or named, and nothing stops the others from being shown."""

import copy
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lra.report import canvas, figures, html_page, leaderboard, show, tables
from lra.report.latex import to_latex
from lra.results import load
from tests.helpers.records import record

JUNK = [None, True, 0, 1, -1, 1e400, "x", [], {}, [1], ["x"], [["x"]], {"a": 1}, {"a": {"b": 1}}]


def whole():
    made = record(overrides=["train.steps=3"], log=["a line"], inference_speed={"steps_per_second": 3.0})
    made["recipe"]["mixer"] = [["scale", 1]]
    return made


def places(value, at=()):
    """Every place in a nested value but the whole."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*at, name)
        yield from places(part, (*at, name))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(places(whole()))), st.sampled_from([*JUNK, "missing"]))
def test_junk_anywhere_leaves_the_record_out_or_shows_it(tmp_path, place, junk):
    made = whole()
    part = made
    for name in place[:-1]:
        part = part[name]
    if junk == "missing":
        del part[place[-1]]
    else:
        part[place[-1]] = copy.deepcopy(junk)
    (tmp_path / "records").mkdir(exist_ok=True)
    (tmp_path / "records" / "a.json").write_text(json.dumps(made))
    (tmp_path / "records" / "b.json").write_text(json.dumps(record("luna", score=0.4)))
    found, lines = load.load_records([tmp_path])
    assert len(found) + len(lines) == 2 and any(r["cell"]["model"] == "luna" for r in found)
    built = leaderboard.build(found)
    assert (
        "luna" in tables.to_markdown(built) and "luna" in to_latex(built) and "luna" in html_page.to_html(built, found)
    )
    assert len(tables.to_frame(built)) == len(built.rows) and tables.cells_csv(found)
    if place[0] in ("results", "memory", "train_speed"):  # all that figures read
        draw(built)
    for one in found:
        assert show.record_text(one)


def draw(built):
    for figure in figures.of_leaderboard(built, []):
        canvas.draw(figure)
