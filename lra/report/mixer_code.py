"""Whether records were made by different code of a mixer, or by other code than this checkout's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lra.grid.source import fingerprint
from lra.results.records import Record
from models import class_path, code_versions


def versions(record: Record) -> dict[str, int]:
    """Versions above 1 of the code that made a record; older records, which do not have them, are of version 1."""
    known: dict[str, int] = (record.get("code") or {}).get("versions") or {}
    return known


def differences(seeds: Iterable[tuple[int, Record]]) -> str:
    """Which seeds were made by different code of their mixer, in words; empty if none is known to be."""
    by_code: dict[str, list[int]] = {}
    for seed, record in seeds:
        if made_by := (record.get("code") or {}).get("fingerprint"):
            by_code.setdefault(made_by, []).append(seed)
    if len(by_code) < 2:
        return ""
    parts = [f"{'seeds' if len(same) > 1 else 'seed'} {', '.join(map(str, sorted(same)))}" for same in by_code.values()]
    return f"{' and '.join(parts)} are by different code of the mixer"


def outdated(records: Sequence[Record]) -> list[str]:
    """A line for records that another version of their mixer has made than this checkout's, and one for other code."""
    sources: dict[str, str] = {}
    version, source = Counter[str](), Counter[str]()
    for record in records:
        model = record["cell"]["model"]
        mixer = record["cell"].get("mixer", model)
        if versions(record) != _current_versions(record):
            version[model] += 1
        elif made_by := (record.get("code") or {}).get("fingerprint"):
            if mixer not in sources:
                sources[mixer] = fingerprint(class_path(mixer))
            source[model] += sources[mixer] not in ("", made_by)
    return [
        *_line(version, "by another version of {} code, which gives other numbers: run again"),
        *_line(source, "from before {} mixer's code was changed"),
    ]


def _line(counts: Counter[str], what: str) -> list[str]:
    """'code: 2 records are of fnet …', or '… are …: 2 of fnet, 1 of luna'; none if there is nothing to tell."""
    found = {model: number for model, number in counts.items() if number}
    if len(found) < 2:
        return [f"code: {_count(number)} of {model} {what.format('its')}" for model, number in found.items()]
    models = ", ".join(f"{number} of {model}" for model, number in found.items())
    return [f"code: {_count(sum(found.values()))} {what.format('their')}: {models}"]


def _current_versions(record: Record) -> dict[str, int]:
    mixer = record["cell"].get("mixer", record["cell"]["model"])
    return code_versions(mixer, record["recipe"].get("encoder") or {})


def _count(number: int) -> str:
    return f"{number:,} record{'s are' if number > 1 else ' is'}"
