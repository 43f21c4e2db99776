"""Hand-made records for the tests of what reads them."""

from typing import Any


def record(
    model: str = "fnet",
    task: str = "listops",
    score: float | None = 0.5,
    seed: int = 0,
    status: str = "ok",
    length: int = 2000,
    **changes: Any,
) -> dict[str, Any]:
    """A record as the runner writes it; `changes` replace top-level fields."""
    made: dict[str, Any] = {
        "schema": 1,
        "status": status,
        "error": "" if status == "ok" else "it went wrong",
        "key": f"{task}-{model}-{length}-{seed}-{status}-{score}",
        "created": "2026-01-01T00:00:00+00:00",
        "cell": {
            "task": task,
            "model": model,
            "length": length,
            "protocol": "lra",
            "seeds": [seed],
            "accelerator": "CPU",
        },
        "recipe": {"train": {"steps": 100}},
        "overrides": [],
        "data": {
            "source": "generated (seed 0)",
            "fingerprint": "f",
            "task_version": "1",
            "notes": [],
            "majority": {"test": 0.2},
        },
        "commit": "c",
        "command": "python run.py",
        "results": [],
    }
    if status == "ok":
        made["results"] = [
            {"seed": seed, "status": "ok", "best_step": 10, "test_best": score, "test_last": score, "curve": []}
        ]
        made["train_speed"] = {
            "steps_per_second": 2.0 + seed,
            "quartile_1": 1.0,
            "quartile_3": 4.0,
            "blocks": 5,
        }
    return made | changes
