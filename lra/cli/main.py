"""Runs a command line: finds the verb, reports errors in one line with exit code 2, stops cleanly on signals."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lra.cli import output
from lra.signals import WARNINGS, on_stop


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    define: Callable[[Any], None]
    """Defines its flags."""
    options: Callable[[Any], Any]
    """Turns flag values into the options that `act` takes."""
    act: Callable[..., int]
    """Carries out the verb and returns the exit code. Takes the options and, if `positional`, the other arguments."""
    positional: bool = False


def verbs() -> dict[str, Verb]:
    """All verbs, by name."""
    from lra.cli import completion, data, data_flags, flags, report, report_flags, run, share, submit

    return {
        "run": Verb(flags.define_run, flags.run_arguments, run.run),
        "prepare": Verb(data_flags.define_prepare, data_flags.prepare_arguments, data.prepare),
        "bench": Verb(flags.define_bench, flags.bench_arguments, run.bench),
        "status": Verb(report_flags.define_status, report_flags.status_arguments, report.status),
        "retry": Verb(report_flags.define_retry, report_flags.retry_arguments, run.retry),
        "leaderboard": Verb(report_flags.define_leaderboard, report_flags.leaderboard_arguments, report.leaderboard),
        "calibrate": Verb(report_flags.define_calibrate, report_flags.calibrate_arguments, report.calibrate),
        "show": Verb(report_flags.define_show, report_flags.show_arguments, report.show, positional=True),
        "compare": Verb(report_flags.define_compare, report_flags.compare_arguments, report.compare, positional=True),
        "submit": Verb(data_flags.define_submit, data_flags.submit_arguments, submit.submit),
        "pack": Verb(report_flags.define_pack, report_flags.pack_arguments, share.pack),
        "list": Verb(data_flags.define_list, data_flags.list_arguments, data.list_, positional=True),
        "completion": Verb(completion.define, completion.arguments, completion.completion, positional=True),
    }


def main(arguments: list[str], program: str = "python run.py") -> int:
    """Runs a command line and returns the exit code; `program` is what the user typed before it, as `--help` shows."""
    from absl.flags import Error as FlagError

    from configs.recipe import suggest
    from lra.cli.output import print_problem
    from lra.cli.overview import overview, version
    from lra.cli.parsing import help_text, parse
    from lra.errors import UsageError, one_line
    from tasks.task import DataError

    has_verb = arguments and not arguments[0].startswith("-")
    name, verb_arguments = (arguments[0], arguments[1:]) if has_verb else ("run", arguments)
    try:
        if arguments[:1] in (["--help"], ["-h"], ["help"]):
            print(overview(program))
            return 0
        if arguments[:1] == ["--version"]:
            print(version())
            return 0
        known = verbs()
        if name not in known:
            raise UsageError(suggest("verb", name, known))
        verb = known[name]
        if {"--help", "-h"} & set(verb_arguments):
            print(f"{program} {name}: {inspect.getdoc(verb.act)}\n\n{help_text(verb.define)}".rstrip())
            return 0
        values, positional = parse(verb.define, f"run.py {name}", verb_arguments)
        if positional and not verb.positional:
            raise UsageError(f"{name} takes flags only, not '{positional[0]}'")
        options = verb.options(values)
        return verb.act(options, positional) if verb.positional else verb.act(options)
    except (UsageError, DataError, FlagError) as error:
        print_problem(one_line(name), error)
        return 2
    except OSError as error:  # of the system, such as too many open files
        where = f": {error.filename}" if error.filename else ""
        print_problem(one_line(name), f"{error.strerror or error}{where}")
        return 2


_STOPPED = "\nStopped. Finished cells and checkpoints are kept: the same command goes on from here."


class Interrupt:
    """Raises KeyboardInterrupt on Ctrl-C, SIGTERM and the signals of `lra.signals`, and remembers it.

    A library that is being imported may turn the KeyboardInterrupt into another exception.
    """

    def __init__(self) -> None:
        self.received = False
        on_stop(self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number in WARNINGS and self.received:
            return  # cells are saving
        self.received = True
        raise KeyboardInterrupt


def console() -> int:
    """The installed command `lra`."""
    return run_process("lra")


def run_process(program: str) -> int:
    """Runs this process's command line; returns the exit code, 130 after Ctrl-C or another signal to stop.

    `program` is what the user types before a verb.
    """
    interrupt = Interrupt()
    output.make_tolerant()
    try:
        return main(sys.argv[1:], program)
    except (KeyboardInterrupt, Exception):
        if not interrupt.received:
            raise
        print(_STOPPED, file=sys.stderr)
        return 130
