"""Experiment trackers that show curves while a cell trains: TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CURVES = {
    "loss": "train/loss",
    "validation_accuracy": "validation/accuracy",
    "steps_per_second": "speed/steps_per_second",
}
"""Metric and the name of its curve."""

Listener = Callable[[dict[str, Any]], None]


class TensorBoard:
    """Writes metrics to event files in `folder`; on resumption, steps after the checkpoint are replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None

    def __call__(self, metrics: dict[str, Any]) -> None:
        if "step" not in metrics:
            return
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=int(metrics["step"]), flush_secs=10)
        for key, name in CURVES.items():
            if key in metrics:
                self.writer.add_scalar(name, metrics[key], int(metrics["step"]))

    def close(self) -> None:
        """Flushes and closes the event file."""
        if self.writer is not None:
            self.writer.close()


def wandb(project: str, name: str, recipe: dict[str, Any], folder: Path) -> Listener:
    """Starts logging metrics to Weights & Biases; a resumed cell continues its earlier run.

    Args:
        project: the project.
        name: the run's name; its last ten characters are the run's id.
        recipe: shown as the run's configuration.
        folder: where the package keeps its files.
    """
    import wandb as package

    run = package.init(project=project, name=name, id=name[-10:], resume="allow", config=recipe, dir=str(folder))

    def log(metrics: dict[str, Any]) -> None:
        if "step" in metrics:
            curves = {curve: metrics[key] for key, curve in CURVES.items() if key in metrics}
            run.log(curves, step=int(metrics["step"]))

    return log
