"""The models of `held`. Where they are imported, training waits at the step that a `Hold` names."""

from __future__ import annotations

import dataclasses

import models.mixing.ff_only
import models.mixing.fnet
from lra.train.loop import Trainer, TrainResult
from tests.helpers import held


class FNet(models.mixing.fnet.FNet):
    """FNet."""


class FFOnly(models.mixing.ff_only.FeedForwardOnly):
    """No mixing."""


def run(self: Trainer) -> TrainResult:
    stop = self.hooks.stop

    def stop_or_wait() -> str:
        while not (reason := stop()) and held.wait(self.outcome.steps):
            pass
        return reason

    self.hooks = dataclasses.replace(self.hooks, stop=stop_or_wait)
    return run_at_once(self)


run_at_once, Trainer.run = Trainer.run, run  # type: ignore[method-assign]
