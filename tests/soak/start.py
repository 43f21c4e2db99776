"""`run.py` as a terminal's foreground starts it: `PYTHONPATH=. python tests/soak/start.py ARGUMENTS`.

It is a script, as `run.py` is: `python -m` would turn some exit codes 130 into an end by SIGINT, since Python notes a
KeyboardInterrupt that has come through C code, even if it was caught, and looks at the note where it ends a module.
Its heartbeats are so quick that the soak sees the step that each cell is at.
"""

import runpy
import signal
from pathlib import Path

from lra.results import lease

if __name__ == "__main__":
    lease.HEARTBEAT_SECONDS = 0.2
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(str(Path(__file__).parents[2] / "run.py"), run_name="__main__")
