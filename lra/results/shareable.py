"""Records as they may be handed on: without logs, and without what tells of the machine and its user."""

from __future__ import annotations

import re
from typing import Any

from lra.results.records import Record

_PART = r"[^\s/\\'\"`,;:<>|]"
"""A character of a part of a path that is not quoted: what follows a comma or colon may be another path."""
_QUOTED = r"[^\n/\\'\"`,;:<>|]"
"""A character of a part of a path within quotes, which may have spaces."""

_BEFORE = r"(?<![\w~./%)\]}*+?&-])"
"""What an absolute path does not follow: there a slash divides, as in 'steps/s', or the name is relative."""


def _path(part: str) -> str:
    """A pattern for the beginning of an absolute path, up to its last part."""
    slash = r"[/\\]+"
    way = rf"(?:{part}+{slash})*"
    starts = (
        rf"file:/+(?:[a-z]:/+)?{way}",
        rf"(?<!\w)[a-z]:{slash}{way}",  # C:\
        # \\server\share, which quoting doubles; '\\n\\t' is none.
        rf"(?<![\w\\])(?:\\\\(?!\\){part}+\\(?!\\)|\\{{4}}(?!\\){part}+\\\\){way}",
        rf"{_BEFORE}~(?:[a-z_][\w.-]*)?/+{way}",
        # One letter after a slash is no path but a unit: '3 /s'.
        rf"{_BEFORE}/+(?:{part}+/+{way}|(?={part}{part}))",
    )
    return f"(?:{'|'.join(starts)})(?={part})"


_URL = re.compile(r"\b(?!file:)[a-z][a-z0-9+.-]{1,20}://[^\s'\"`,;<>|]*", re.IGNORECASE)
_ANY_PATH = re.compile(rf"(?P<url>{_URL.pattern})|{_path(_PART)}", re.IGNORECASE)
_PATH_IN_QUOTES = re.compile(rf"(?P<url>{_URL.pattern})|{_path(_QUOTED)}", re.IGNORECASE)
_IN_QUOTES = re.compile(r"(?<!\w)(?:'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`)")
_HOSTS = (
    (re.compile(r"(--?(?:coordinator|ray_address)[= ])[^\s']+"), r"\1HOST"),
    (re.compile(r"\b(process \d+) \([^()]*\)"), r"\1"),  # as a run on several hosts names the one that failed
)


def shareable(record: Record) -> Record:
    """A copy of a record with an empty log, absolute paths cut to their last part, and no names of hosts.

    A path that has spaces and is not in quotes is cut up to the first of them. The key stays.
    """
    cut: Record = _each_text(record)
    return cut | {"key": record["key"]} | ({"log": []} if "log" in record else {})


def _each_text(value: Any) -> Any:
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, dict):
        return {without_paths(name): _each_text(part) for name, part in value.items()}
    return [_each_text(part) for part in value] if isinstance(value, list) else value


def without_paths(text: str) -> str:
    """The text with absolute paths cut to their last part, and without names of hosts.

    Paths are those of POSIX and Windows, with '~' and as file: URLs. Other URLs and relative names stay.
    """
    if not _NEEDED.search(text):
        return text
    for pattern, instead in _HOSTS:
        text = pattern.sub(instead, text)
    text = _IN_QUOTES.sub(lambda quoted: _cut(_PATH_IN_QUOTES, quoted[0]), text)
    return _cut(_ANY_PATH, text)


_NEEDED = re.compile(r"[/\\]|coordinator|ray_address|process \d")


def _cut(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: match["url"] or "", text)
