"""docs/results.md, wholly generated: tables, figures and galleries of the learning benchmark.

    python -m benchmarks.results.page --size cpu [--runs runs/results/cpu] [--docs docs]
    python -m benchmarks.results.page --from_json

The first gathers what a size's runs found into docs/results/SIZE.json, and draws the galleries of their regions. Both make the
page and its figures of what docs/results holds; findings.md there is written by hand, bsds500.json by benchmarks.photographs.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.results import figures, sections
from benchmarks.results.galleries import SHOWN, draw_galleries
from benchmarks.results.manifest import SIZES, chosen_runs, read_manifest
from benchmarks.results.orderings import NOISE
from benchmarks.results.summary import MAIN_METRIC, Row, gather, rows_of, write_results
from utils.cli import shows_errors
from utils.errors import UserError
from utils.files import atomic_write_bytes, read_json

TITLES = {"cpu": "CPU", "gpu": "GPU"}
_WIDTH = 128
_COMMAND = "python -m benchmarks.results.page --from_json"
_INTRODUCTION = f"""\
What each method learns, by one protocol: all see the same generated scenes, as many of them, with the same backbone, augmentation
and batch. Scores are of frozen features, in per cent, the mean over seeds and, from two seeds on, ± the standard deviation over
them (of the sample). Nothing on this page is typed but *What we found*: `make results-cpu` and `make results-gpu` measure,
`{_COMMAND}` makes the page."""
_METRICS = f"""\
*{MAIN_METRIC}*: a linear classifier of each pixel, fitted to halves of the training scenes, the mean of five, judged on
others. *region accuracy*: the class of an object from the mean of its true mask's features. *k-NN top-1*: the class of an
object's crop by its neighbours. *best IoU, K*: features of an image clustered into K, the cluster that fits an object best.
*APbb*, *APmk*: detection, fine-tuned. *s* and *images/s*: of pretraining, of the fastest seed; the seconds are of all that it
does, ORL's first stages and CYBORGS' masks among them. What ORL is judged by has seen as many images as the others, in its last
stage, which begins anew after the first."""
_RULE = """\
*std*, by which differences are measured, is the larger of the two rows' standard deviations over seeds; where one of them has one
seed, the largest of all rows', marked †. Of two or three seeds it is a rough measure. It does not fall with the number of seeds;
the *standard error* of a difference of means does (each row's squared deviation over its seeds, added, and the root of that).
Where a row is above by more than three of these and by less than three std, the table says *the mean*."""
_NOISE = f"*Yes* and *no*: the difference is more than {NOISE} std. Else it is *within noise*."
_FIGURES = {
    "scores": f"{MAIN_METRIC}: object-level blue, image-level orange; the dashed line is the untrained backbone.",
    "learning": "Probes of checkpoints, fitted to fewer scenes than the table's; the band is ± one std. ORL: its last stage.",
    "losses": "Total losses by their first value; losses of different methods do not compare.",
    "regions": "The curriculum: K by epoch, and how well regions fit the truth. Level lines are of masks that stay.",
}


def make_page(docs: Path) -> str:
    """The text of results.md, of what lies in DOCS/results."""
    folder = docs / "results"
    parts = [f"<!-- Made by `{_COMMAND}`: do not edit. -->", "# Does it learn?", _INTRODUCTION]
    if (folder / "findings.md").is_file():
        parts += ["## What we found", (folder / "findings.md").read_text(encoding="utf-8").strip()]
    for size, title in TITLES.items():
        if (folder / f"{size}.json").is_file():
            parts += [f"## {title}", *_size_parts(folder, size)]
        else:
            parts += [
                f"## {title}: not measured",
                f"There is no `docs/results/{size}.json`; `make results-{size}` makes it.",
            ]
    if (folder / "bsds500.json").is_file():
        parts += ["## On real photographs", *_photograph_parts(folder)]
    return "\n\n".join(parts) + "\n"


def _size_parts(folder: Path, size: str) -> list[str]:
    rows = rows_of(read_json(folder / f"{size}.json"))
    parts = [sections.what_was_measured(rows), "### Scores", sections.scores(rows)]
    parts += [_fill(f"{_METRICS} {sections.conditions(rows)}"), *_figure(folder, size, "scores")]
    parts += ["### Does every run learn?", _fill(_RULE), sections.learning(rows), *_figure(folder, size, "learning")]
    if gains := sections.gains(rows):
        parts += ["Above the untrained backbone, in points and in standard deviations:", gains]
    parts += ["### Do the papers' orderings appear?", _NOISE, sections.rankings(rows), "### Regions by epoch"]
    parts += [sections.region_quality(rows) or "No run has regions that were judged."]
    parts += [*_figure(folder, size, "regions"), *_gallery_parts(folder, size, rows)]
    parts += ["### Losses", *(_figure(folder, size, "losses") or ["No run has noted losses."])]
    return [*parts, "### What was run", sections.what_was_run(rows)]


def _figure(folder: Path, size: str, name: str) -> list[str]:
    """A figure that is there, with its caption."""
    file = f"{size}_{name}.png"
    return [f"![{name}](results/{file})", _FIGURES[name]] if (folder / file).is_file() else []


def _gallery_parts(folder: Path, size: str, rows: Mapping[str, Row]) -> list[str]:
    noted = folder / f"{size}_galleries.json"
    entries = read_json(noted) if noted.is_file() else []
    parts = []
    for name in SHOWN:
        title = rows[name].title if name in rows else name
        own = [entry for entry in entries if entry["run"] == name]
        if not own:
            parts.append(f"No gallery of {title}: no label maps of its epochs were there.")
        for entry in own:
            parts += [_fill(_gallery_caption(title, entry)), f"![{title}, {entry['kind']}](results/{entry['file']})"]
    return parts


def _gallery_caption(title: str, entry: Mapping[str, Any]) -> str:
    fits = [scene["best IoU"] for scene in entry["scenes"]]
    if entry["kind"] == "worst":
        which = f"failures: of {entry['of']:,} scenes the {len(fits)} whose objects the last regions fit worst"
    else:
        which = f"{len(fits)} scenes, evenly chosen of {entry['of']:,}"
    columns = ", ".join(f"`{column}`" for column in entry["columns"])
    return (
        f"{title}, seed {entry['seed']}, {which} (best IoU {', '.join(f'{fit:.2f}' for fit in fits)}, from above). Columns: the "
        f"photo, {columns}, the truth; the number is of regions, and a region keeps its colour."
    )


def _photograph_parts(folder: Path) -> list[str]:
    entries = read_json(folder / "bsds500.json")
    parts = ["Regions beside what people drew in the photographs of BSDS500.", sections.photographs(entries)]
    if (folder / "photographs.png").is_file():
        parts.append("![agreement with people by epoch](results/photographs.png)")
    return [*parts, *(f"![{path.stem}](results/{path.name})" for path in sorted(folder.glob("bsds500_*.png")))]


def _fill(text: str) -> str:
    return fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)


def draw_figures(folder: Path) -> None:
    """Draw every size's figures, and that of the photographs, beside the JSON files that they show."""
    for size in TITLES:
        if (folder / f"{size}.json").is_file():
            rows = rows_of(read_json(folder / f"{size}.json"))
            for name, draw in figures.FIGURES.items():
                figures.save(draw(rows), folder / f"{size}_{name}.png")
    if (folder / "bsds500.json").is_file():
        figures.save(figures.photograph_curves(read_json(folder / "bsds500.json")), folder / "photographs.png")


@shows_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="gather this size's runs first")
    parser.add_argument("--runs", type=Path, help="their folder, by default runs/results/SIZE")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of results.md and results/")
    parser.add_argument("--from_json", action="store_true", help="gather nothing, leave galleries as they are")
    arguments = parser.parse_args(argv)
    folder = arguments.docs / "results"
    if (arguments.size is None) != arguments.from_json:
        raise UserError("give either --size, whose runs are gathered, or --from_json")
    if arguments.size:
        runs = arguments.runs or Path("runs/results") / arguments.size
        manifest = read_manifest(arguments.size)
        wanted = set(chosen_runs(manifest, None))
        results = [one for one in gather(runs, list(manifest.runs)) if (one["name"], one["seed"]) in wanted]
        write_results(folder / f"{arguments.size}.json", results)
        draw_galleries(runs, folder, arguments.size)
    # matplotlib would log that it looks for fonts.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    draw_figures(folder)
    page = arguments.docs / "results.md"
    atomic_write_bytes(page, make_page(arguments.docs).encode())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
