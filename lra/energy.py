"""Energy of an NVIDIA GPU through NVML's counter (Volta and later); None wherever there is none."""

from __future__ import annotations

import contextlib
import os
from typing import Any


class Meter:
    """Energy that the first GPU JAX uses takes from `start` to `stop`, the whole board's.

    Needs the package `nvidia-ml-py`. Whatever fails, the answer is None: a measurement never fails for it.
    """

    def __init__(self, platform: str):
        self.nvml: Any = None
        self.before: int | None = None
        if platform in ("gpu", "cuda"):
            with contextlib.suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self.nvml, self.board = pynvml, _board(pynvml)

    def start(self) -> None:
        """The energy counts from here."""
        self.before = self._millijoules()

    def stop(self) -> float | None:
        """Joules since `start`."""
        after = self._millijoules()
        return None if self.before is None or after is None else (after - self.before) / 1000

    def _millijoules(self) -> int | None:
        if self.nvml is not None:
            with contextlib.suppress(Exception):
                return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.board))
        return None


def _board(nvml: Any) -> Any:
    """NVML's handle of the first visible GPU: $CUDA_VISIBLE_DEVICES names it by number or by UUID."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
