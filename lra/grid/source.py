"""A fingerprint of a mixer's source: of its class, and of everything of its own that the class uses.

The class's names are followed to the statements that define them, through imports of modules that belong to the mixer:
those of its package, and any outside the standard library and installed packages. Comments, docstrings, layout,
definitions that the class does not use, and the names and places of modules do not count, so that moving or renaming a
module leaves the fingerprint as it is. Nothing is imported or run; code that is found only when it runs (`importlib`,
`getattr` on another object than a module, data files) is not followed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

_ALL = "*"
"""Stands for all names of a module."""


def fingerprint(path: str) -> str:
    """The fingerprint of the source of a class, sha-256 in hexadecimal; empty if the source is not found.

    Args:
        path: 'package.module:Class'.
    """
    module, _, name = path.partition(":")
    try:
        reached = _Reached(module.partition(".")[0])
        reached.follow(module, name.partition(".")[0] or _ALL)
    except (SyntaxError, ValueError, OSError, RecursionError):
        return ""
    if not reached.digests:
        return ""
    return hashlib.sha256("".join(sorted(reached.digests)).encode()).hexdigest()


@dataclass
class _Statement:
    """A statement of a module's top level."""

    digest: str
    binds: frozenset[str]
    uses: frozenset[str]
    """Names that it reads."""
    bare: frozenset[str]
    """Those that it reads otherwise than for an attribute of theirs."""
    dotted: frozenset[tuple[str, ...]]
    """Dotted names that it reads, as ('layers', 'dropout')."""
    imports: tuple[_Import, ...]
    """Imports within it, as in a function."""


@dataclass(frozen=True)
class _Import:
    """`from module import name as alias`, or `import module as alias` where `name` is empty."""

    module: str
    name: str
    alias: str
    level: int


@dataclass
class _Module:
    name: str
    package: str
    own: bool
    statements: list[_Statement] = field(default_factory=list)
    imports: dict[str, _Import] = field(default_factory=dict)
    starred: list[_Import] = field(default_factory=list)

    def absolute(self, found: _Import) -> str:
        """The full name of the module that is imported from."""
        if not found.level:
            return found.module
        base = self.package.split(".")[: len(self.package.split(".")) - found.level + 1]
        return ".".join([*base, *filter(None, [found.module])])


class _Reached:
    """The statements that are reached so far; `top` is the mixer's top-level package."""

    def __init__(self, top: str):
        self.top, self.digests = top, set[str]()
        self.modules: dict[str, _Module] = {}
        self.names: set[tuple[str, str]] = set()

    def follow(self, module: str, name: str) -> None:
        """Adds what a name of a module stands for, and everything that it uses."""
        pending = [(module, name)]
        while pending:
            where, what = pending.pop()
            if (where, what) not in self.names:
                self.names.add((where, what))
                pending += self._step(self._module(where), what)

    def _step(self, module: _Module, name: str) -> Iterator[tuple[str, str]]:
        """Adds the statements that bind a name or change what it stands for; yields what they use."""
        if not module.own:
            return
        found = False
        for statement in module.statements:
            changes = not statement.binds and name in statement.uses
            if name == _ALL or name in statement.binds or changes:
                found = True
                self.digests.add(statement.digest)
                yield from self._used(module, statement)
        if name in module.imports:
            yield from self._imported(module, module.imports[name])
        elif not found:
            for starred in module.starred:
                yield module.absolute(starred), name

    def _used(self, module: _Module, statement: _Statement) -> Iterator[tuple[str, str]]:
        imports = module.imports | {found.alias: found for found in statement.imports}
        for name in statement.uses:
            if name not in imports:
                yield module.name, name
            elif name in statement.bare:
                yield from self._imported(module, imports[name])
        for root, *rest in statement.dotted:
            if root in imports:
                yield from self._imported(module, imports[root], *rest)

    def _imported(self, module: _Module, found: _Import, *attributes: str) -> Iterator[tuple[str, str]]:
        """What an imported name, or an attribute of it, stands for."""
        target, names = module.absolute(found), [name for name in (found.name, *attributes) if name]
        while names and self._module(target).own and self._module(f"{target}.{names[0]}").own:
            target = f"{target}.{names.pop(0)}"
        if self._module(target).own:
            yield target, names[0] if names else _ALL
        else:
            self.digests.add(f"{found.alias} = {'.'.join([target, *names])}\n")

    def _module(self, name: str) -> _Module:
        if name not in self.modules:
            self.modules[name] = self._load(name)
        return self.modules[name]

    def _load(self, name: str) -> _Module:
        located = _locate(name)
        if located is None:
            return _Module(name, name, False)
        file, is_package = located
        own = name.partition(".")[0] == self.top or not _is_installed(file)
        module = _Module(name, name if is_package else name.rpartition(".")[0], own)
        if own and file.suffix == ".py":
            stat = file.stat()
            statements, imports = _parse(file, stat.st_mtime_ns, stat.st_size)
            module.statements = statements
            module.imports = {found.alias: found for found in imports if found.name != _ALL}
            module.starred = [found for found in imports if found.name == _ALL]
        elif own and file.is_file():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            module.statements = [_Statement(digest, frozenset([_ALL]), frozenset(), frozenset(), frozenset(), ())]
        return module


def _locate(name: str) -> tuple[Path, bool] | None:
    """A module's file (of a package without `__init__.py`, its folder) and whether it is a package; None without one.

    Parent packages are not imported, as `find_spec` alone would do.
    """
    top, *rest = name.split(".")
    try:
        spec = find_spec(top) if top else None
    except (ValueError, ImportError):
        return None
    done = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        done = f"{done}.{part}"
        spec = PathFinder.find_spec(done, list(spec.submodule_search_locations))
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    if spec.has_location and spec.origin:
        return Path(spec.origin), folders is not None
    return (Path(next(iter(folders))), True) if folders else None


_INSTALLED = tuple(
    {Path(path).resolve() for path in map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")) if path}
)


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to the standard library or an installed package."""
    resolved = file.resolve()
    parts = {"site-packages", "dist-packages"}
    return bool(parts & {*file.parts, *resolved.parts}) or any(map(resolved.is_relative_to, _INSTALLED))


@functools.lru_cache(maxsize=512)
def _parse(file: Path, modified: int, size: int) -> tuple[list[_Statement], list[_Import]]:
    """The statements and imports of a source file's top level; `modified` and `size` tell its versions apart."""
    statements: list[_Statement] = []
    imports: list[_Import] = []
    for node in ast.parse(file.read_bytes(), str(file)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += _imports(node)
        elif not _is_text(node):
            nested = tuple(_nested_imports(node))
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                imports += nested  # as in `try: import …`
            bare, dotted = _names(node)
            uses = bare | {root for root, *_ in dotted}
            statements.append(
                _Statement(
                    _digest(node), frozenset(_bound(node)), frozenset(uses), frozenset(bare), frozenset(dotted), nested
                )
            )
    return statements, imports


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[_Import]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield _Import(node.module or "", alias.name, alias.asname or alias.name, node.level)
        elif alias.asname:
            yield _Import(alias.name, "", alias.asname, 0)
        else:  # `import a.b` binds a, and a.b is reached as an attribute of it
            top = alias.name.partition(".")[0]
            yield _Import(top, "", top, 0)


def _nested_imports(node: ast.AST) -> Iterator[_Import]:
    for part in ast.walk(node):
        if isinstance(part, ast.Import | ast.ImportFrom):
            yield from _imports(part)


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds in its module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name


def _names(node: ast.AST) -> tuple[set[str], set[tuple[str, ...]]]:
    """Names that a statement reads otherwise than for an attribute, and dotted names, each as long as it goes."""
    bare, dotted = set[str](), set[tuple[str, ...]]()
    within: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            within.add(id(part.value))
        if id(part) in within:
            continue
        names: list[str] = []
        while isinstance(part, ast.Attribute):
            names.append(part.attr)
            part = part.value
        if isinstance(part, ast.Name) and names:
            dotted.add((part.id, *reversed(names)))
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            bare.add(part.id)
    return bare, dotted


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a string alone: a docstring, or a comment on an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _digest(node: ast.stmt) -> str:
    return hashlib.sha256("\n".join(_canonical(node)).encode(errors="surrogatepass")).hexdigest()


_IGNORED = {"ctx", "type_comment", "kind"}


def _canonical(value: object) -> Iterable[str]:
    """A syntax tree as lines that are the same in every version of Python, without strings that stand alone."""
    if isinstance(value, ast.JoinedStr):  # some versions add empty strings
        yield from _canonical(
            [part for part in value.values if not (isinstance(part, ast.Constant) and not part.value)]
        )
    elif isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name, part in ast.iter_fields(value):
            if name not in _IGNORED and part is not None and part != []:
                yield name
                yield from _canonical(part)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for part in value:
            if not _is_text(part):
                yield from _canonical(part)
        yield "]"
    else:
        yield f"{type(value).__name__} {value!r}"
