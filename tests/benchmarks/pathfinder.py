"""Pathfinder pictures a second, by size, difficulty and number of processes.

    python -m tests.benchmarks.pathfinder [--seconds=2]

takes 24 times `seconds` and some start-up. Compiling and making the tables, once a process, are not counted.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from tasks.pathfinder.draw import CONTOUR_LENGTH, SIZES, draw, rules

ORIGINAL = {(32, "hard"): 0.30, (128, "hard"): 2.8}  # seconds a picture of drewlinsley/pathfinder, 2-core machine
WORKERS = (1, 2)


def rate(size, difficulty, worker, seconds):
    """Pictures a second of one process that draws for so long."""
    r, chunk, done = rules(size, difficulty), 20, 0
    draw(r, 0, 0, 10)
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        draw(r, 1 + worker, done, chunk)
        done += chunk
    return done / passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each cell of the table")
    seconds = parser.parse_args().seconds
    print("| size | difficulty | " + " | ".join(f"{n} process{'es' * (n > 1)}" for n in WORKERS) + " | the original |")
    print("|---|---|" + "---|" * len(WORKERS) + "---|")
    with ProcessPoolExecutor(max(WORKERS), multiprocessing.get_context("spawn")) as pool:
        for size in SIZES:
            for difficulty in CONTOUR_LENGTH:
                rates = []
                for workers in WORKERS:
                    jobs = [pool.submit(rate, size, difficulty, k, seconds) for k in range(workers)]
                    rates.append(f"{sum(job.result() for job in jobs):,.0f} /s")
                original = ORIGINAL.get((size, difficulty))
                rates.append(f"{1 / original:.1f} /s" if original else "")
                print(f"| {size} | {difficulty} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
