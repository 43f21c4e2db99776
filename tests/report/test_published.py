"""Published figures: every row has a source, and they stand beside ours only where that is fair."""

import pytest

from configs import PROTOCOLS
from lra.report import averages, html_page, leaderboard, published, tables
from models import MIXERS
from tests.helpers.records import recipe, record


def test_every_row_has_its_source_and_plausible_scores():
    assert len(published.load_table()) > 100
    for row in published.load_table():
        assert row["source"] and row["source_kind"] in ("primary", "quoted"), row
        for task in averages.LENGTHS:
            value = published.parse_number(row[task])
            assert value is not None or row[task] in ("", "FAIL", "OOM", "NA", "-"), row
            assert value is None or 5 < value < 100, row


def test_our_names_are_names_of_models_and_stand_once_a_protocol():
    named = [(row["protocol"], row["ours"]) for row in published.load_table() if row["ours"]]
    assert len(set(named)) == len(named)
    assert {name for _, name in named} <= {*MIXERS, *PROTOCOLS["ssm"].default_models}
    assert {protocol for protocol, _ in named} == {"lra-paper", "small", "ssm"}


def test_the_difference_from_the_paper_s_figure():
    (beside,) = published.comparisons(leaderboard.build([record("transformer", score=0.40)]))
    assert beside.published.value == 36.37 and beside.difference == pytest.approx(3.63)
    own = recipe("text", "nystromformer", "small")
    small = record("nystromformer", "text", 0.6, length=4000, protocol="small", recipe=own)
    small["data"]["counts"] = {"train": 22_500, "validation": 2_500, "test": 25_000}
    assert [b.published.value for b in published.comparisons(leaderboard.build([small]))] == [65.52]


def of_ssm(model, task="listops", **changes):
    own = recipe(task, model.partition(":")[0], "ssm")
    return record(model, task, protocol="ssm", recipe=own, mixer=model.partition(":")[0], **changes)


@pytest.mark.parametrize(
    ("model", "theirs", "name"),
    [("s4d", 60.18, "S4D-Inv"), ("s5", 62.15, "S5"), ("sgconv", 61.45, "SGConv"), ("mega", 63.14, "MEGA"),
     ("mega_chunk", 58.76, "MEGA-chunk")],
)  # fmt: skip
def test_a_family_s_own_recipe_stands_beside_its_own_figures_alone(model, theirs, name):
    (beside,) = published.comparisons(leaderboard.build([of_ssm(model)]))
    assert (beside.published.value, beside.published.name) == (theirs, name)
    assert published.comparisons(leaderboard.build([record(model), record(model, protocol="small")])) == []


def test_no_figure_stands_beside_another_start_of_s4d_or_the_unverified_recipe_of_lru():
    lin = of_ssm("s4d:init=lin")
    lin["recipe"]["mixer"] = [["init", "lin"], ["state", 4]]
    image = of_ssm("lru", "image", length=1024)
    image["data"]["counts"] = {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert (
        published.comparisons(leaderboard.build([lin, of_ssm("lru"), image, of_ssm("hgrn"), of_ssm("transformer")]))
        == []
    )


def test_another_length_recipe_or_model_has_no_published_figure():
    shorter = record("transformer", score=0.4, length=1000)
    changed = record("transformer", score=0.4, overrides=["train.steps=9"])
    changed["recipe"]["train"]["steps"] = 9
    unknown = record("ff_only", score=0.4)
    assert published.comparisons(leaderboard.build([shorter, changed, unknown])) == []


@pytest.mark.parametrize(
    "counts", [{"train": 3, "validation": 3, "test": 3}, {"train": 96_000, "validation": 2_000, "test": 1_999}, {}]
)
def test_a_part_of_the_data_has_no_published_figure_anywhere(counts):
    part = record("transformer", score=0.4)
    part["data"] |= {"counts": counts, "source": "lra_release"}
    built = leaderboard.build([part])
    assert published.comparisons(built) == []
    assert "Beside published" not in tables.to_markdown(built)
    assert not [name for name in tables.to_frame(built) if "published" in name]
    (row,) = html_page.page_data(built, [])["rows"]
    assert row["scores"]["listops@2000"]["published"] is None


def test_a_test_of_a_sample_has_no_published_figure():
    """Even where the protocol's own recipe tests no more."""
    sample = record("transformer", score=0.4, evaluated={"validation": 2_000, "test": 1_999})
    assert published.comparisons(leaderboard.build([sample])) == []
    whole = record("transformer", score=0.4, evaluated={"validation": 2_000, "test": 2_000})
    assert len(published.comparisons(leaderboard.build([whole]))) == 1


def test_data_that_settings_have_changed_have_no_published_figure():
    changed = record("transformer", score=0.4, overrides=["data.train=50"])
    changed["recipe"]["data"]["train"] = 50
    changed["data"]["counts"]["train"] = 50
    assert published.comparisons(leaderboard.build([changed])) == []


def test_too_many_parameters_do_not_hide_the_paper_s_figure_of_the_same_recipe():
    (beside,) = published.comparisons(leaderboard.build([record("synthesizer", score=0.4, parameters=10**8)]))
    assert beside.row.kind == "free for all" and beside.published.value == 36.99
