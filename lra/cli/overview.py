"""What `--help` and `--version` print, whether the program is started as `run.py` or installed as `lra`."""

from __future__ import annotations

import re

import lra
from lra.results import provenance

_VERBS = """\
run          train a grid of cells and print the leaderboard (the default verb)
prepare      prepare the tasks' data and print where it comes from
bench        measure speed and memory alone, without accuracy
status       print which cells of a results folder are done, running, failed or left
retry        run its failed cells again
leaderboard  write the tables, the page and the figures of results folders
calibrate    compare a protocol's scores with published ones, by rank
show         print one cell's record
compare      print two models side by side, with a test of their difference
submit       score predictions that a model elsewhere has made, and record the result
pack         write an archive of records to hand on, which --results takes as a folder
list         tasks | models | protocols
completion   bash | zsh | fish: print what makes a shell complete verbs, flags and names"""


def overview(program: str) -> str:
    """The verbs, each in one line. `program` is what the user types before one: 'lra' or 'python run.py'."""
    return (
        "The Long Range Arena suite: train, measure and compare sequence models.\n\n"
        f"{program} [VERB] [--flag=value ...]\n\n{_VERBS}\n\n"
        f"{program} VERB --help lists a verb's flags; {program} --version tells what is installed."
    )


def summaries() -> dict[str, str]:
    """What each verb does, in a few words."""
    return dict(re.split(" {2,}", line, maxsplit=1) for line in _VERBS.splitlines())


def version() -> str:
    """One line: the suite's version and commit, and the versions of Python and JAX, which is not imported."""
    found = provenance.versions()
    commit = provenance.commit() or "unknown"
    return f"lra-suite {lra.__version__}, commit {commit}, Python {found['python']}, jax {found['jax']}"
