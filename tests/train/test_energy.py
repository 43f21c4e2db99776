"""The energy meter against a fake NVML."""

import sys
import types

import pytest

from lra.train.device import EnergyMeter


def fake(monkeypatch, readings, **broken):
    """A pynvml whose counter gives `readings` millijoules in turn; `broken` functions raise."""
    calls = []
    counter = iter(readings)

    def raising(*_):
        raise RuntimeError("no NVML here")

    functions = {
        "nvmlInit": lambda: calls.append("init"),
        "nvmlDeviceGetHandleByIndex": lambda number: calls.append(number) or "board",
        "nvmlDeviceGetHandleByUUID": lambda uuid: calls.append(uuid) or "board",
        "nvmlDeviceGetTotalEnergyConsumption": lambda board: next(counter),
    }
    module = types.SimpleNamespace(**(functions | dict.fromkeys(broken, raising)))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return calls


def test_the_growth_of_the_counter_is_reported_in_joules(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    calls = fake(monkeypatch, [10_000, 73_500])
    meter = EnergyMeter("gpu")
    meter.start()
    assert meter.stop() == 63.5
    assert calls == ["init", 0]


@pytest.mark.parametrize(("visible", "expected"), [("3,1", 3), ("GPU-8f2a", "GPU-8f2a")])
def test_the_board_is_the_first_visible_one(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert fake(monkeypatch, []) is not None and EnergyMeter("gpu").nvml is not None
    calls = fake(monkeypatch, [])
    EnergyMeter("gpu")
    assert calls == ["init", expected]


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetTotalEnergyConsumption"])
def test_an_nvml_that_fails_means_no_figure_and_no_error(monkeypatch, broken):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake(monkeypatch, [1, 2], **{broken: None})
    meter = EnergyMeter("gpu")
    meter.start()
    assert meter.stop() is None


def test_without_a_gpu_or_the_package_there_is_no_figure(monkeypatch):
    calls = fake(monkeypatch, [1, 2])
    meter = EnergyMeter("cpu")
    meter.start()
    assert meter.stop() is None and calls == []
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it now fails
    meter = EnergyMeter("gpu")
    meter.start()
    assert meter.stop() is None
