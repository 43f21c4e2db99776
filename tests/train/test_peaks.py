"""Peaks by the names that JAX gives devices, and MFU."""

import pytest

from lra.train.flops import mfu, peak


@pytest.mark.parametrize(
    ("kind", "half", "single"),
    [
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA A10", 125, 62.5),
        ("NVIDIA A10G", None, None),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA L40S", 362, 183),
        ("NVIDIA L40", None, None),
        ("Tesla T4", None, 8.1),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H200", 989.4, 494.7),
        ("NVIDIA H200 NVL", 835.5, 417.5),
        ("NVIDIA B200", 2250, 1125),
        ("TPU v3", 61.5, 61.5),
        ("TPU v4", 275, 275),
        ("TPU v4 lite", None, None),
        ("TPU v5 lite", 197, 197),
        ("TPU v5e", 197, 197),
        ("TPU v5", 459, 459),
        ("TPU v5p", 459, 459),
        ("TPU v6 lite", 918, 918),
        ("cpu", None, None),
    ],
)
def test_a_device_s_peak(kind, half, single):
    assert peak(kind, "bfloat16") == (None if half is None else pytest.approx(half * 1e12))
    assert peak(kind, "float32") == (None if single is None else pytest.approx(single * 1e12))


def test_mfu_counts_every_device_and_is_none_if_something_is_unknown():
    assert mfu(1e12, 31.2, "NVIDIA A100-SXM4-80GB", "bfloat16") == pytest.approx(0.1)
    assert mfu(1e12, 31.2, "NVIDIA A100-SXM4-80GB", "bfloat16", devices=4) == pytest.approx(0.025)
    assert mfu(1e12, 31.2, "cpu", "float32") is None
    assert mfu(None, 31.2, "NVIDIA A100-SXM4-80GB", "bfloat16") is None
