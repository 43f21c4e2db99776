"""The command line of a checkout: `python run.py --help`. Installed, it is `lra`."""

import sys

from lra.cli.main import run_process

if __name__ == "__main__":
    sys.exit(run_process("python run.py"))
