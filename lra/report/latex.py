"""The leaderboard as LaTeX: booktabs tables for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lra.report import published, selection
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Group, Row, Score
from lra.report.stats import Estimate
from lra.report.tables import FOOTNOTE, estimate_text, failures_text, group_title

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "|": r"\textbar{}", "\n": " ", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Escapes text so that LaTeX prints it verbatim; characters that pdfLaTeX cannot print become '?'."""
    return re.sub("[^\x20-\x7e\xa0-\xff]", "?", "".join(_ESCAPES.get(letter, letter) for letter in text))


def to_latex(leaderboard: Leaderboard) -> str:
    r"""leaderboard.tex: one table per group, for \input{leaderboard}."""
    head = "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}; written by `run.py leaderboard`.\n"
    return "\n".join([head, *(_table(group, leaderboard) for group in leaderboard.groups)])


def _table(group: Group, leaderboard: Leaderboard) -> str:
    shown = [
        name for name in ("overrides", "variant", "accelerator") if len({getattr(r, name) for r in group.rows}) > 1
    ]
    # An average's name lists its tasks: they go into the caption.
    short = [name.partition(" (")[0] for name in group.averages]
    header = " & ".join(map(escape, ["#", "model", *shown, *group.columns, *short]))
    same = [getattr(group.rows[0], name) for name in ("overrides", "variant", "accelerator") if name not in shown]
    metric = selection.METRICS[leaderboard.metric]
    caption = [", ".join([group_title(group), *filter(None, same)]), metric, FOOTNOTE.rstrip(".")]
    caption += ["Superscripts: seeds, where there are several"]
    if group.averages:
        caption.append(f"Averages: {'; '.join(group.averages)}")
    notes = {name: published.data_notes(leaderboard.columns[name]) for name in group.columns}
    caption += [f"Data of {name}: {'; '.join(remarks)}" for name, remarks in notes.items() if remarks]
    lines = "\n".join(f"    {_line(row, group, shown)} \\\\" for row in group.rows)
    numbers = len(group.columns) + len(short)
    return (
        "\\begin{table}\n  \\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}\n"
        f"  \\caption{{{escape('. '.join(caption))}.}}\n"
        f"  \\begin{{tabular}}{{r{'l' * (1 + len(shown))}{'r' * numbers}}}\n    \\toprule\n"
        f"    {header} \\\\\n    \\midrule\n{lines}\n    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def _line(row: Row, group: Group, shown: Sequence[str]) -> str:
    cells = ["--" if row.rank is None else str(row.rank), escape(row.model)]
    cells += [escape(getattr(row, name)) for name in shown]
    cells += [_score(row.scores.get(name)) for name in group.columns]
    return " & ".join(cells + [_bold(_estimate(row.averages.get(n)), n in row.best) for n in group.averages])


def _score(score: Score | None) -> str:
    if score is None:
        return "--"
    failures = escape(failures_text(score))
    if score.estimate is None:
        return escape(", ".join(score.failures))
    seeds = f"$^{{{score.estimate.count}}}$" if score.estimate.count > 1 else ""
    return _bold(_estimate(score.estimate), score.best) + seeds + (f" ({failures})" if failures else "")


def _estimate(estimate: Estimate | None) -> str:
    return escape(estimate_text(estimate))


def _bold(text: str, best: bool) -> str:
    return rf"\textbf{{{text}}}" if best else text
