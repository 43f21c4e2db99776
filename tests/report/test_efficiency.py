"""efficiency.csv, its table and its figures, from hand-made records."""

import math
from xml.etree import ElementTree

import pandas as pd
import pytest

from lra.report import canvas, efficiency, figures, layout, write
from lra.report.styles import assign_styles
from lra.results import records
from tests.helpers.records import measurement


def rows(frame, **wanted):
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    return frame


def written(tmp_path, measurements):
    for number, measured in enumerate(measurements):
        records.write(tmp_path / "bench" / f"{number}.json", measured)
    text, problems = write.write_efficiency([tmp_path], tmp_path / "out")
    return text, problems, pd.read_csv(tmp_path / "out" / "efficiency.csv")


def test_the_speed_up_is_over_the_transformer_at_the_same_setting():
    measurements = [
        measurement("transformer", speed=2.0),
        measurement("fnet", speed=8.0),
        measurement("fnet", speed=9.0, batch=8),
        measurement("fnet", speed=9.0, length=2048),
        measurement("transformer", length=4096, status="oom"),
        measurement("fnet", speed=1.0, length=4096),
    ]
    frame = efficiency.to_frame(measurements)
    column = "training speed-up vs transformer"
    assert rows(frame, model="transformer", length=1024)[column].item() == 1
    assert rows(frame, model="fnet", length=1024, batch=4)[column].item() == 4
    assert rows(frame, length=1024, model="fnet", batch=4)["inference speed-up vs transformer"].item() == 4
    for lonely in ({"batch": 8}, {"length": 2048}, {"length": 4096}):
        assert rows(frame, **lonely)[column].isna().all()


@pytest.mark.parametrize("field", ["protocol", "accelerator", "task"])
def test_another_protocol_accelerator_or_task_is_no_baseline(field):
    measurements = [measurement("transformer"), measurement("fnet")]
    measurements[0]["cell"][field] = "another"
    assert efficiency.to_frame(measurements)["training speed-up vs transformer"].dropna().tolist() == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"train": {"batch": 4, "precision": "bfloat16"}}},
        {"overrides": ["encoder.layers=1"]},
        {"device": {"used": 2}},
        {"memory_limit_bytes": 2**30},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_precision_or_limit_or_number_of_devices_is_no_baseline(changes):
    frame = efficiency.to_frame([measurement("transformer", **changes), measurement("fnet")])
    assert frame["training speed-up vs transformer"].dropna().tolist() == [1]


def test_every_figure_of_a_record_is_in_its_row(tmp_path):
    measured = measurement(
        mfu=0.25, energy_per_step_joules=3.5, flops_per_step=2e9, flops_compiler=1e9, compile_seconds=4.0,
        parameters=123, memory_limit_bytes=2**30,
    )  # fmt: skip
    _, _, frame = written(tmp_path, [measured, measurement("reformer", status="timeout")])
    row = rows(frame, model="fnet").iloc[0]
    expected = {
        "training steps/s": 8, "training examples/s": 32, "training tokens/s": 32 * 1024, "inference steps/s": 24,
        "inference examples/s": 96, "MFU": 0.25, "energy J/step": 3.5, "FLOPs a step": 2e9,
        "FLOPs a step, compiler": 1e9, "compile s": 4, "compiled bytes": 102_400_000, "host peak bytes": 10**9,
        "parameters": 123, "memory limit bytes": 2**30, "batch": 4, "devices": 1,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert math.isnan(row["device peak bytes"]) and math.isnan(row["max batch"])
    lost = rows(frame, model="reformer").iloc[0]
    assert lost["status"] == "timeout" and lost["error"] == "it went wrong" and math.isnan(lost["training steps/s"])


def test_positions_are_what_mixers_see(tmp_path):
    by_mean, by_cls = measurement("fnet"), measurement("transformer")
    by_mean["recipe"]["encoder"], by_cls["recipe"]["encoder"] = {"pool": "mean"}, {"pool": "cls"}
    text, _, frame = written(tmp_path, [by_mean, by_cls])
    assert dict(zip(frame["model"], frame["positions"] - frame["length"], strict=True)) == {"fnet": 0, "transformer": 1}
    assert "positions" in text.splitlines()[0]


def test_the_table_shows_what_there_is(tmp_path):
    text, problems, _ = written(tmp_path, [measurement("transformer", speed=2.0), measurement("fnet", status="oom")])
    header, _, first, second = text.splitlines()
    assert problems == []
    assert "× transformer" in header and "compiled MB" in header
    assert "MFU" not in header and "J/step" not in header and "device MB" not in header
    assert "oom" in first and "–" in first and "1.00" in second and "102" in second


def test_no_measurements_and_files_that_cannot_be_read_are_told(tmp_path):
    assert efficiency.to_markdown(efficiency.to_frame([])) == "No measurements yet.\n"
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "broken.json").write_text("{")
    text, problems = write.write_efficiency([tmp_path], tmp_path / "out")
    assert text == "" and len(problems) == 1 and not (tmp_path / "out").exists()


def test_a_figure_a_setting_in_three_formats_and_equal_files_for_equal_records(tmp_path):
    measurements = [
        measurement("transformer", 256, 4.0),
        measurement("fnet", 256),
        measurement("fnet", 512, status="oom"),
    ]
    others = [measurement("fnet", 256, batch=64)]
    others += [measurement("fnet", n, batch=b, max_batch=True) for n, b in ((256, 90), (512, 40))]
    written(tmp_path / "all", measurements + others)
    folder = tmp_path / "all" / "out" / "plots"
    stems = {"text-batch_4", "text-batch_64", "text-largest_batch"}
    assert {f.name for f in folder.iterdir()} == {
        f"{stem}-efficiency_quick-float32-CPU.{kind}" for stem in stems for kind in canvas.FORMATS
    }
    written(tmp_path / "some", measurements)
    again = list((tmp_path / "some" / "out" / "plots").iterdir())
    assert len(again) == 3 and all(f.read_bytes() == (folder / f.name).read_bytes() for f in again)
    assert (folder / "text-batch_4-efficiency_quick-float32-CPU.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "text-batch_4-efficiency_quick-float32-CPU.svg").getroot().tag.endswith("svg")


def drawn(measurements):
    """The charts of the one figure of some records, by their title, and the notes under them."""
    frame = efficiency.to_frame(measurements)
    (figure,) = figures.over_length(frame, assign_styles(frame["model"]))
    return {chart.title: chart for chart in figure.charts}, figure.notes


def test_a_line_a_model_with_the_measured_values():
    charts, notes = drawn([measurement(m, n, s) for m, n, s in (
        ("transformer", 256, 4.0), ("transformer", 512, 1.0), ("fnet", 512, 6.0), ("fnet", 256, 8.0))])  # fmt: skip
    lines = {series.name: (series.x, series.y) for series in charts["training steps/s"].series}
    assert lines == {"transformer": ((256, 512), (4, 1)), "fnet": ((256, 512), (8, 6))} and notes == ()
    assert {series.y for series in charts["training speed ÷ Transformer's"].series} == {(1, 1), (2, 6)}
    memory = charts["memory planned by the compiler (GB)"]
    assert [series.y for series in memory.series] == [pytest.approx((0.0256, 0.0512))] * 2
    assert memory.x.log and memory.y.log and memory.x.ticks == (256, 512)
    assert charts["training steps/s"].series[0].told == ("training steps/s", "256: 8", "512: 6")


def test_memory_is_the_device_s_where_there_is_one_and_never_mixed():
    peak = {"device_peak_bytes": 5 * 10**9, "compiled_bytes": 10**9, "host_peak_bytes": 10**9}
    charts, _ = drawn([measurement("fnet", 256, memory=peak), measurement("transformer", 256)])
    assert [(series.name, series.y) for series in charts["device memory, peak (GB)"].series] == [("fnet", (5.0,))]


def test_what_ran_out_of_memory_or_time_is_marked_and_said():
    charts, notes = drawn([
        measurement("fnet", 256), measurement("fnet", 512, status="oom"), measurement("fnet", 1024, status="oom"),
        measurement("luna", 256), measurement("luna", 1024, status="timeout"), measurement("local", 256, status="oom"),
        measurement("hyena", 256), measurement("hyena", 512, status="failed"),
        measurement("s4d", 256, status="failed"), measurement("s4d", 512),
    ])  # fmt: skip
    chart = charts["training steps/s"]
    labels = {series.label: series.failure for series in chart.series}
    assert labels == {
        "fnet (oom at 512)": (512, "oom"), "luna (timeout at 1,024)": (1024, "timeout"),
        "hyena (failed at 512)": (512, "failed"), "s4d": None,
    }  # fmt: skip
    assert {s.name: s.told[1:] for s in chart.series}["s4d"] == ("512: 8", "256: failed")
    assert notes == ("At a line's end: × out of memory, + out of time, Y failed.",
                     "Without a value at any length: local (oom at 256).")  # fmt: skip
    plot = layout.lay_out(chart)
    places = {text: place for place, text in plot["x"]["ticks"]}
    ends = {mark["name"]: mark.get("failure") for mark in plot["marks"]}
    for model, length in (("fnet", "512"), ("luna", "1,024"), ("hyena", "512")):
        assert places["256"] == ends[model][0] < ends[model][2] < places[length]


def test_a_measurement_made_again_after_a_change_replaces_the_earlier_one(tmp_path):
    old = measurement("fnet", 256, 4.0, key="old", created="2026-01-01T00:00:00+00:00")
    new = measurement("fnet", 256, 8.0, key="new", created="2026-01-02T00:00:00+00:00")
    others = [measurement("fnet", 512), measurement("luna", 256), measurement("fnet", 256, batch=8)]
    _, problems, frame = written(tmp_path, [new, old, *others])
    assert problems == ["left out: 1 measurements that were made again later"]
    assert len(frame) == 4 and "old" not in set(frame["key"])


@pytest.mark.parametrize("junk", [1e30, -1e308, 10**40, float("nan")])
def test_a_junk_number_of_bytes_is_none(junk):
    frame = efficiency.to_frame([measurement("fnet") | {"memory": {"compiled_bytes": junk}}])
    assert frame["compiled bytes"].isna().all()


def test_a_junk_length_is_in_no_figure():
    broken = measurement("luna")
    broken["cell"] = broken["cell"] | {"length": 10**30}
    frame = efficiency.to_frame([measurement("fnet"), broken])
    (figure,) = figures.over_length(frame, assign_styles(["fnet", "luna"]))
    assert {series.name for chart in figure.charts for series in chart.series} == {"fnet"}
