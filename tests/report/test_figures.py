"""The figures: what is drawn, that files are there, and that looks differ in colour and in grey."""

import numpy as np
from PIL import Image

from lra.report import figures, leaderboard
from tests.helpers.records import record, result


def make_records():
    records = []
    for j, model in enumerate(("fnet", "transformer", "local")):
        for task, length in (("listops", 2000), ("image", 1024)):
            for seed in range(2):
                cell = record(model, task, 0.3 + 0.1 * j, seed, length=length)
                cell["results"] = [result(0.3 + 0.1 * j, seed, points=6)]
                cell["memory"] = {"device_peak_bytes": (j + 1) * 10**9, "compiled_bytes": 1}
                records.append(cell)
    return records


def test_every_figure_is_written_in_three_formats(tmp_path):
    names = figures.draw_leaderboard(leaderboard.build(make_records()), tmp_path / "plots")
    assert names == ["accuracy_speed-lra-CPU", "curves-lra-CPU"]
    files = list((tmp_path / "plots").iterdir())
    assert {f.name for f in files} == {f"{name}.{ending}" for name in names for ending in ("png", "svg", "pdf")}
    for file in files:
        assert file.stat().st_size > 5_000
        if file.suffix == ".png":
            assert np.asarray(Image.open(file).convert("L")).std() > 5


def test_the_same_board_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        figures.draw_leaderboard(leaderboard.build(make_records()), tmp_path / name)
    for ending in ("png", "svg"):
        first, second = (next((tmp_path / name).glob(f"curves*.{ending}")).read_bytes() for name in ("a", "b"))
        assert first == second


def test_a_disc_s_area_is_the_memory_and_its_place_the_accuracy_and_speed():
    built = leaderboard.build(make_records())
    styles = figures.assign_styles(r.model for r in built.rows)
    figure = figures.draw_accuracy_speed(built.rows, list(built.columns), styles, "heading")
    ax = figure.axes[0]
    discs = {round(c.get_sizes()[0]): c.get_offsets()[0].tolist() for c in ax.collections if c.get_sizes()[0] > 16}
    assert discs == {300: [2.5, 30.0], 600: [2.5, 40.0], 900: [2.5, 50.0]}
    assert ax.get_xlabel() == "training steps per second" and "accelerator's peak memory" in figure._suptitle.get_text()


def test_memory_methods_are_never_mixed():
    records = make_records()
    records[0]["memory"] = records[1]["memory"] = {"device_peak_bytes": None, "compiled_bytes": 5}
    built = leaderboard.build(records)
    styles = figures.assign_styles(r.model for r in built.rows)
    figure = figures.draw_accuracy_speed(built.rows, list(built.columns), styles, "")
    assert "compiled program" in figure._suptitle.get_text()


def test_nothing_to_draw_draws_nothing(tmp_path):
    curveless = record(score=0.5)
    curveless["results"][0]["curve"] = []
    assert figures.draw_leaderboard(leaderboard.build([curveless, record("luna", status="oom")]), tmp_path) == []


def test_a_name_with_dollars_is_no_formula(tmp_path):
    records = [record(m, score=0.5, accelerator="$\\frac{a$") for m in ("$a_b$", "c$\\")]
    assert figures.draw_leaderboard(leaderboard.build(records), tmp_path)
