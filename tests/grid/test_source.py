"""The fingerprint of a mixer's source: what changes it, and what does not."""

import sys

import pytest

from lra.grid.source import fingerprint
from models import MIXERS

MIXER = '''
"""A mixer."""
import math
import sys as system
from helpers_of_it.kernels import kernel
from helpers_of_it import tables
import helpers_of_it.scales

def unused(x):
    return 0

WIDTH = 3

class Mix(Base):
    """Its docstring."""

    def __init__(self, dim):
        self.dim = dim  # a comment
        self.scale = helpers_of_it.scales.SCALE

    def __call__(self, x):
        from helpers_of_it.late import shift
        return kernel(x, WIDTH) + tables.TABLE[0] + shift(x) + math.pi
'''
KERNELS = """
from .rules import rule

def kernel(x, w):
    return rule(x) * w

def other():
    return 5
"""
FILES = {
    "mixer_a.py": MIXER.replace("class Mix", "class Base:\n    size = 1\n\nclass Mix"),
    "helpers_of_it/__init__.py": "",
    "helpers_of_it/kernels.py": KERNELS,
    "helpers_of_it/rules.py": "def rule(x):\n    return x\n\nrule.order = 2\n",
    "helpers_of_it/tables.py": "TABLE = [1]\nTABLE[0] = 2\nELSE = 3\n",
    "helpers_of_it/scales.py": "SCALE = 0.5\n",
    "helpers_of_it/late.py": "def shift(x):\n    return x\n",
}  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes FILES with changes, and returns the fingerprint."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name="mixer_a", **changes):
        files = dict(FILES)
        for key, (old, new) in changes.items():
            path = {"mixer": "mixer_a.py"}.get(key, f"helpers_of_it/{key}.py")
            assert old in files[path]
            files[path] = files[path].replace(old, new)
        for path, text in files.items():
            place = tmp_path / path.replace("mixer_a", name)
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        return fingerprint(f"{name}:Mix")

    return write


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": ("self.dim = dim  # a comment", "self.dim = 2 * dim")},
        {"mixer": ("WIDTH = 3", "WIDTH = 4")},
        {"mixer": ("size = 1", "size = 2")},
        {"mixer": ("math.pi", "math.e")},
        {"mixer": ("import math\n", "import cmath as math\n")},
        {"kernels": ("rule(x) * w", "rule(x) + w")},
        {"kernels": ("import rule", "import _rule as rule"), "rules": ("def rule(x)", "def _rule(y)")},
        {"rules": ("return x", "return -x")},
        {"rules": ("rule.order = 2", "rule.order = 3")},
        {"tables": ("TABLE = [1]", "TABLE = [4]")},
        {"tables": ("TABLE[0] = 2", "TABLE[0] = 7")},
        {"scales": ("0.5", "0.25")},
        {"late": ("return x", "return 2 * x")},
    ],
)
def test_code_that_the_mixer_uses_counts(written, changes):
    before = written()
    assert len(before) == 64 and written(**changes) not in ("", before)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": ("self.dim = dim  # a comment", "self.dim = (\n            dim)  # another")},
        {"mixer": ('"""Its docstring."""', '"""Its new docstring."""')},
        {"mixer": ("return 0", "return 1")},
        {"mixer": ("import sys as system\n", "import os\n")},
        {"kernels": ("return 5", "return 6")},
        {"tables": ("ELSE = 3", "ELSE = 4")},
    ],
)
def test_comments_docstrings_layout_and_unused_code_do_not_count(written, changes):
    assert written() == written(**changes)


def test_moving_and_renaming_modules_does_not_count(written):
    before = written()
    assert written(name="renamed_module") == before
    # `rule` moves to the module that uses it.
    moved = {
        "kernels": ("from .rules import rule\n", FILES["helpers_of_it/rules.py"]),
        "rules": ("def rule", "def gone"),
    }
    assert written(**moved) == before


def test_installed_packages_count_by_name_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.syspath_prepend(installed)
    (tmp_path / "user.py").write_text("from thing_installed import f\n\nclass Mix:\n    g = f\n")
    (installed / "thing_installed.py").write_text("def f():\n    return 1\n")
    before = fingerprint("user:Mix")
    (installed / "thing_installed.py").write_text("def f():\n    return 2\n")
    assert fingerprint("user:Mix") == before != ""
    # But a mixer of an installed package is followed within it.
    (installed / "thing_installed.py").write_text("def f():\n    return 2\n\nclass Mix:\n    g = f\n")
    before = fingerprint("thing_installed:Mix")
    (installed / "thing_installed.py").write_text("def f():\n    return 3\n\nclass Mix:\n    g = f\n")
    assert fingerprint("thing_installed:Mix") not in ("", before)


def test_nothing_is_imported_and_what_cannot_be_read_has_no_fingerprint(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack_of_it").mkdir()
    (tmp_path / "pack_of_it" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "pack_of_it" / "mix.py").write_text("class Mix:\n    pass\n")
    assert fingerprint("pack_of_it.mix:Mix") and "pack_of_it" not in sys.modules
    (tmp_path / "pack_of_it" / "broken.py").write_text("class Mix(:\n")
    for path in (
        "pack_of_it.broken:Mix",
        "pack_of_it.none:Mix",
        "no_such_package:Mix",
        "pack_of_it.mix:Other",
        "",
        ":",
    ):
        assert fingerprint(path) == ""


def test_it_is_the_same_in_every_version_of_python(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = """
class Mix:
    def f(self, x: int | None = None, *, y=1.5):
        return f"{x!r:>{y}} a{'b'}", x[1:, ...], -2, b"c"
"""
    (tmp_path / "same_everywhere.py").write_text(text)
    assert fingerprint("same_everywhere:Mix").startswith("fafed176352e")


def test_every_mixer_of_the_zoo_has_one_of_its_own():
    prints = {name: fingerprint(path) for name, path in MIXERS.items()}
    assert all(prints.values()) and len(set(prints.values())) == len(MIXERS)
