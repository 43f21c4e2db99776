"""`show` and `compare`."""

import pytest

from lra.errors import UsageError
from lra.report import selection, show
from lra.results import records
from tests.helpers.records import record, result


def test_show_prints_results_curves_and_all_that_made_them():
    shown = record(score=0.5, seeds=[0, 1])
    shown["results"] = [result(0.5, 0, points=8), result(None, 1, "diverged") | {"error": "loss is NaN"}]
    text = show.record_text(shown)
    for words in (
        "listops × fnet, length 2,000, protocol lra: ok",
        "seed 0: test 50.00 % at step 400, validation best 50.00 %, test last 50.00 %",
        "validation accuracy  ▁▂▃▄▅▆▇█  0.0625 → 0.5",
        "seed 1: diverged loss is NaN",
        "compiled_bytes     2,000,000,000",
        "recipe.train\n  steps                5,000",
        "command          python run.py run",
    ):
        assert words in text, text


def test_show_tells_why_there_is_no_result():
    text = show.record_text(record(status="oom", log=["line one", "line two"]))
    assert "protocol lra: oom\n  it went wrong" in text and "log\n  line one\n  line two" in text


def test_a_cell_is_found_by_file_by_name_and_by_key(tmp_path):
    for name in ("listops-fnet-abc", "listops-luna-def"):
        records.write(tmp_path / "records" / f"{name}.json", record(key=f"key-of-{name}"))
    assert show.find_record([tmp_path], "fnet")["key"] == "key-of-listops-fnet-abc"
    assert show.find_record([tmp_path], "key-of-listops-luna")["key"] == "key-of-listops-luna-def"
    assert show.find_record([], str(tmp_path / "records" / "listops-luna-def.json"))["key"] == "key-of-listops-luna-def"
    for name, words in (("listops", "fits 2 cells; say which: listops-fnet-abc"), ("listops-fnet-abd", "did you mean")):
        with pytest.raises(UsageError, match=words):
            show.find_record([tmp_path], name)
    with pytest.raises(UsageError, match="no records in"):
        show.find_record([tmp_path / "none"], "x")


def test_compare_is_as_worked_out_by_hand():
    # Welch: difference 4, s² 16 and 1, n 3: error √(17/3) = 2.3805, t 1.6803, df 2.249, p 0.2210.
    cells = [record(score=s, seed=i) for i, s in enumerate((0.40, 0.44, 0.48))]
    cells += [record("luna", score=s, seed=i) for i, s in enumerate((0.39, 0.40, 0.41))]
    cells += [record(m, "text", s, length=4000) for m, s in (("fnet", 0.6), ("luna", 0.5))]
    cells += [record("fnet", "image", 0.4, length=1024), record("luna", "image", status="oom", length=1024)]
    lines = show.comparison_text(cells, "fnet", "luna").splitlines()
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[4:-1]] for line in lines if "@" in line}
    assert cells["listops@2000"] == [
        "44.00 ± 9.94 (3 seeds)", "40.00 ± 2.48 (3 seeds)", "+4.00", "-5.23 to +13.23", "0.221", "no difference shown",
        "1.00", "1.00 (compiled)",
    ]  # fmt: skip
    assert cells["text@4000"][2:6] == ["+10.00", "+6.93 to +13.07", "< 0.001", "fnet ahead"]
    assert cells["image@1024"][1:6] == ["oom", "–", "–", "–", "–"]


def test_compare_never_compares_speed_across_accelerators_nor_protocols():
    cells = [record(score=0.5), record("luna", score=0.4, accelerator="H200")]
    (line,) = [line for line in show.comparison_text(cells, "fnet", "luna").splitlines() if "@" in line]
    assert "CPU / H200" in line and line.endswith("| –             | –            |")
    with pytest.raises(UsageError, match="in common"):
        show.comparison_text([record(), record("luna", protocol="small")], "fnet", "luna")
    with pytest.raises(UsageError, match="did you mean 'luna'"):
        show.comparison_text(cells, "fnet", "lunna")
    with pytest.raises(UsageError, match="unknown model 'luna'"):
        show.comparison_text(cells, "fnet", "luna", selection.Selection(accelerator="cpu"))
