"""Untrusted input runs no code, escapes no folder, and is shown as plain text everywhere."""

import ast
import html
import json
import re
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from lra.cli import arguments, report
from lra.report import canvas, figures, leaderboard, show, tables, write
from lra.report.latex import escape, to_latex
from tests.helpers.cli import ROOT
from tests.helpers.records import measurement, record

FILES = [file for part in ("lra", "tasks", "models", "configs") for file in sorted((ROOT / part).rglob("*.py"))]
FORBIDDEN = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "yaml", "zipfile"}
READ_ZIP = ("tasks/io/archives.py", "lra/results/archive.py")
"""The first writes each file of a zip itself, the second reads records from one: nothing extracts."""

NASTY = "a|b\\|c`<script>alert(1)</script>\n\n# head ![x](http://e/) [y](javascript:z) \x1b[2J\u2028&amp;</td>$\\frac$"


@pytest.mark.parametrize("file", [*FILES, ROOT / "run.py"], ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_unpickles_evaluates_or_extracts(file):
    """Only `--models=module:Class` runs what a user names (models/core/factory.py)."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            allowed = {"zipfile"} if file.relative_to(ROOT).as_posix() in READ_ZIP else set()
            assert not {name.partition(".")[0] for name in names} & FORBIDDEN - allowed
        if isinstance(node, ast.Call):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "os.system", "os.popen")
            assert not called.endswith((".extractall", ".extract")) and "shell" not in words
            if called.endswith("np.load"):
                assert words.get("allow_pickle") == "False"


def nasty(**fields):
    """A record whose every text is hostile."""
    hostile = record(
        NASTY, mixer=NASTY, accelerator=NASTY, overrides=[NASTY], protocol=NASTY, task=f"listops{NASTY}", **fields
    )
    hostile["data"] |= {"notes": [NASTY], "source": NASTY}
    return hostile | {"command": NASTY, "commit": NASTY, "versions": {NASTY: NASTY}, "error": NASTY, "log": [NASTY]}


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setattr("tests.helpers.records.recipe", lambda *arguments: {"train": {"steps": 3}})
    return leaderboard.build([nasty(), nasty(seed=1, status="oom"), record("fnet")])


def test_markdown_shows_text_as_it_stands(built):
    shown = MarkdownIt("commonmark").enable("table").render(tables.to_markdown(built))
    assert not re.search(r"<(?!/?(?:h2|h3|p|table|thead|tbody|tr|th|td|strong|ul|li)\b)", shown)
    rows = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", shown, re.DOTALL)]
    shown_tables = re.findall(r"<table>.*?</table>", shown, re.DOTALL)
    assert len(shown_tables) >= 3 and len({len(row) for row in rows}) <= len(shown_tables)
    text = html.unescape(shown)
    assert "a|b\\|c`<script>alert(1)</script>" in text and "](javascript:z)" in text


def test_latex_escapes_everything(built):
    escaped = escape(NASTY)
    commands = set(re.findall(r"\\[a-zA-Z]+\{\}|\\.", escaped))
    assert commands <= {r"\textbackslash{}", r"\textbar{}", r"\textless{}", r"\textgreater{}", r"\#", r"\&", r"\$"}
    assert "\n" not in escaped and "\x1b" not in escaped
    text = to_latex(built)
    assert escaped in text and "\\frac" not in text and "\x1b" not in text


def test_a_terminal_obeys_no_record(built, tmp_path, capsys):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_text(json.dumps(nasty()))
    (tmp_path / "records" / "b\x1b[2J.json").write_text("{}")
    assert report.leaderboard(arguments.ReportArguments((tmp_path,), out=tmp_path / "out", plots=False)) == 0
    print(show.record_text(nasty()))
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err and "\\x1b[2J" in captured.out and "\\x1b[2J" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_draw_any_name(built, tmp_path):
    for figure in figures.of_leaderboard(built, []):
        canvas.save(figure, tmp_path / "plots")
    assert len(list((tmp_path / "plots").glob("*.svg"))) >= 1
    (tmp_path / "bench").mkdir()
    measured = measurement(NASTY, overrides=[NASTY])
    measured["cell"]["accelerator"] = NASTY
    (tmp_path / "bench" / "a.json").write_text(json.dumps(measured))
    write.write_efficiency([tmp_path], tmp_path / "out")
    drawn = [*(tmp_path / "plots").glob("*.svg"), *(tmp_path / "out" / "plots").glob("*.svg")]
    assert len(drawn) >= 2
    for file in drawn:
        parts = {element.tag.rpartition("}")[2] for element in ElementTree.parse(file).iter()}
        assert "text" in parts and not parts & {"script", "image", "a", "foreignObject"}, file
