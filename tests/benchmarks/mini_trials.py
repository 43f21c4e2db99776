"""The trials that the mini arena's recipes were tuned by: the same four for one model of each family.

    python -m tests.benchmarks.mini_trials --results=results/mini-trials [--data=data] [--source_dir=raw] [--jobs=2]

Each trial is a frame and a learning rate. It trains on ListOps and Image for a fifth of their steps, and counts by the
mean of its best validation accuracies. Pathfinder, of which nothing is learnt in so few steps, is tried for a quarter
of them with both frames at the higher rate. Finished trials are skipped. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

from configs.mini import STEPS

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "attention": "transformer", "mixing": "fnet", "approximate": "linear_transformer", "state_space": "s4d",
    "moving_average": "mega", "convolution": "sgconv", "recurrent": "hgrn",
}  # fmt: skip
"""The model of each family that is tuned."""
TASKS = ("listops_mini", "image_mini", "pathfinder_mini")
FRAMES, RATES = ("transformer", "state_space"), (2e-3, 5e-3)
SHARE = {"listops_mini": 5, "image_mini": 5, "pathfinder_mini": 4}
"""By what a task's steps are divided."""
LAYERS = {"fnet": 8, "s4d": 4, "mega": 2}
"""Blocks of a model in the frame `state_space` where three are further from the Transformer's size."""


def settings(model: str, frame: str, rate: float, task: str) -> list[str]:
    """A trial's overrides."""
    steps = STEPS[task] // SHARE[task]
    chosen = {"optimizer.learning_rate": rate, "train.steps": steps, "schedule.warmup": steps // 10,
              "train.eval_every": steps // 4}  # fmt: skip
    if frame == "transformer":
        chosen |= {"encoder.layers": 2, "encoder.block": "mlp", "encoder.positions": "learned"}
    else:
        chosen |= {"encoder.layers": LAYERS.get(model, 3), "encoder.block": "glu", "encoder.positions": "none"}
    return [f"--set={name}={value}" for name, value in sorted(chosen.items())]


def main() -> None:
    """Runs the trials that have no record, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--families", default=",".join(MODELS))
    args, more = parser.parse_known_args()
    families = args.families.split(",")
    trials = list(itertools.product(FRAMES, RATES))
    for task, family, (frame, rate) in itertools.product(TASKS, families, trials):
        if task == "pathfinder_mini" and rate != RATES[-1]:
            continue
        command = [sys.executable, ROOT / "run.py", "run", "--protocol=mini", f"--tasks={task}",
                   f"--models={MODELS[family]}", f"--results={args.results}", f"--out={args.results / 'table'}", *more,
                   *settings(MODELS[family], frame, rate, task)]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    scores = read_scores(args.results / "records")
    print(table(scores, families, trials))


def read_scores(folder: Path) -> dict[tuple[str, str, float, str], float]:
    """Best validation accuracies in % by (model, frame, rate, task)."""
    scores = {}
    for file in folder.glob("*.json"):
        record = json.loads(file.read_text())
        recipe, cell = record["recipe"], record["cell"]
        frame = "transformer" if recipe["encoder"]["block"] == "mlp" else "state_space"
        rate = recipe["optimizer"]["learning_rate"]
        if record["status"] in ("ok", "diverged"):
            score = record["results"][0].get("validation_best") if record["status"] == "ok" else 0.0
            scores[cell["model"], frame, rate, cell["task"]] = 100 * score
    return scores


def table(
    scores: dict[tuple[str, str, float, str], float], families: list[str], trials: list[tuple[str, float]]
) -> str:
    """The trials as a Markdown table: ListOps / Image / Pathfinder, the best of a family on each task in bold."""
    heads = [f"{frame}, {rate:g}" for frame, rate in trials]
    lines = [f"| family | model | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(trials)]
    for family in families:
        model, cells = MODELS[family], []
        best = {task: max(scores.get((model, *trial, task), 0.0) for trial in trials) for task in TASKS}
        for trial in trials:
            shown = [(scores.get((model, *trial, task)), best[task]) for task in TASKS]
            parts = ["–" if s is None else f"**{s:.1f}**" if s == top else f"{s:.1f}" for s, top in shown]
            cells.append(" / ".join(parts))
        lines.append(f"| {family} | `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
