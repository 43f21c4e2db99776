"""How long a leaderboard takes: `python -m tests.benchmarks.leaderboard [hundreds of records ...]`.

Made-up records of whole grids. Writing all files, the page among them, is set against parsing the records once, which
is the least that any program would need; both in the processor's time.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from lra.report.write import write_leaderboard
from tests.helpers.records import grid_of_records


def main(settings: list[int]) -> None:
    print("| records | parsing them once (s) | the leaderboard (s) | ratio |\n|---:|---:|---:|---:|")
    for count in settings:
        with tempfile.TemporaryDirectory() as folder:
            records = grid_of_records(Path(folder, "records"), count)
            started = time.process_time()
            for path in Path(folder, "records").iterdir():
                json.loads(path.read_text())
            parsed = time.process_time()
            write_leaderboard([Path(folder)], Path(folder, "out"))
            written = time.process_time() - parsed
            print(f"| {records:,} | {parsed - started:.2f} | {written:.2f} | {written / (parsed - started):.1f} |")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [10, 100])
