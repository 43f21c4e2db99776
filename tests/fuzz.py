"""Coverage-guided fuzzing of the readers: `python -m tests.fuzz records --seconds=300` (pip install -e '.[fuzz]').

Targets: records, status, tsv, overrides, sweep, predictions, archive (tests/helpers/fuzz_targets.py). An input that
fails is kept in the folder `--corpus` as `crash-…`; `python -m tests.fuzz records FILE` runs it again alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

WATCHED = ["lra", "tasks", "configs", "tests.helpers.fuzz_targets", "csv", "json"]
"""Packages whose branches steer the inputs."""


def main() -> None:
    """Fuzzes one target; exit code 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=["records", "status", "tsv", "overrides", "sweep", "predictions", "archive"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    asked = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("python -m tests.fuzz needs atheris: pip install -e '.[fuzz]'")
    with atheris.instrument_imports(include=WATCHED):
        from tests.helpers import fuzz_targets
    target = fuzz_targets.TARGETS[asked.target]
    if asked.file:
        target(asked.file.read_bytes())
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = asked.corpus or Path(folder)
        corpus.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(fuzz_targets.seeds(asked.target)):
            (corpus / f"seed{number}").write_bytes(data)
        limits = [f"-max_total_time={asked.seconds}", "-timeout=60", "-max_len=16384", "-rss_limit_mb=4096"]
        atheris.Setup(["fuzz", *limits, "-print_final_stats=1", f"-artifact_prefix={corpus}/", str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
