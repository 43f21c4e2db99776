"""The page's content and what may stand in it; tests/report/test_browser.py opens it in a browser."""

import json
import math
import re

import numpy as np
import pytest

from lra.report import html_page, leaderboard
from models import MIXERS
from tests.helpers.records import HOSTILE, hostile_record, recipe, record, result


def embedded(html):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_nothing_a_record_says_becomes_markup():
    html = html_page.to_html(leaderboard.build([hostile_record()]), [])
    assert html.count("<script") == 2 and html.count("</script>") == 2 and "<img" not in html
    assert embedded(html)["rows"][0]["model"] == HOSTILE


def test_the_page_asks_for_nothing_outside_itself():
    html = html_page.to_html(leaderboard.build([record()]), [])
    assert "default-src 'none'" in html and "unsafe" not in html.partition("</head>")[0].partition("<style>")[0]
    assert "{{" not in html.replace("{{data}}", "")
    frame = html.replace(json.dumps(embedded(html)), "")
    outside = re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)(\w+:|//)""", frame)
    assert outside == [] and "fetch(" not in html and "XMLHttpRequest" not in html and "@import" not in html


def test_scripts_build_text_and_never_markup():
    html = html_page.to_html(leaderboard.build([record()]), [])
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in html


def test_every_figure_of_a_cell_is_there():
    built = leaderboard.build([record(score=0.5), record(score=0.6, seed=1), record("local", status="oom")])
    benchmarks = [record(results=[], task="text", length=n) for n in (1000, 2000)]
    content = embedded(html_page.to_html(built, [*benchmarks, record(results=[], task="image")]))
    (fnet, local) = content["rows"]
    score = fnet["scores"]["listops@2000"]
    assert score["mean"] == 55 and score["seeds"] == 2 and score["published"]["value"] == 35.33
    assert local["scores"]["listops@2000"]["lost"] == {"oom": 1} and local["rank"] is None
    first = content["cells"][score["cells"][0]]
    assert [plot["title"] for plot in score["curves"]] == ["accuracy", "loss"]
    names = [mark["name"] for mark in score["curves"][0]["marks"]]
    assert names == [f"seed {seed}, {kind}" for seed in (0, 1) for kind in ("validation", "training")]
    assert content["pool"][first["shared"]["recipe"]]["train"]["steps"] == 5_000
    assert [figure["title"] for figure in content["length"]] == ["text, batch 32, float32, lra, CPU"]
    assert content["thinned"] is None and len(content["published"]) > 100


def test_a_curve_is_thinned_evenly_and_the_page_says_so(monkeypatch):
    long = record(score=0.5)
    long["results"] = [result(0.5, 0, points=100)]
    monkeypatch.setattr(html_page, "MAX_POINTS", 20)
    content = embedded(html_page.to_html(leaderboard.build([long]), []))
    (accuracy, _) = content["rows"][0]["scores"]["listops@2000"]["curves"]
    x = accuracy["marks"][0]["line"][::2]
    steps = np.diff(x)
    assert content["thinned"] == 20 and len(x) == 20 and steps.max() - steps.min() < 0.3 * steps.mean()


@pytest.mark.parametrize("value", [math.nan, math.inf, "half", None, {}])
def test_a_curve_with_odd_values_still_gives_a_page(value):
    odd = record(score=0.5)
    odd["results"][0]["curve"] = [{"step": 1, "train_loss": value}, {"step": 2, "train_loss": 1.0}]
    assert embedded(html_page.to_html(leaderboard.build([odd]), []))["cells"]


def test_a_page_without_records():
    assert embedded(html_page.to_html(leaderboard.build([]), []))["rows"] == []


def test_the_first_screen_is_the_most_complete_protocol_with_its_picture():
    models = ("fnet", "transformer", "local")
    small = [record(m, score=0.4, protocol="small", recipe=recipe("listops", m, "small")) for m in models]
    content = embedded(html_page.to_html(leaderboard.build([*small, record(score=0.9)]), []))
    assert content["first"]["title"] == "Protocol small" and content["first"]["columns"] == ["listops@2000"]
    assert {content["rows"][entry["row"]]["model"] for entry in content["first"]["rows"]} == set(models)
    picture = content["speed"][0]
    assert picture["title"].startswith("listops@2000. Accuracy against speed: protocol small")
    assert picture["plots"][0]["wide"] > 1000 and picture["narrow"][0]["wide"] < 390
    assert len(picture["families"]) == 2


def test_scores_of_the_first_table_say_which_row_they_are_of():
    def cell(task, length, **changes):
        return record("fnet", task, length=length, protocol="small", recipe=recipe(task, "fnet", "small"), **changes)

    records = [
        cell("listops", 2000),
        cell("image", 1024),
        *[cell("image", 1024, seed=s, accelerator="H") for s in (1, 2)],
    ]
    content = embedded(html_page.to_html(leaderboard.build(records), []))
    (entry,) = content["first"]["rows"]
    rows = content["rows"]
    found = {name: rows[place]["accelerator"] for name, place in entry["scores"].items()}
    assert found == {"listops@2000": "CPU", "image@1024": "H"}
    assert all(name in rows[place]["scores"] for name, place in entry["scores"].items())
    assert entry["seen"] == {}


def test_the_first_table_has_how_far_a_model_looks_from_another_accelerator():
    own = {"protocol": "small", "recipe": recipe("image", "fnet", "small"), "length": 1024}
    far = {"seed": 0, "majority": 0.1, "k": [1, 2], "windows": [0.1, 0.5], "jacobian": {"r50": 4, "r90": 9}}
    looked = record("fnet", "image", **own) | {"reach": [far]}
    records = [looked, *[record("fnet", "image", seed=s, accelerator="H", **own) for s in (1, 2)]]
    content = embedded(html_page.to_html(leaderboard.build(records), []))
    (entry,) = content["first"]["rows"]
    assert content["rows"][entry["scores"]["image@1024"]]["accelerator"] == "H"
    assert entry["seen"] == {"image@1024": "4/9"}


def test_forty_models_on_five_tasks_are_a_page_of_at_most_two_megabytes():
    tasks = {"listops": 2000, "text": 4000, "retrieval": 4000, "image": 1024, "pathfinder": 1024}
    cells = [
        record(m, t, (i % 30) / 50, length=n, train_speed={"steps_per_second": 1.0 + i % 7}, results=[
            result((i % 30) / 50, points=25)]) for i, m in enumerate(MIXERS) for t, n in tasks.items()
    ]  # fmt: skip
    assert len(html_page.to_html(leaderboard.build(cells), [])) < 2_000_000
