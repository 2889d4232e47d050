"""One HTML file that shows a run, or several beside each other: curves, probes, quality of masks, pictures of regions.

    python -m tools.report RUN [RUN ...] [--output report.html]

RUN is a run's folder, finished or not, of ORL also the folder of its stages; or an evaluation's, with its results.json. The file
needs nothing beside it and asks no server for anything: open it in a browser, or send it to somebody.

Probes over time come from `python -m tools.probe RUN --history`, the quality of masks from `python -m tools.judge_masks RUN` (for
R2O after `python -m tools.region_maps RUN`).
"""

import argparse
import html
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evaluation.results import read_results, results_table
from tools.report_charts import (
    PROBE_HEAD,
    RUN_HEAD,
    mask_charts,
    metric_charts,
    probe_charts,
    probe_table,
    run_table,
)
from tools.report_data import RunData, compare_configs, read_runs, sort_folders
from tools.report_pictures import read_galleries
from utils.cli import shows_errors
from utils.errors import UserError
from utils.files import atomic_write_bytes

_PAGE = Path(__file__).parent / "report_page"
_NAMES_IN_TITLE = 4
_SECTIONS = (
    "Training",
    "Quality of masks",
    "Probes of frozen features",
    "Evaluations, in %",
    "Schedules",
    "Throughput",
)


def read_report(folders: Sequence[Path]) -> dict[str, Any]:
    """All that a page shows, as JSON takes it.

    Args:
        folders: of runs, of ORL's stages, of evaluations.
    Raises:
        UserError: a folder is none of these, or a file in it is damaged.
    """
    run_folders, evaluations = sort_folders(folders)
    runs = read_runs(run_folders)
    tables = []
    if table := probe_table(runs):
        tables.append(_table("Probes of frozen features", PROBE_HEAD, table))
    if evaluations:
        tables.append(_table("Evaluations, in %", *results_table([*map(read_results, evaluations)])))
    charts = [*metric_charts(runs), *probe_charts(runs), *mask_charts(runs)]
    return {
        "title": _title(runs),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "runs": [{"name": run.name, "config": yaml.safe_dump(run.config, sort_keys=False)} for run in runs],
        "summary": _table("Runs", RUN_HEAD, run_table(runs)),
        "differences": _table("Differences between the configs", ["key", *_names(runs)], compare_configs(runs)),
        "notes": _notes(runs),
        "sections": [
            {
                "title": title,
                "tables": [one for one in tables if one["title"] == title],
                "charts": [one for one in charts if one["section"] == title],
            }
            for title in _SECTIONS
        ],
        "galleries": read_galleries(runs),
    }


def _title(runs: Sequence[RunData]) -> str:
    if len(runs) > _NAMES_IN_TITLE:
        return f"{len(runs)} runs"
    return ", ".join(_names(runs)) or "Evaluations"


def _table(title: str, head: list[str], rows: list[list[str]]) -> dict[str, Any]:
    return {"title": title, "head": head, "rows": rows}


def _names(runs: Sequence[RunData]) -> list[str]:
    return [run.name for run in runs]


def _notes(runs: Sequence[RunData]) -> list[str]:
    return [
        f"{run.name}: {run.damaged} of {run.damaged + len(run.rows)} lines of metrics.jsonl could not be read and are left out: "
        "a kill cuts the last one short"
        for run in runs
        if run.damaged
    ]


def make_page(report: dict[str, Any]) -> str:
    """The HTML of what `read_report` gave; no text in it can end the element that it stands in."""
    data = json.dumps(report, allow_nan=False, separators=(",", ":"))
    parts = {name: (_PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "chart.js", "app.js")}
    parts["data"] = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    parts["title"] = html.escape(report["title"])
    # In one pass: what stands in the data is never taken for a slot.
    page = (_PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: parts[match[1]], page)


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of an evaluation")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the HTML file to write")
    arguments = parser.parse_args(argv)
    report = read_report(arguments.runs)
    page = make_page(report).encode()
    try:
        atomic_write_bytes(arguments.output, page)
    except OSError as error:
        raise UserError(f"--output {arguments.output}: {error.strerror or error}") from error
    strips = [strip for gallery in report["galleries"] for strip in gallery["strips"]]
    shown, all_pictures = sum(len(strip["pictures"]) for strip in strips), sum(strip["of"] for strip in strips)
    print(f"{arguments.output}: {len(page) / 1e6:.1f} MB, {shown} of {all_pictures} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
