"""A disk that loses its cache at a power cut: what a program wrote, and the states that may be found afterwards.

The model promises what POSIX does, and no more:

- A file has the contents of its last fsync. Of what was written since, there may be all, the first half, as many zeros,
  or nothing.
- A folder has the entries of its last fsync. Of each entry that has changed since, any value that it had since may be
  there, whatever has become of the others: renames may be undone, or come before the data, or out of order.

Python's own calls are watched. What a library in C++ writes is seen at the next of them, and its own fsync is not
counted, which is the worse case.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

Tree = dict[str, Any]
"""Names, with bytes for a file and a `Tree` for a folder."""

_CHANGES = ("replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")
_FOLDER = None
"""Placeholder for the contents of a folder."""


class Disk:
    """Watches a folder in a `with` block; what lies in it before is on the disk."""

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()
        self.held: dict[int, int] = {}
        """An open descriptor of each file seen, by its inode: so that no number is given twice."""
        self.entries: dict[int, dict[str, int]] = {}
        self.contents: dict[int, bytes | None] = {}
        self.events: list[tuple[Any, ...]] = []
        self.real = {name: getattr(os, name) for name in (*_CHANGES, "fsync", "open", "close")}
        self._look()
        self.first = ({i: dict(e) for i, e in self.entries.items()}, dict(self.contents))
        self.events.clear()

    def __enter__(self) -> Disk:
        self.patches = [mock.patch.object(os, name, self._changing(self.real[name])) for name in _CHANGES]
        self.patches.append(mock.patch.object(os, "fsync", self._fsync))
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        for patch in self.patches:
            patch.stop()
        self._look()
        for handle in self.held.values():
            self.real["close"](handle)

    def told(self, what: Any) -> None:
        """The program has promised something at this point."""
        with self.lock:
            self._look()
            self.events.append(("told", what))

    def _changing(self, real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            with self.lock:
                self._look()
                result = real(*arguments, **more)
                self._look()
                return result

        return call

    def _fsync(self, handle: int) -> None:
        with self.lock:
            self._look()
            self.real["fsync"](handle)
            self.events.append(("sync", os.fstat(handle).st_ino))

    def _look(self) -> None:
        """Notes what has changed below the root since the last look."""
        seen = [(self.root, self._hold(self.root))]
        while seen:
            folder, inode = seen.pop()
            found = {}
            for entry in self._scan(folder):
                try:
                    below = self._hold(Path(entry.path))
                    if entry.is_dir():
                        seen.append((Path(entry.path), below))
                    else:
                        self._note_contents(below, Path(entry.path).read_bytes())
                except FileNotFoundError:  # by another thread, meanwhile
                    continue
                found[entry.name] = below
            before = self.entries.setdefault(inode, {})
            for name in sorted(before.keys() | found.keys()):
                if before.get(name) != found.get(name):
                    self.events.append(("entry", inode, name, found.get(name)))
            self.entries[inode] = found

    @staticmethod
    def _scan(folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def _hold(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self.held:
            self.held[inode] = self.real["open"](path, os.O_RDONLY)
            self.contents[inode] = _FOLDER if path.is_dir() else b""
            self.events.append(("made", inode, self.contents[inode]))
        return inode

    def _note_contents(self, inode: int, found: bytes) -> None:
        if self.contents[inode] != found:
            self.contents[inode] = found
            self.events.append(("data", inode, found))

    def crashes(self, most: int = 300, seed: int = 0) -> Iterator[tuple[Tree, tuple[Any, ...]]]:
        """Different states after a power cut at any point, with what had been promised by then.

        At each point all of them, or where there are more than `most`, those in which one thing went wrong and some at
        random.
        """
        rng = random.Random(seed)
        known = set()
        state = _State(*self.first)
        told: tuple[Any, ...] = ()
        top = self.root.stat().st_ino
        for event in [*self.events, ("told", "the end")]:
            for choice in state.choices(most, rng):
                tree = state.tree(top, choice)
                if (repr(tree), told) not in known:
                    known.add((repr(tree), told))
                    yield tree, told
            if event[0] == "told":
                told += event[1:]
            else:
                state.take(*event)


class _State:
    """The state that is certainly on the disk, and the states that may be."""

    def __init__(self, entries: dict[int, dict[str, int]], contents: dict[int, bytes | None]):
        self.options: dict[Any, list[Any]] = {}
        """Possible values, newest last: of an entry by (folder, name), of a file's contents by its inode."""
        for folder, names in entries.items():
            self.options |= {(folder, name): [inode] for name, inode in names.items()}
        self.options |= {inode: [content] for inode, content in contents.items()}

    def take(self, kind: str, inode: int, *what: Any) -> None:
        if kind == "made":
            self.options[inode] = [*what]
        elif kind == "entry":
            self.options.setdefault((inode, what[0]), [None]).append(what[1])
        elif kind == "data":
            self.options[inode] += [what[0][: len(what[0]) // 2], bytes(len(what[0])), what[0]]
        elif kind == "sync":
            for place, values in self.options.items():
                if place == inode or (isinstance(place, tuple) and place[0] == inode):
                    del values[:-1]

    def choices(self, most: int, rng: random.Random) -> Iterator[dict[Any, Any]]:
        """A value for each place."""
        several = {place: list(dict.fromkeys(values)) for place, values in self.options.items()}
        open_places = {place: values for place, values in several.items() if len(values) > 1}
        count = 1
        for values in open_places.values():
            count *= len(values)
        sure = {place: values[0] for place, values in several.items()}
        if count <= most:
            for chosen in itertools.product(*open_places.values()):
                yield sure | dict(zip(open_places, chosen, strict=True))
            return
        newest = sure | {place: self.options[place][-1] for place in open_places}
        for base in (sure, newest):
            yield base
            for place, values in open_places.items():
                for value in values:
                    yield base | {place: value}
        for _ in range(most):
            yield sure | {place: rng.choice(values) for place, values in open_places.items()}

    def tree(self, folder: int, choice: dict[Any, Any]) -> Tree:
        made: Tree = {}
        for place, inode in choice.items():
            if isinstance(place, tuple) and place[0] == folder and inode is not None:
                content = choice[inode]
                made[place[1]] = self.tree(inode, choice) if content is _FOLDER else content
        return dict(sorted(made.items()))


def lay(tree: Tree, folder: Path) -> Path:
    """Writes a state into a new folder."""
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            lay(content, folder / name)
        else:
            (folder / name).write_bytes(content)
    return folder
