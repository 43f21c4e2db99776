# ruff: noqa: E501 (golden tables are as wide as they are)
"""The leaderboard's tables from hand-made records: golden ones, nasty ones, and what must not depend on what."""

import cProfile
import json
import pstats

import pandas as pd
import pytest

from lra.errors import UsageError
from lra.report import html_page, leaderboard, selection, tables
from lra.report.latex import to_latex
from lra.report.write import write_leaderboard
from lra.results import load, records
from tests.helpers.records import grid_of_records, measurement, record, result


def row(built, model, **fields):
    (matching,) = [r for r in built.rows if r.model == model and all(getattr(r, k) == v for k, v in fields.items())]
    return matching


def write(folder, cells):
    for number, cell in enumerate(cells):
        records.write(folder / "records" / f"r{number}.json", cell)


GOLDEN = [
    *(record(score=s, seed=i) for i, s in enumerate((0.40, 0.44, 0.48))),
    *(record("transformer", score=s, seed=i) for i, s in enumerate((0.60, 0.61, 0.62))),
    record("local", score=0.5),
    record("luna", status="oom"),
    record("bigbird", score=0.55, parameters=19_519_506),
]


def test_the_whole_markdown_table_is_as_worked_out_by_hand():
    assert (
        tables.to_markdown(leaderboard.build(GOLDEN))
        == """\
## Protocol lra

| # | model       | family      | listops@2000 (%) | steps/s | memory |
| - | ----------- | ----------- | ---------------- | ------- | ------ |
| 1 | transformer | attention   | **61.00 ± 2.48** | 3       | 2 GB   |
| – | bigbird †   | attention   | 55.00 ± 2.18     | 2       | 2 GB   |
| 2 | local       | attention   | 50.00 ± 2.19     | 2       | 2 GB   |
| 3 | fnet        | mixing      | 44.00 ± 9.94     | 3       | 2 GB   |
| – | luna        | approximate | oom              | –       | –      |

Training steps/s: of listops@2000, measured in training on CPU. Memory: the compiled program's memory on CPU, \
the largest over listops@2000. †: free for all, with over 10 % more parameters than the protocol's Transformer; \
neither ranked nor bold.

## All results

### Protocol lra, apples to apples

| # | model       | accelerator | listops@2000 (%)           | listops@2000 steps/s |
| - | ----------- | ----------- | -------------------------- | -------------------- |
| 1 | transformer | CPU         | **61.00 ± 2.48 (3 seeds)** | 3                    |
| 2 | local       | CPU         | 50.00 ± 2.19 (1 seed)      | 2                    |
| 3 | fnet        | CPU         | 44.00 ± 9.94 (3 seeds)     | 3                    |
| – | luna        | CPU         | oom                        | –                    |

### Protocol lra, free for all

| # | model   | accelerator | listops@2000 (%)      | listops@2000 steps/s |
| - | ------- | ----------- | --------------------- | -------------------- |
| 1 | bigbird | CPU         | 55.00 ± 2.18 (1 seed) | 2                    |

- bigbird: listops: 2.18 × the Transformer's parameters

Test accuracy (%) at the best validation step. ± is a 95 % interval: over seeds (Student's t) where there are several, \
the test set's binomial error (Wilson) where there is one. Bold: ahead of every other row of its table by more than the \
errors explain (Welch's test, 5 %). Accuracies may be compared across accelerators, speed only on the same one.

| task         | data               | version | fingerprint | examples | most frequent class (%) |
| ------------ | ------------------ | ------- | ----------- | -------- | ----------------------- |
| listops@2000 | generated (seed 0) | 1       | listops-    | 2,000    | 20.00                   |

## Beside published results

| model       | protocol | task         | ours (%)     | published (%) | difference | their row       | source                                                                        |
| ----------- | -------- | ------------ | ------------ | ------------- | ---------- | --------------- | ----------------------------------------------------------------------------- |
| transformer | lra      | listops@2000 | 61.00 ± 2.48 | 36.37         | +24.63     | Transformer     | arXiv:2011.04006 Table 1 + google-research/long-range-arena@cd31e5c README.md |
| local       | lra      | listops@2000 | 50.00 ± 2.19 | 15.82         | +34.18     | Local Attention | arXiv:2011.04006 Table 1 + google-research/long-range-arena@cd31e5c README.md |
| fnet        | lra      | listops@2000 | 44.00 ± 9.94 | 35.33         | +8.67      | FNet            | quoted in S4 paper Table 10 ; Avg 55.30 quoted in LION paper Table 7          |
| bigbird     | lra      | listops@2000 | 55.00 ± 2.18 | 36.05         | +18.95     | BigBird         | arXiv:2011.04006 Table 1 + google-research/long-range-arena@cd31e5c README.md |
"""
    )


def test_the_csv_holds_every_figure_of_a_row():
    frame = tables.to_frame(leaderboard.build(GOLDEN))
    first = frame[frame["model"] == "fnet"].iloc[0]
    expected = {
        "rank": 3, "protocol": "lra", "comparison": "apples to apples", "overrides": "", "variant": "",
        "accelerator": "CPU", "parameters": 10_000, "listops@2000": 44, "listops@2000 low": 34.0635,
        "listops@2000 high": 53.9365, "listops@2000 ± seeds": 4.0, "listops@2000 n": 3, "listops@2000 status": "",
        "listops@2000 best": False, "listops@2000 steps/s": 3, "listops@2000 published": 35.33,
        "listops@2000 − published": 8.67,
    }  # fmt: skip
    for name, value in expected.items():
        assert first[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
    assert set(frame.columns) == {*expected, "model", "why"}
    failed = frame[frame["model"] == "luna"].iloc[0]
    assert failed["listops@2000 status"] == "1 oom" and pd.isna(failed["listops@2000"]) and pd.isna(failed["rank"])


def test_latex_is_a_booktabs_table_with_everything_escaped():
    text = to_latex(leaderboard.build([*GOLDEN, record("a_b&c%$#{x}~^\\", score=0.1)]))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"\begin{tabular}{rlr}" in text and r"# & model & listops@2000 \\" in text
    assert r"1 & transformer & \textbf{61.00 $\pm$ 2.48}$^{3}$ \\" in text
    assert r"2 & local & 50.00 $\pm$ 2.19 \\" in text and r"-- & luna & oom \\" in text
    assert r"a\_b\&c\%\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert line.replace(r"\&", "").count("&") == 2, line


def test_latex_escapes_the_columns_that_tell_rows_apart():
    one, other = record(accelerator="A & B_1"), record(accelerator="C", overrides=["train.steps=9 & 50%"])
    text = to_latex(leaderboard.build([one, other | {"recipe": one["recipe"]}]))
    assert r"& A \& B\_1 &" in text and r"& train.steps=9 \& 50\% &" in text
    assert "A & B" not in text and "9 & 50%" not in text


def test_every_table_has_the_remarks_on_its_data(tmp_path):
    part, cut = "4 / 3 / 3 examples where the release has 96,000 / 2,000 / 2,000", "1 of 10 | expressions <were> cut"
    older, noted, whole = record(score=0.4), record("luna", score=0.4, length=8), record("luna", "text", length=4000)
    older["data"]["counts"] = {"train": 4, "validation": 3, "test": 3}  # from before such notes
    noted["data"] |= {"counts": older["data"]["counts"], "notes": [part, cut]}
    whole["data"]["counts"] = {"train": 22_500, "validation": 2_500, "test": 25_000}
    write(tmp_path, [older, noted, whole])
    text, _ = write_leaderboard([tmp_path], tmp_path / "out")
    noted_lines = [f"listops@8: {part}", "listops@8: 1 of 10 \\| expressions \\<were> cut", f"listops@2000: {part}"]
    assert [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")] == noted_lines
    frame = pd.read_csv(tmp_path / "out/leaderboard.csv").set_index("model")
    assert frame.loc["luna", "listops@8 notes"] == f"{part}; {cut}"
    assert frame.loc["fnet", "listops@2000 notes"] == part and "text@4000 notes" not in frame
    latex = (tmp_path / "out/leaderboard.tex").read_text()
    assert f"Data of listops@2000: {part}" in latex and r"\textbar{} expressions \textless{}were" in latex
    columns = html_page.page_data(leaderboard.build([older, noted, whole]), [])["columns"]
    assert [columns[name]["notes"] for name in ("listops@8", "listops@2000", "text@4000")] == [[part, cut], [part], []]


def test_several_folders_are_merged_and_a_cell_in_two_of_them_counts_once(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    again = record("transformer", status="failed", key="same")
    write(here, [record(score=0.4), again])
    write(there, [record("local", score=0.5), record("transformer", score=0.6, key="same")])
    loaded, lines = load.load_records([here, there, here])
    assert lines == [f"duplicate: {here}/records/r1.json holds the same cell as {there}/records/r1.json, which counts"]
    assert load.load_records([there, here])[0] == loaded
    assert row(leaderboard.build(loaded), "transformer").scores["listops@2000"].estimate.mean == pytest.approx(60)


DAMAGE = {
    "cut off": (lambda text, whole: text[: len(text) // 2], "not a whole record"),
    "wrong schema": (lambda text, whole: json.dumps(whole | {"schema": 99}), "written by schema 99"),
    "newer field": (lambda text, whole: json.dumps(whole | {"phase": 2}), "newer version: unknown phase"),
    "newer cell": (
        lambda text, whole: json.dumps(whole | {"cell": whole["cell"] | {"hosts": 4}}),
        "newer version: unknown cell.hosts",
    ),
    "no seeds": (
        lambda text, whole: json.dumps(whole | {"cell": whole["cell"] | {"seeds": 0}}),
        "'cell.seeds' is missing or of another type",
    ),
    "a score in words": (
        lambda text, whole: json.dumps(whole | {"results": [whole["results"][0] | {"test_best": "half"}]}),
        "'results' is missing or of another type",
    ),
    "a list": (lambda text, whole: "[]", "not a record"),
    "bytes": (lambda text, whole: "\x00\xff", "not a whole record"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_record_is_named_and_left_out_and_the_rest_is_shown(tmp_path, what):
    damage, words = DAMAGE[what]
    write(tmp_path, [record(score=0.4), record("local", score=0.5)])
    path = tmp_path / "records" / "r1.json"
    path.write_text(damage(path.read_text(), json.loads(path.read_text())), encoding="latin-1")
    text, lines = write_leaderboard([tmp_path], tmp_path / "out")
    assert len(lines) == 1 and lines[0].startswith(f"left out: {path}") and words in lines[0]
    assert "fnet" in text and "local" not in text


def test_all_files_are_written_and_read_back(tmp_path):
    write(tmp_path, GOLDEN)
    records.write(tmp_path / "bench" / "b.json", record(results=[], inference_speed={"steps_per_second": 9.0}))
    out = tmp_path / "out"
    text, lines = write_leaderboard([tmp_path], out)
    assert lines == []
    assert {f.name for f in out.iterdir()} == {
        "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "cells.csv", "efficiency.csv",
    }  # fmt: skip
    assert (out / "leaderboard.md").read_text() == text
    assert list(pd.read_csv(out / "leaderboard.csv")["model"]) == ["transformer", "local", "fnet", "luna", "bigbird"]
    cells = pd.read_csv(out / "cells.csv")
    assert len(cells) == 9 and {"recipe.train.steps", "data.fingerprint", "key", "test_best", "seed"} <= {*cells}
    assert list(cells["status"]).count("oom") == 1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (selection.Selection(models=("fnett",)), "unknown model 'fnett': did you mean 'fnet'?"),
        (selection.Selection(tasks=("listop",)), "unknown task 'listop': did you mean 'listops'?"),
        (selection.Selection(protocols=("lr",)), "unknown protocol 'lr': did you mean 'lra'?"),
        (selection.Selection(accelerator="tpu"), "no record's accelerator contains 'tpu': CPU"),
        (selection.Selection(sort="speeed"), "--sort: unknown column 'speeed'"),
    ],
)
def test_a_choice_that_fits_nothing_is_told_in_one_line(choice, words):
    with pytest.raises(UsageError, match=r"(?s)^[^\n]*$") as caught:
        selection.check(choice, [record()])
    assert words in str(caught.value)


def test_good_tables_are_not_replaced_by_empty_ones(tmp_path):
    records.write(tmp_path / "records" / "a.json", record())
    write_leaderboard([tmp_path], tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert len(before) >= 5
    (tmp_path / "empty" / "records").mkdir(parents=True)
    assert write_leaderboard([tmp_path / "empty"], tmp_path / "out") == ("", [])
    (tmp_path / "empty" / "records" / "b.json").write_text("{")
    text, lines = write_leaderboard([tmp_path / "empty"], tmp_path / "out")
    assert text == "" and "not a whole record" in lines[0]
    records.write(tmp_path / "records" / "b.json", record("luna", "text"))
    with pytest.raises(UsageError, match="no record fits all of"):
        write_leaderboard([tmp_path], tmp_path / "out", selection.Selection(tasks=("text",), models=("fnet",)))
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_benchmarks_alone_have_a_page_and_no_empty_table(tmp_path):
    records.write(tmp_path / "bench" / "a.json", measurement())
    write_leaderboard([tmp_path], tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"leaderboard.html", "efficiency.csv"}


def test_cells_say_how_far_each_seed_s_model_looks(tmp_path):
    looks = [{"seed": 1, "range_50": 4, "range_90": None, "jacobian": {"at_0": 0.25, "r50": 3, "r90": 9}}, {"seed": []}]
    measured = record("fnet") | {"reach": looks, "cell": record("fnet")["cell"] | {"seeds": [0, 1]}}
    measured["results"] = [result(0.4) | {"seed": seed} for seed in (0, 1)]
    (tmp_path / "cells.csv").write_text(tables.cells_csv([measured, record("local") | {"reach": "nothing"}]))
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert cells["reach.range_50"].fillna(-1).tolist() == [-1, 4, -1] and cells["reach.range_90"].isna().all()
    assert cells["reach.r90"].fillna(-1).tolist() == [-1, 9, -1] and cells["reach.at_0"].max() == 0.25
    assert "reach.r50" not in tables.cells_csv([record("local")])


@pytest.mark.slow
def test_work_grows_no_faster_than_the_number_of_cells(tmp_path):
    """Calls are counted, not timed: they are the same in each run. `tests/benchmarks/leaderboard.py` takes the time."""
    few, many = (_calls_to_write(tmp_path / str(settings), settings) for settings in (5, 20))
    assert many < 4.4 * few and many < 2_000 * 2_500  # 2,000 records of some 2,000 calls each


def _calls_to_write(folder, settings):
    assert grid_of_records(folder / "records", settings) == 100 * settings
    profile = cProfile.Profile()
    text, lines = profile.runcall(write_leaderboard, [folder], folder / "out")
    assert lines == [] and text.count("\n") > 4 * settings
    return pstats.Stats(profile).total_calls
