"""Records of results from elsewhere: predictions for our test split, scored by us (`submit`)."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lra.grid.cell import join_name
from lra.results import provenance, records

PROTOCOL = "external"
"""What these records have in a protocol's place: nobody has checked how the models were trained."""
NOT_REPORTED = "not reported"


@dataclass(frozen=True)
class Report:
    """What the submitter says of a run; None: nothing."""

    model: str
    seed: int
    accelerator: str = ""
    parameters: int | None = None
    train_seconds: float | None = None
    steps_per_second: float | None = None
    peak_bytes: int | None = None
    note: str = ""


def make_record(
    report: Report, data: Mapping[str, Any], labels: np.ndarray, classes: np.ndarray, given_as: str
) -> records.Record:
    """The record of a result from elsewhere.

    Args:
        report: what the submitter says of it.
        data: description of the data (`tasks.io.cache.describe`).
        labels: classes of the test split, [N].
        classes: predicted classes, [N].
        given_as: 'classes' or 'logits'.
    """
    settings = data["settings"]
    cell = {
        "task": settings["task"], "model": report.model, "mixer": "", "length": settings["length"],
        "protocol": PROTOCOL, "seeds": [report.seed], "accelerator": report.accelerator or NOT_REPORTED,
    }  # fmt: skip
    identity = {**cell, "version": settings["version"], "fingerprint": data["fingerprint"], "accelerator": ""}
    made: records.Record = {
        "schema": records.SCHEMA,
        "status": "ok",
        "error": "",
        "key": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cell": cell,
        "recipe": {},
        "overrides": [],
        "data": {name: data[name] for name in ("source", "fingerprint", "counts", "majority", "notes")}
        | {"task_version": settings["version"]},
        "evaluated": {"test": len(labels)},
        **provenance.current_origin(),
        "results": [{"seed": report.seed, "status": "ok", "error": "", "test_best": float(np.mean(classes == labels))}],
        "parameters": report.parameters,
        "external": {
            "predictions": hashlib.sha256(classes.astype("<i8").tobytes()).hexdigest(),
            "given_as": given_as,
            "train_seconds": report.train_seconds,
            "note": report.note,
        },
    }
    if report.steps_per_second is not None:
        made["train_speed"] = {"steps_per_second": report.steps_per_second}
    if report.peak_bytes is not None:
        made["memory"] = {"device_peak_bytes": report.peak_bytes}
    return made


def record_path(results: Path, record: records.Record) -> Path:
    """The record's file. The accelerator is no part of its name, as it is none of the key."""
    cell = record["cell"]
    words = [PROTOCOL, cell["task"], cell["model"], f"L{cell['length']}", f"s{cell['seeds'][0]}"]
    return results / records.RESULTS / f"{join_name(words, record['key'])}.json"


def same_claim(one: records.Record, other: records.Record) -> bool:
    """Whether two records say the same, whenever and by whatever command they were submitted."""
    ignored = ("created", "command", "commit")
    return {k: v for k, v in one.items() if k not in ignored} == {k: v for k, v in other.items() if k not in ignored}
