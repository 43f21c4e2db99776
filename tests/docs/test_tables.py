"""What the docs say in tables is what the shipped records say."""

import pytest

from lra.results import load
from lra.results.provenance import ROOT
from tests.docs import tables
from tests.docs.table import Table, rewritten


@pytest.fixture(scope="module")
def shipped():
    return tables.tables()


def test_the_pages_have_the_tables_of_the_records(shipped):
    old = []
    for table in shipped:
        text = (ROOT / table.page).read_text(encoding="utf-8")
        if rewritten(text, table) != text:
            old.append(f"{table.page}, {table.heading}")
    assert not old, f"`python -m tests.docs.tables` writes these anew: {old}"


def test_each_score_is_the_mean_of_a_record_s_seeds_and_the_average_that_of_the_row(shipped):
    (scores,) = (table for table in shipped if table.heading == "Results")
    assert len(scores.rows) == 40
    records, _ = load.load_records([tables.RESULTS])
    known = {}
    for record in records:
        tests = [100 * result["test_best"] for result in record["results"]]
        known.setdefault((record["cell"]["task"], record["cell"]["model"], len(tests)), []).append(
            sum(tests) / len(tests)
        )
    for name, *cells, average in scores.rows:
        for task, cell in zip(tables.ARENA, cells, strict=True):
            means = known[task, name.removesuffix(" †"), 1 if cell.endswith("°") else 3]
            assert any(float(cell.rstrip("°")) == pytest.approx(mean, abs=0.0501) for mean in means)
        assert float(average) == pytest.approx(sum(float(cell.rstrip("°")) for cell in cells) / 5, abs=0.11)


TABLE = Table("page.md", "Two", ("model", "test"), [["fnet", "1.0"], ["local", ""]])
PAGE = """# One

| model | test |
|---|---:|
| old | 0.0 |

## Two

Words.

| other |
|---|

| model | test |
|---|---:|
| old | 0.0 |
| older | 0.0 |

More words.
"""


def test_the_table_under_the_heading_is_replaced_and_nothing_else():
    new = rewritten(PAGE, TABLE)
    assert new == PAGE.replace("| old | 0.0 |\n| older | 0.0 |", "| fnet | 1.0 |\n| local | |")
    assert rewritten(new, TABLE) == new


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        (TABLE._replace(heading="Three"), "no heading 'Three'"),
        (TABLE._replace(header=("model", "speed")), "no table under 'Two'"),
        (TABLE._replace(heading="One", header=("other",)), "no table under 'One'"),
    ],
)
def test_a_page_without_the_table_is_an_error(table, missing):
    with pytest.raises(ValueError, match=missing):
        rewritten(PAGE, table)
