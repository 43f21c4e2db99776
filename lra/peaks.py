"""Peak arithmetic of known accelerators, and the share of it that a training reaches."""

from __future__ import annotations

import re

PEAKS: tuple[tuple[str, float | None, float], ...] = (
    (r"V100-SXM", None, 15.7),  # NVIDIA V100 datasheet; no bfloat16, and no TF32
    (r"V100-PCIE", None, 14.0),
    (r"\bT4\b", None, 8.1),  # NVIDIA T4 datasheet
    (r"A100", 312, 156),  # NVIDIA A100 datasheet
    (r"\bA10\b", 125, 62.5),  # NVIDIA A10 datasheet
    (r"\bL4\b", 121, 60),  # NVIDIA L4 datasheet, half of its figures with sparsity
    (r"\bL40S\b", 362, 183),  # NVIDIA L40S datasheet, half of its figures with sparsity
    (r"RTX 3090$", 71, 35.6),  # NVIDIA Ampere GA102 whitepaper, sums in float32
    (r"RTX 4090$", 165.2, 82.6),  # NVIDIA Ada whitepaper, sums in float32
    (r"H[12]00 NVL", 835.5, 417.5),  # NVIDIA H100 and H200 datasheets, half of their figures with sparsity
    (r"H100 PCIe", 756, 378),  # NVIDIA H100 datasheet
    (r"H[12]00", 989.4, 494.7),  # the SXM boards: NVIDIA H100 and H200 datasheets
    (r"\bB200", 2250, 1125),  # NVIDIA HGX B200 datasheet, an eighth of its eight GPUs, without sparsity
    (r"TPU v3", 61.5, 61.5),  # Google Cloud's TPU documentation, as all below: half a chip is a device
    (r"TPU v4$", 275, 275),
    (r"TPU v5 ?(lite|e)", 197, 197),
    (r"TPU v5(p|$)", 459, 459),
    (r"TPU v6 ?(lite|e)", 918, 918),
)
"""Pattern in the device's kind, and its dense peak in bfloat16 and in float32, in 10¹² operations a second.

'float32' is what JAX's default precision makes of it in matrix products: TF32 on NVIDIA GPUs since Ampere, bfloat16
on TPUs. None where the device has no fast path for the type. The first pattern that is found counts.
"""


def peak(kind: str, precision: str) -> float | None:
    """Operations a second that a device of this kind (`device_kind`) can do at most; None where not known."""
    for pattern, half, single in PEAKS:
        if re.search(pattern, kind):
            tera = half if precision == "bfloat16" else single
            return None if tera is None else tera * 1e12
    return None


def mfu(flops: float | None, steps_per_second: float, kind: str, precision: str, devices: int = 1) -> float | None:
    """The share of the devices' peak that training reaches, as a fraction; None where a part of it is not known."""
    most = peak(kind, precision)
    return None if most is None or flops is None else flops * steps_per_second / (most * devices)
