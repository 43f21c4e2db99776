"""The parent's one look at the device and at the mixers asked for, in a process of its own.

`python -m lra.probe '[["performer", {"features": "64"}], …]'` prints JSON: the device (`lra.device.describe`), and for
each mixer its options with their types, or in `error` the one line that says what is wrong.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from lra import device
from lra.recipe import UsageError, nearest, parse
from models import MIXERS
from models.build import CONTEXT, load, parameters


def hints(mixer: type) -> dict[str, Any]:
    """A mixer's own options and their types; 'int | None' counts as int."""
    found = typing.get_type_hints(mixer.__init__)  # type: ignore[misc]
    return {name: _plain(found.get(name, str)) for name in parameters(mixer) if name not in CONTEXT}


def _plain(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def typed(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The options of one mixer as values of their types. Raises `UsageError`."""
    try:
        known = hints(load(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
    for option in options:
        if option not in known:
            raise UsageError(f"{name}: {nearest('option', option, known)}")
    return {option: parse(text, known[option], f"{name}:{option}") for option, text in options.items()}


def details() -> list[dict[str, Any]]:
    """What `list models --details` shows of each mixer: the paper's line, the equation's cost, its options."""
    rows = []
    for name in MIXERS:
        mixer = load(name)
        defaults = parameters(mixer)
        shown = {option: defaults[option].default for option in hints(mixer)}
        rows.append(
            {"name": name, "text": inspect.getdoc(mixer) or "", "options": {k: str(v) for k, v in shown.items()}}
        )
    return rows


if __name__ == "__main__":
    try:
        if sys.argv[1] == "details":
            answer: dict[str, Any] = {"models": details()}
        else:
            options = [typed(name, asked) for name, asked in json.loads(sys.argv[1])]
            answer = {"options": options, "device": device.describe()}
    except UsageError as wrong:
        answer = {"error": str(wrong)}
    json.dump(answer, sys.stdout)
