"""How much memory reading Retrieval takes: `python -m tests.benchmarks.retrieval [documents]`.

Made-up TSVs with the same documents in more and more pairs. The peak must follow the documents, not the file:
each row is a fresh process, and its memory is what it needs beyond the imports.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BYTES = 20_000
"""Of a document; the benchmark's are of this size."""


def write(folder: Path, documents: int, pairs: int) -> int:
    """The three TSVs, of which train has nearly all pairs. Returns their size in bytes."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(97, 123, BYTES, np.uint8).tobytes() for _ in range(documents)]
    for part, count in (("train", pairs), ("eval", 10), ("test", 10)):
        with open(folder / f"new_aan_pairs.{part}.tsv", "wb") as file:
            for i, (a, b) in enumerate(rng.integers(0, documents, (count, 2))):
                file.write(b"%d.0\tA\tB\t%s\t%s\n" % (i % 2, texts[a], texts[b]))
    return sum(file.stat().st_size for file in folder.iterdir())


def peak() -> int:
    """The most memory this process has had, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def read(folder: str) -> None:
    """Reads a folder and prints bytes: the peak beyond the imports, and the table."""
    from tasks.retrieval import RETRIEVAL
    from tasks.task import BuildRequest

    before = peak()
    arrays = RETRIEVAL.build(BuildRequest(4000, 0, folder, RETRIEVAL.rules, 1, lambda line: None))
    print(peak() - before, arrays.values.nbytes)


def main(documents: int) -> None:
    print(f"{documents:,} documents of {BYTES:,} bytes, cut at 4,000\n")
    print("| pairs | files | unique documents, cut | peak memory |\n|---|---|---|---|")
    for pairs in (documents, 4 * documents, 16 * documents):
        with tempfile.TemporaryDirectory() as folder:
            size = write(Path(folder), documents, pairs)
            command = [sys.executable, "-c", f"from tests.benchmarks.retrieval import read; read({folder!r})"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            memory, table = map(int, done.stdout.split())
            print(
                f"| {pairs:,} | {size / 1e6:,.0f} MB | {table / 1e6:.1f} MB | {memory / 1e6:.1f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
