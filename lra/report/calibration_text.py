"""A calibration as text: calibration.csv and calibration.md."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lra.report import markdown, selection
from lra.report.calibration import AVERAGE, COUNTED, KINDS, LATER, MIN_MODELS, Agreement, Calibration
from lra.report.correlation import RESAMPLES, Correlation
from lra.report.markdown import format_number

_KIND_NAMES = {"median": "median", "highest": "highest score", "first": "first publication"}
_NOTE = (
    "Published is the median over all publications of the model that were trained from scratch; which those are is in "
    "`lra/report/published.csv`, column `mixer`. In brackets: 95 % percentile bootstrap intervals over models "
    f"({RESAMPLES:,} resamples, always the same ones; resamples in which one side is constant are left out)."
)
_RERUNS_NOTE = (
    "Spearman's ρ over the models that others have run again: their first publication against the median of the later "
    "ones, and ours against each. Where the first is low, no scores can agree well with both.\n"
)


def to_frame(calibration: Calibration) -> pd.DataFrame:
    """calibration.csv: one row per model and task with both scores, and one per model with an average."""
    return pd.DataFrame(
        [
            {
                "model": point.model, "family": point.family, "task": point.task,
                "column": calibration.columns.get(point.task, ""), "ours": point.ours, "seeds": point.seeds,
                **{f"published {kind}": point.published.values.get(kind) for kind in (*KINDS, LATER)},
                "publications": len(point.published.sources) or None, "sources": "; ".join(point.published.sources),
            }
            for point in calibration.points
        ]
    ).astype({"publications": "Int64"})  # fmt: skip


def to_markdown(calibration: Calibration, protocol: str) -> str:
    """calibration.md: the correlations, how they depend on the choice of the published score, and who is left out."""
    metric = selection.METRICS[calibration.metric]
    primary = [a for a in calibration.agreements if a.kind == KINDS[0]]
    others = [a for task in (AVERAGE, *COUNTED) for a in calibration.agreements if a.task == task and a not in primary]
    averaged = calibration.of(AVERAGE)
    unnamed = [point.model for point in averaged if KINDS[-1] not in point.published.values]
    left_out = [f"- {markdown.escape(model)}: {reason}" for model, reason in calibration.left_out.items()]
    lines = [
        f"# Calibration of protocol {markdown.escape(protocol)}\n",
        f"How far our scores ({metric}) rank the models as published scores do.\n",
        _table(calibration, primary, KINDS[:1]),
        f"{_NOTE}\n",
        f"{len(averaged)} models have all five tasks, here and published. {_too_few(primary)}".strip() + "\n",
        *_without(calibration),
        "## Other choices of the published score\n",
        _table(calibration, others, KINDS[1:]),
        *([f"Without a first publication of their own: {', '.join(unnamed)}.\n"] if unnamed else []),
        *_reruns(calibration),
        *(["## Left out of the average\n", *left_out] if left_out else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _too_few(primary: Sequence[Agreement]) -> str:
    tasks = [agreement.task for agreement in primary if agreement.rho is None]
    return (
        f"Fewer than {MIN_MODELS} models have both scores, and so no correlation: {', '.join(tasks)}." if tasks else ""
    )


def _table(calibration: Calibration, agreements: Sequence[Agreement], kinds: Sequence[str]) -> str:
    header = ["task", "ours", *(["published"] if len(kinds) > 1 else []), "models", "Spearman's ρ", "Kendall's τ-b"]
    lines = []
    for each in agreements:
        ours = "mean of five" if each.task == AVERAGE else calibration.columns.get(each.task, "–")
        kind = [_KIND_NAMES[each.kind]] if len(kinds) > 1 else []
        lines.append(
            [each.task, ours, *kind, str(each.count), _correlation_text(each.rho), _correlation_text(each.tau)]
        )
    return markdown.make_table(header, lines)


def _without(calibration: Calibration) -> list[str]:
    if not any(calibration.without.values()):
        return []
    rows = [[task, _correlation_text(rho)] for task, rho in calibration.without.items()]
    return ["## The average without one task\n", markdown.make_table(["without", "Spearman's ρ"], rows)]


def _reruns(calibration: Calibration) -> list[str]:
    if not any(each.published for each in calibration.reruns):
        return []
    header = ["task", "models", "first against later", "ours against first", "ours against later"]
    rows = [
        [each.task, str(each.count), *map(_correlation_text, (each.published, each.ours_first, each.ours_later))]
        for each in calibration.reruns
    ]
    return ["## How far publications agree\n", _RERUNS_NOTE, markdown.make_table(header, rows)]


def _correlation_text(correlation: Correlation | None) -> str:
    """'0.87 [0.71, 0.94]'; a dash where there is none."""
    if correlation is None:
        return "–"
    value, low, high = (format_number(x, "{:.2f}") for x in (correlation.value, correlation.low, correlation.high))
    return value if value == "–" else f"{value} [{low}, {high}]"
