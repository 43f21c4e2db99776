"""Downloads: locked, resumed where they stopped, verified, and never incomplete under their final name."""

from __future__ import annotations

import http.client
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tasks.io.archives import verify
from tasks.io.files import Progress, Report, locked, writing
from tasks.task import Archive, DataError

CONNECT = 4.0
"""Seconds to wait for a server's first answer: without network, `prepare` fails in less than 5."""
STALL = 60.0
"""Seconds without a byte after which a connection is dropped and resumed."""

_silent: set[str] = set()
"""Hosts that did not answer this process; it does not wait for them again."""


class Unreachable(DataError):
    """The server does not answer. The message says why, not what to do: the caller knows other sources."""


def fetch(archive: Archive, folder: Path, allow_unverified: bool, report: Report) -> Path:
    """Downloads the archive into `folder` unless it is already there.

    The bytes go to a hidden file beside it, which the next call resumes; it is verified, synced and renamed.

    Args:
        archive: the file to download.
        folder: where to put it.
        allow_unverified: accept a file that differs from the published one.
        report: receives progress messages.

    Returns:
        The path of the archive.

    Raises:
        Unreachable: the server does not answer, or the connection breaks off without bringing any bytes.
        DataError: the download is not the published file, or the folder cannot be written.
    """
    target = folder / archive.name
    with locked(folder, archive.name, report):
        if target.exists():
            return target
        part = folder / f".{archive.name}.part"
        was_resumed = part.exists()
        _download_all(archive, part, report)
        try:
            _check(archive, part, allow_unverified)
        except DataError:
            part.unlink(missing_ok=True)
            if not was_resumed:
                raise
            # The resumed part may have been damaged: download once more from the start.
            _download_all(archive, part, report)
            try:
                _check(archive, part, allow_unverified)
            except DataError:
                part.unlink(missing_ok=True)
                raise
        with writing(folder):
            os.replace(part, target)
        part.with_suffix(".tag").unlink(missing_ok=True)
    return target


def _check(archive: Archive, part: Path, allow_unverified: bool) -> None:
    if archive.size and not allow_unverified and part.stat().st_size != archive.size:
        raise DataError(
            f"{archive.url} gave {part.stat().st_size:,} bytes and not {archive.size:,}: another file is "
            "there now; take it with --allow_unverified"
        )
    verify(part, archive, allow_unverified)


def _download_all(archive: Archive, part: Path, report: Report) -> None:
    """Appends to `part` until it is complete; a broken connection is resumed as long as each one brings bytes."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _resume(archive.url, part, report):
                return
            error = "the connection broke off"
        except (OSError, http.client.HTTPException) as problem:
            error = str(problem) or type(problem).__name__
        if not part.exists() or part.stat().st_size <= before:
            raise Unreachable(f"{archive.url} could not be downloaded ({error})")
        report(f"{archive.name}: {error}, resuming")


def _resume(url: str, part: Path, report: Report) -> bool:
    """Appends the bytes of one connection to `part`. Returns whether `part` is complete."""
    tag = part.with_suffix(".tag")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "lra-suite"}
    if have and tag.exists():
        # The server sends the remainder only if its file has not changed since.
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    response = _connect(urllib.request.Request(url, headers=headers))
    if response.status == 416:  # nothing follows our bytes, so they are not a beginning of that file
        response.close()
        part.unlink()
        return _resume(url, part, report)
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with writing(part.parent):
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if validator:
                tag.write_text(validator)
            else:
                tag.unlink(missing_ok=True)
            file = open(part, "ab" if have else "wb")  # noqa: SIM115
        progress, started, first = Progress(report), time.monotonic(), have
        with file:
            while block := response.read(1 << 20):
                with writing(part.parent):
                    file.write(block)
                have += len(block)
                progress(lambda: _line(part, have, total, (have - first) / (time.monotonic() - started)))  # noqa: B023
            with writing(part.parent):
                file.flush()
                os.fsync(file.fileno())
    return total is None or have >= total


def _line(part: Path, have: int, total: int | None, speed: float) -> str:
    total_size = f" of {total / 1e6:,.0f} MB ({have / total:.0%})" if total else ""
    return f"{part.stem[1:]}: {have / 1e6:,.0f}{total_size or ' MB'}, {speed / 1e6:.1f} MB/s"


def _connect(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Opens the URL. Raises `Unreachable` after `CONNECT` seconds, even if a name server blocks."""
    host = urllib.parse.urlsplit(request.full_url).netloc
    if host in _silent:
        raise Unreachable(f"{host} does not answer")
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(urllib.request.urlopen(request, timeout=STALL))
        except Exception as error:
            answer.append(error)

    # Name look-up has no timeout, so it runs in a daemon thread, which the process need not wait for.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT)
    if not answer:
        _silent.add(host)
        raise Unreachable(f"{host} gave no answer in {CONNECT:.0f} s")
    if isinstance(answer[0], urllib.error.HTTPError) and answer[0].code != 416:
        with answer[0]:
            raise Unreachable(f"{request.full_url} answers {answer[0].code} {answer[0].reason}")
    if isinstance(answer[0], Exception) and not isinstance(answer[0], urllib.error.HTTPError):
        reason = getattr(answer[0], "reason", answer[0])
        raise Unreachable(f"{host} does not answer ({getattr(reason, 'strerror', None) or reason})")
    response: http.client.HTTPResponse = answer[0]
    return response
