"""The verb that hands results on: pack."""

from __future__ import annotations

from pathlib import Path

from lra.cli.arguments import PackArguments
from lra.cli.report import find_records, print_problems
from lra.errors import UsageError, write_error
from lra.report import selection
from lra.results import archive, load, records
from lra.results.shareable import shareable
from tasks.io.files import write_whole


def pack(args: PackArguments) -> int:
    """Writes one archive of records to hand on: without logs, paths and hosts. `--results` takes it as a folder."""
    _require_free(args.out)
    found, lines = {}, []
    for kind in (records.RESULTS, records.BENCH):
        found[kind], problems = load.load_records(find_records(args.folders), kind)
        lines += problems
    selection.check(args.selection, [record for kind in found.values() for record in kind])
    chosen = {kind: [shareable(r) for r in loaded if args.selection.includes(r)] for kind, loaded in found.items()}
    print_problems("pack", lines)
    if not any(chosen.values()):
        raise UsageError(f"no record to pack: {args.out} is not written")
    content = archive.to_bytes(chosen)
    try:
        write_whole(args.out, content)
    except OSError as error:
        raise write_error(f"--out={args.out}", error) from None
    trained, measured = (len(chosen[kind]) for kind in (records.RESULTS, records.BENCH))
    print(f"{args.out}: records of {trained:,} trained and {measured:,} measured cells, {len(content):,} bytes")
    return 0


def _require_free(out: Path) -> None:
    """Raises `UsageError` if a file would be lost that is no archive of records."""
    if out.exists():
        try:
            archive.require_archive(out)
        except UsageError:
            raise UsageError(f"--out={out} is there already and is no archive of records: give another name") from None
