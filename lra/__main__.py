"""`python -m lra`: the command `lra`, wherever its script is."""

import sys

from lra.cli.main import console

if __name__ == "__main__":
    sys.exit(console())
