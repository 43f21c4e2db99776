"""The verbs on tasks, models and protocols: prepare, list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs import PROTOCOLS
from configs.recipe import suggest
from lra.cli.arguments import ListArguments, PrepareArguments
from lra.cli.output import print_line, print_problem
from lra.errors import UsageError, printable
from lra.grid import expand, prepared
from lra.grid.names import find_protocol
from models import FAMILIES, MIXERS
from tasks import TASKS, DataError
from tasks.io.cache import entries
from tasks.io.export import export
from tasks.io.preview import details, preview


def prepare(args: PrepareArguments) -> int:
    """Prepares the data of a grid in the cache, and exports it; reports tasks whose data is unavailable."""
    grid = args.grid
    protocol = find_protocol(grid.protocol)
    plans = expand.make_plans(protocol, grid.tasks, ["transformer"], grid.lengths, grid.seeds, grid.settings)
    done, missing = [], []
    for plan in plans:
        try:
            entry = prepared.prepare_data([plan], args.data, args.sources, print_line)[plan]
            done.append(entry)
            prepared.report_entry(f"{plan.task}, length {plan.length:,}", entry, print_line)
            if args.export:
                print_line(f"  exported to {export(entry, args.export, args.export_format, print_line)}")
        except DataError as error:
            missing.append(str(error) if str(error).startswith(plan.task) else f"{plan.task}: {error}")
    if args.preview:
        for page in preview(done, args.preview):
            print(page)
    for line in missing:
        print_problem("prepare", line)
    return 2 if missing else 0


def known_names() -> dict[str, list[str]]:
    """The names of all tasks, models and protocols."""
    return {"tasks": list(TASKS), "models": list(MIXERS), "protocols": list(PROTOCOLS)}


def list_(args: ListArguments, names: Sequence[str]) -> int:
    """Prints the known tasks, models or protocols."""
    tables = {
        "tasks": {t.name: f"length {t.length:,}, {t.classes} classes: {t.summary}" for t in TASKS.values()},
        "protocols": {p.name: f"{p.summary} (tasks: {', '.join(p.tasks)})" for p in PROTOCOLS.values()},
    }
    known = known_names()
    if len(names) != 1:
        raise UsageError(f"list takes one of {', '.join(known)}")
    if names[0] not in known:
        raise UsageError(suggest("list", names[0], known))
    if names[0] == "models":
        return _list_mixers(args)
    if args.details and names[0] == "tasks":
        return _list_prepared(args)
    table = tables[names[0]]
    width = max(map(len, table))
    for name, text in table.items():
        print(f"{name:{width}}  {text}")
    return 0


def _list_prepared(args: ListArguments) -> int:
    found = entries(args.data)
    for entry in found:
        # Notes may name files of an archive, which anyone may have packed.
        print("\n".join(map(printable, details(entry).split("\n"))), end="\n\n")
    if not found:
        print(f"Nothing is prepared in {args.data}: see `run.py prepare`.")
    return 0


def _list_mixers(args: ListArguments) -> int:
    """Prints the mixers by family; with details, their cards."""
    from lra.launch.process import mixer_details

    cards = {mixer["name"]: mixer for mixer in mixer_details()} if args.details else {}
    width = max(map(len, MIXERS))
    for family, (summary, mixers) in FAMILIES.items():
        print(f"{family}: {summary}", end="\n\n" if cards else "\n")
        for name in mixers:
            if cards:
                _print_card(cards[name])
            else:
                print(f"  {name:{width}}  {MIXERS[name]}")
    return 0


def _print_card(mixer: dict[str, Any]) -> None:
    options = ", ".join(f"{name}={value}" for name, value in mixer["options"].items())
    print(f"{mixer['name']}    options: {options or 'none'}\n    parameters: {mixer['parameters']}\n")
    print("\n".join(f"    {line}".rstrip() for line in mixer["text"].splitlines()), end="\n\n")
