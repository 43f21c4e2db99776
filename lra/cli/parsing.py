"""Arguments of a command line to flag values, and flag values to paths and numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from lra.errors import UsageError


def parse(define: Callable[[flags.FlagValues], None], program: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Parses a verb's arguments.

    Args:
        define: defines the verb's flags.
        program: name of the program, for error messages.
        arguments: what follows the verb on the command line.

    Returns:
        The flags' values, and the positional arguments.

    Raises:
        UsageError: a flag of one value is given twice, or an item of a list is empty.
    """
    values = flags.FlagValues()
    define(values)
    positional = values([program, *arguments])[1:]
    for name in values:
        flag = values[name]
        if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
            hint = f": write --{name}=A,B" if isinstance(flag.value, list) else ""
            raise UsageError(f"--{name} is given {flag.present} times, and only one value would count{hint}")
        if isinstance(flag.value, list) and "" in flag.value and not isinstance(flag, flags.MultiFlag):
            raise UsageError(f"--{name}={','.join(flag.value)} has an empty item: is there a comma too many?")
    return values, positional


def help_text(define: Callable[[flags.FlagValues], None]) -> str:
    """Describes the flags and their defaults, for `--help`."""
    values = flags.FlagValues()
    define(values)
    return "\n".join(_help_of(values[name]) for name in sorted(values))


def _help_of(flag: Any) -> str:
    """'  --[no]name: what it does (default: true)', wrapped."""
    default = "" if flag.default in (None, False, "", []) else f"default: {flag.default_as_str.strip(chr(39))}"
    repeated = "can be repeated" if isinstance(flag, flags.MultiFlag) else ""
    notes = "; ".join(filter(None, [flag.parser.syntactic_help, repeated, default]))
    help_line = flag.help.partition(";\n")[0]  # absl says the same behind it, on a line of its own
    line = f"--{'[no]' * flag.boolean}{flag.name}: {help_line}" + (f" ({notes})" if notes else "")
    text: str = flags.text_wrap(line, indent="    ", firstline_indent="  ")
    return text


@dataclass(frozen=True)
class FlagSummary:
    """What a shell needs to know of a flag to complete it."""

    name: str
    text: str
    """The first sentence of its help."""
    switch: bool
    """Whether it is on or off: --name and --noname."""
    several: bool
    """Whether it takes several values, separated by commas."""
    repeated: bool
    """Whether it may be given more than once."""
    choices: tuple[str, ...]
    """All values that it takes; empty if these are not known here."""


def summaries(define: Callable[[flags.FlagValues], None]) -> list[FlagSummary]:
    """Describes the flags that `define` defines, by name."""
    values = flags.FlagValues()
    define(values)
    return [
        FlagSummary(
            name, re.sub("^<.*?>: ", "", flag.help).partition(". ")[0].rstrip("."), bool(flag.boolean),
            isinstance(flag.parser, flags.ListParser), isinstance(flag, flags.MultiFlag),
            tuple(getattr(flag.parser, "enum_values", ())),
        )
        for name in sorted(values) for flag in [values[name]]
    ]  # fmt: skip


def path(text: str) -> Path:
    """The path that a flag names; '~' is expanded, which shells do not do after '='.

    Raises:
        UsageError: '~' stands for no folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no $HOME, or no such user
        raise UsageError(f"'{text}': {error}") from None


def folders(names: Sequence[str]) -> tuple[Path, ...]:
    """The folders and archives in a list of names, of which some may contain commas: the longest that exist.

    Raises:
        UsageError: a name is an address on the web.
    """
    found: list[Path] = []
    start = 0
    while start < len(names):
        candidates = [(end, path(",".join(names[start:end]))) for end in range(len(names), start, -1)]
        end, folder = next((c for c in candidates if os.path.exists(c[1])), candidates[-1])
        if names[start].lower().startswith(("http://", "https://")):
            raise UsageError(f"{names[start]} is an address: fetch it first, then give the file")
        found.append(folder)
        start = end
    return tuple(found)


def integers(name: str, words: Iterable[str]) -> tuple[int, ...]:
    """The whole numbers in a flag's list. Raises `UsageError`."""
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise UsageError(f"--{name} takes whole numbers, not '{','.join(words)}'") from None
