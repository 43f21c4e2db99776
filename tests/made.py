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


def measurement(
    model: str = "fnet",
    length: int = 1024,
    speed: float | None = 8.0,
    status: str = "ok",
    batch: int = 4,
    **changes: Any,
) -> dict[str, Any]:
    """A record of `bench` at `speed` training steps a second, or of one that ended with another status."""
    made = record(model, "text", length=length, status="ok") | {
        "status": status,
        "error": "" if status == "ok" else "it went wrong",
        "key": f"{model}-{length}-{batch}-{status}",
        "recipe": {"train": {"batch": batch, "precision": "float32"}},
        "device": {"used": 1},
        "results": [],
        "train_speed": None,
        "memory": {"device_peak_bytes": None, "compiled_bytes": None, "host_peak_bytes": 10**9},
    }
    made["cell"]["protocol"] = "efficiency_quick"
    if status == "ok" and speed is not None:
        for name, rate in (("train_speed", speed), ("inference_speed", 3 * speed)):
            made[name] = {
                "steps_per_second": rate, "quartile_1": 0.9 * rate, "quartile_3": 1.1 * rate, "blocks": 9,
                "examples_per_second": batch * rate, "tokens_per_second": batch * length * rate,
            }  # fmt: skip
        made["memory"]["compiled_bytes"] = 10**5 * length
    return made | changes
