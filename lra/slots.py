"""The parts of a machine that cells run on, one cell a slot. Imports no JAX."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one cell at a time may use; by default the whole machine."""

    cores: tuple[int, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def enter(self) -> None:
        """Binds the calling thread to the slot's cores: the processes that it starts inherit them."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)
