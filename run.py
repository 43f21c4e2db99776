"""The Long Range Arena suite: train, measure and compare sequence models.

python run.py [VERB] [--flag=value ...]

run          train a grid of cells and print the leaderboard (the default verb)
prepare      prepare the tasks' data and print where it comes from
bench        measure speed and memory alone, without accuracy
status       print which cells of a results folder are done, running, failed or left
retry        run its failed cells again
leaderboard  write the tables, the page and the figures of results folders
calibrate    compare a protocol's scores with published ones, by rank
show         print one cell's record
compare      print two models side by side, with a test of their difference
list         tasks | models | protocols

python run.py VERB --help lists a verb's flags.
"""

import sys

from lra.cli.main import run_process

if __name__ == "__main__":
    sys.exit(run_process(__doc__))
