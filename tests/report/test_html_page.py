"""The page's content and what may stand in it; tests/report/test_browser.py opens it in a browser."""

import json
import math
import re

import pytest

from lra.report import html_page, leaderboard
from tests.helpers.records import HOSTILE, hostile_record, record, result


def embedded(html):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_nothing_a_record_says_becomes_markup():
    html = html_page.to_html(leaderboard.build([hostile_record()]), [])
    assert html.count("<script") == 2 and html.count("</script>") == 2 and "<img" not in html
    assert embedded(html)["rows"][0]["model"] == HOSTILE


def test_the_page_asks_for_nothing_outside_itself():
    html = html_page.to_html(leaderboard.build([record()]), [])
    assert "default-src 'none'" in html and "{{" not in html.replace("{{data}}", "")
    frame = html.replace(json.dumps(embedded(html)), "")
    outside = re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)(\w+:|//)""", frame)
    assert outside == [] and "fetch(" not in html and "XMLHttpRequest" not in html and "@import" not in html


def test_scripts_build_text_and_never_markup():
    html = html_page.to_html(leaderboard.build([record()]), [])
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in html


def test_every_figure_of_a_cell_is_there():
    built = leaderboard.build([record(score=0.5), record(score=0.6, seed=1), record("local", status="oom")])
    content = embedded(html_page.to_html(built, [record(results=[], task="text")]))
    (fnet, local) = content["rows"]
    score = fnet["scores"]["listops@2000"]
    assert score["mean"] == 55 and score["seeds"] == 2 and score["published"]["value"] == 35.33
    assert local["scores"]["listops@2000"]["lost"] == {"oom": 1} and local["rank"] is None
    first = content["cells"][score["cells"][0]]
    assert first["seeds"][0]["curve"]["step"] == [50, 100]
    assert first["seeds"][0]["curve"]["validation_accuracy"] == [0.25, 0.5]
    assert content["pool"][first["shared"]["recipe"]]["train"]["steps"] == 5_000
    assert [point["kind"] for point in content["points"]] == ["training", "training", "bench"]
    assert content["thinned"] is None and len(content["published"]) > 100


def test_a_curve_is_thinned_evenly_and_the_page_says_so(monkeypatch):
    long = record(score=0.5)
    long["results"] = [result(0.5, 0, points=100)]
    monkeypatch.setattr(html_page, "MAX_POINTS", 20)
    content = embedded(html_page.to_html(leaderboard.build([long]), []))
    steps = content["cells"][0]["seeds"][0]["curve"]["step"]
    assert content["thinned"] == 20 and len(steps) == 20 and steps[0] == 50 and steps[-1] == 5_000


@pytest.mark.parametrize("value", [math.nan, math.inf, "half", None, {}])
def test_a_curve_with_odd_values_still_gives_a_page(value):
    odd = record(score=0.5)
    odd["results"][0]["curve"] = [{"step": 1, "train_loss": value}, {"step": 2, "train_loss": 1.0}]
    assert embedded(html_page.to_html(leaderboard.build([odd]), []))["cells"]


def test_a_page_without_records():
    assert embedded(html_page.to_html(leaderboard.build([]), []))["rows"] == []
