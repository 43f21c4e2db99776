"""Curves for other people's viewers while a cell trains: TensorBoard's event files, and Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lra.errors import UsageError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Flag and the package that it needs."""
NAMES = {
    "loss": "train/loss",
    "validation_accuracy": "validation/accuracy",
    "steps_per_second": "speed/steps_per_second",
}
"""What training tells, and the curve's name."""

Tell = Callable[[dict[str, Any]], None]


def check(flags: dict[str, Any]) -> None:
    """Raises `UsageError` where a flag is set and its package is not installed."""
    for flag, package in PACKAGES.items():
        if flags.get(flag) and find_spec(package) is None:
            raise UsageError(f"--{flag} needs the package {package}: pip install {package}")


class TensorBoard:
    """Writes what it is told to event files in `folder`; steps that an interrupted run had written are replaced."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writer: Any = None

    def __call__(self, told: dict[str, Any]) -> None:
        if "step" not in told:
            return
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=int(told["step"]), flush_secs=10)
        for key, name in NAMES.items():
            if key in told:
                self.writer.add_scalar(name, told[key], int(told["step"]))

    def close(self) -> None:
        """Writes what is still held."""
        if self.writer is not None:
            self.writer.close()


def wandb(project: str, name: str, recipe: dict[str, Any], folder: Path) -> Tell:
    """Logs what it is told as the run `name` of a project; a cell that goes on goes on with its run."""
    import wandb as package

    run = package.init(project=project, name=name, id=name[-10:], resume="allow", config=recipe, dir=str(folder))

    def tell(told: dict[str, Any]) -> None:
        if "step" in told:
            run.log({curve: told[key] for key, curve in NAMES.items() if key in told}, step=int(told["step"]))

    return tell
