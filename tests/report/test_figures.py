"""The figures: what each shows of which records, and that its files are there and equal for equal records."""

import numpy as np
import pytest
from PIL import Image

from lra.report import canvas, figures, headline, layout, leaderboard
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


def made(records, benchmarks=()):
    """Every figure by its name."""
    return {figure.name: figure for figure in figures.of_leaderboard(leaderboard.build(records), benchmarks)}


def test_every_figure_is_written_in_three_formats(tmp_path):
    found = made(make_records())
    assert list(found) == ["overview-lra-CPU", "accuracy_speed-lra-CPU", "curves-lra-CPU"]
    names = [canvas.save(figure, tmp_path) for figure in found.values()]
    files = list(tmp_path.iterdir())
    assert {f.name for f in files} == {f"{name}.{ending}" for name in names for ending in ("png", "svg", "pdf")}
    for file in files:
        assert file.stat().st_size > 5_000
        if file.suffix == ".png":
            assert np.asarray(Image.open(file).convert("L")).std() > 5


def test_the_same_board_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        canvas.save(made(make_records())["curves-lra-CPU"], tmp_path / name)
    for ending in ("png", "svg", "pdf"):
        first, second = (next((tmp_path / name).glob(f"curves*.{ending}")).read_bytes() for name in ("a", "b"))
        assert first == second


@pytest.mark.parametrize("name", ["overview-lra-CPU", "accuracy_speed-lra-CPU"])
def test_a_disc_s_area_is_the_memory_and_its_place_the_accuracy_and_speed(name):
    figure = made(make_records())[name]
    discs = {s.name: (s.x, s.y, round(s.area, 3)) for s in figure.charts[0].series}
    assert discs == {
        "fnet": ((2.5,), (pytest.approx(30),), 0.333), "transformer": ((2.5,), (pytest.approx(40),), 0.667),
        "local": ((2.5,), (pytest.approx(50),), 1.0),
    }  # fmt: skip
    radii = {mark["name"]: mark["disc"][2] for mark in layout.lay_out(figure.charts[0])["marks"]}
    assert (radii["fnet"] / radii["local"]) ** 2 == pytest.approx(1 / 3, rel=0.02)
    assert "the accelerator's peak memory, the largest 3 GB" in figure.notes[0]


def test_nothing_written_is_cut_off_at_the_figure_s_edge():
    models = ("transformer", "fnet", "luna", "s4d", "mega_chunk", "hyena", "gla", "lab.mixers:Mine")
    records = [record(m, score=0.3 + i / 20, accelerator="CPU AMD EPYC 9965 192-Core Processor, 2 cores")
               for i, m in enumerate(models)]  # fmt: skip
    for figure in made(records).values():
        drawn = canvas.draw(figure)
        drawn.set_dpi(96)
        width, height = drawn.get_size_inches() * 96
        boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
        assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= width, figure.name
        assert min(box.y0 for box in boxes) >= 0 and max(box.y1 for box in boxes) <= height, figure.name


def test_memory_methods_are_never_mixed():
    records = make_records()
    records[0]["memory"] = records[1]["memory"] = {"device_peak_bytes": None, "compiled_bytes": 5}
    assert "compiled program" in made(records)["accuracy_speed-lra-CPU"].notes[0]


def test_who_points_at_a_disc_is_told_the_exact_numbers():
    # Half of 2,000 examples: ± 2.19 by Wilson's interval, ± 2.19 / √2 for the mean of two tasks.
    (local,) = (s for s in made(make_records())["overview-lra-CPU"].charts[0].series if s.name == "local")
    assert local.told == (
        "50.00 ± 1.55 % (2 seeds)", "2.5 steps/s, measured in training", "3 GB, the accelerator's peak memory",
        "CPU, protocol lra",
    )  # fmt: skip


def test_the_picture_leaves_out_other_accelerators_and_says_so():
    far = record("luna", score=0.9, accelerator="NVIDIA H200")
    other = record("luna", "image", score=0.9, length=1024, accelerator="NVIDIA H200")
    overview = made([*make_records(), far, other])["overview-lra-CPU"]
    assert "luna" not in {series.name for series in overview.charts[0].series}
    assert any("not in the picture: luna" in note for note in overview.notes)


def test_a_free_model_s_disc_is_hollow():
    records = [record(score=0.5), record("local", score=0.4, parameters=10**8)]
    discs = {s.name: s.hollow for s in made(records)["overview-lra-CPU"].charts[0].series}
    assert discs == {"fnet": False, "local": True}


def test_a_curve_is_the_mean_over_seeds_with_their_range():
    records = [record(score=s, seed=i) for i, s in enumerate((0.4, 0.6))]
    (line,) = made(records)["curves-lra-CPU"].charts[0].series
    assert line.x == (50, 100) and line.y == pytest.approx((25, 50))
    assert line.band == (pytest.approx((20, 30)), pytest.approx((40, 60)))


def test_many_curves_are_a_chart_a_family_on_the_same_axes():
    models = ("transformer", "local", "sparse", "bigbird", "longformer", "sinkhorn", "reformer", "fnet", "ff_only",
              "luna", "performer", "s4d", "hyena")  # fmt: skip
    figure = made([record(m, score=0.3 + i / 50) for i, m in enumerate(models)])["curves-lra-CPU"]
    assert [chart.title for chart in figure.charts] == [
        f"listops@2000, {family}" for family in ("attention", "mixing", "approximate", "state space", "convolution")
    ]
    assert len({str(layout.lay_out(chart, (430, 320))["y"]) for chart in figure.charts}) == 1
    assert sum(len(chart.series) for chart in figure.charts) == 13


def test_training_runs_at_several_lengths_are_a_figure_too():
    records = [record("fnet", "text", 0.5, length=n) for n in (1000, 4000)] + [record("luna", "image", length=1024)]
    found = made(records)
    (name,) = (name for name in found if name.startswith("training"))
    assert name == "training-text-batch_32-lra-float32-CPU"
    assert found[name].charts[0].series[0].x == (1000, 4000)


def test_seeds_that_trained_together_and_cells_that_shared_a_device_have_no_speed():
    records = [record("fnet", "text", length=n, sharing=2) for n in (1000, 4000)]
    records += [record("luna", "text", length=n) | {"sharing": 2} for n in (1000, 4000)]
    assert not [name for name in made(records) if not name.startswith(("curves", "overview"))]


def test_nothing_to_draw_draws_nothing():
    curveless = record(score=0.5)
    curveless["results"][0]["curve"] = []
    assert made([curveless, record("luna", status="oom")]) == {}


def test_a_name_with_dollars_is_no_formula(tmp_path):
    records = [record(m, score=0.5, accelerator="$\\frac{a$") for m in ("$a_b$", "c$\\")]
    for figure in made(records).values():
        assert canvas.save(figure, tmp_path)


def test_without_a_speed_the_picture_is_of_memory_and_says_so():
    overview = made([record(m, score=0.5, sharing=2) for m in ("fnet", "luna")])["overview-lra-CPU"]
    assert overview.charts[0].x.label == "memory (GB)" and headline.NO_SPEED in overview.notes
    assert [series.x for series in overview.charts[0].series] == [(2.0,), (2.0,)]


def test_without_speed_and_memory_there_is_no_picture():
    found = made([record(m, score=0.5, train_speed=None, memory=None) for m in ("fnet", "luna")])
    assert list(found) == ["curves-lra-CPU"]
