"""Parts of docs/results.md: tables and generated sentences, made of the tracked JSON alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.results.orderings import CLEARLY, FAMILIES, Judged, Ordering, judge, learned, not_run
from benchmarks.results.summary import MAIN_METRIC, UNTRAINED, Difference, Row, difference, made_regions, metric_names

_NONE = "–"
_QUALITIES = ("best IoU", "ARI", "boundary F", "labels")


def table(header: Sequence[str], lines: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """Markdown; the first column to the left, the others to the right but where they are words."""
    rule = ["---", *["---" if words else "---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


def what_was_measured(rows: Mapping[str, Row]) -> str:
    """Hardware, dates, versions, seeds, and what is absent."""
    results = [one for row in rows.values() for one in row.results]
    days = sorted({one["date"] for one in results})
    seeds = sorted({len(row.results) for row in rows.values()})
    images = sorted({one["images"] for one in results if one["images"] and one["group"] != "reference"})
    versions = {f"{name} {version}" for one in results for name, version in one["versions"].items()}
    lines = [
        f"* Runs: {len(rows)}, of {_range(seeds)} seed{'s' if seeds[-1] > 1 else ''} each, {len(results)} in all; "
        f"images seen in pretraining: {_range(images) if images else _NONE}.",
        f"* Hardware: {'; '.join(sorted({_machine(one['hardware']) for one in results}))}.",
        f"* Date: {' to '.join(dict.fromkeys((days[0], days[-1])))}. Versions: {', '.join(sorted(versions))}.",
    ]
    if absent := not_run(rows):
        lines.append(f"* Not run at this size: {', '.join(f'`{name}`' for name in absent)}.")
    return "\n".join(lines)


def _machine(hardware: Mapping[str, Any]) -> str:
    name = f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
    return f"{hardware['gpu']} ({name})" if hardware.get("gpu") else name


def _range(numbers: Sequence[int]) -> str:
    first, last = f"{numbers[0]:,}", f"{numbers[-1]:,}"
    return first if first == last else f"{first} to {last}"


def scores(rows: Mapping[str, Row]) -> str:
    """Every run: its metrics, and what its pretraining cost."""
    metrics = metric_names(rows.values())
    lines = []
    for row in rows.values():
        cells = [_score(row, metric) for metric in metrics]
        lines.append([row.title, str(len(row.results)), *cells, _cost(row, "seconds"), _cost(row, "images_per_second")])
    return table(["run", "seeds", *metrics, "s", "images/s"], lines)


def _score(row: Row, metric: str) -> str:
    """Per cent, with the standard deviation where seeds tell it, and the number of seeds where not all have it."""
    values, std = row.values(metric), row.std(metric)
    if not values:
        return _NONE
    text = f"{100 * mean(values):.1f}" + ("" if std is None else f" ± {100 * std:.1f}")
    return text if len(values) == len(row.results) else f"{text} (n = {len(values)})"


def _cost(row: Row, key: str) -> str:
    # Of the seed that was least disturbed by what else the machine had to do.
    fastest = min((one["cost"] for one in row.results if one["cost"]), key=lambda cost: cost["seconds"], default={})
    return f"{fastest[key]:,.0f}" if fastest.get(key) is not None else _NONE


def conditions(rows: Mapping[str, Row]) -> str:
    """How many runs shared the machine while they were timed."""
    found = {
        (one["cost"]["at_once"], one["cost"]["threads"]) for row in rows.values() for one in row.results if one["cost"]
    }
    texts = [f"{runs} at a time, {threads} thread{'s' if threads > 1 else ''} each" for runs, threads in sorted(found)]
    return f"Runs were timed {'; or '.join(texts)}." if texts else ""


def gains(rows: Mapping[str, Row]) -> str:
    """Every run less the untrained backbone, in each metric; empty where that was not measured."""
    if UNTRAINED not in rows:
        return ""
    metrics = metric_names(rows.values())
    lines = [
        [row.title, *(_gain(difference(row, rows[UNTRAINED], metric, rows.values())) for metric in metrics)]
        for row in rows.values()
        if row.name != UNTRAINED
    ]
    return table(["run", *metrics], lines)


def _gain(found: Difference | None) -> str:
    return _NONE if found is None else f"{100 * found.gain:+.1f}{_deviations(found, '; {}')}"


def _deviations(found: Difference, form: str) -> str:
    """In standard deviations, marked where they are of other rows; empty where there are none."""
    if found.deviations is None:
        return ""
    size = abs(found.deviations)
    sign = "-" if found.deviations < 0 else "+"
    text = f"over {sign}99" if size > 99 else f"{sign}{size:.{1 if size < 10 else 0}f}"
    return form.format(f"{text} std{'' if found.is_own else '†'}")


def learning(rows: Mapping[str, Row]) -> str:
    """Whether each run beats the untrained backbone clearly; empty where that was not measured."""
    found = learned(rows)
    if not found:
        return f"No row `{UNTRAINED}`: nothing to compare with."
    failed = [one.row.title for one in found if one.verdict == "FAILED"]
    lines = []
    for one in found:
        verdict = f"**{one.verdict}**" if one.verdict == "FAILED" else one.verdict
        if one.verdict == "the mean":
            verdict += f", by {one.difference.errors:.1f} standard errors"
        spread = [f"{value:.2f}" if value is not None else _NONE for value in _feature_spread(one.row)]
        lines.append(
            [one.row.title, _score(one.row, MAIN_METRIC), _gain(one.difference), verdict, " → ".join(spread) or _NONE]
        )
    summary = (
        f"**FAILED: {', '.join(failed)}.** {len(found) - len(failed)} of {len(found)} runs are above it."
        if failed
        else f"All {len(found)} runs are above it."
    )
    if means := [one.row.title for one in found if one.verdict == "the mean"]:
        summary += (
            f" Of {', '.join(means)} it is the mean that is clearly above: seeds differ too much for the other rule."
        )
    header = ["run", MAIN_METRIC, "above untrained", f"by more than {CLEARLY} std", "feature spread, first → last"]
    untrained = _score(rows[UNTRAINED], MAIN_METRIC)
    return f"The untrained backbone has {untrained}. {summary}\n\n{table(header, lines)}"


def _feature_spread(row: Row) -> list[float | None]:
    """Of the first and of the last checkpoint, the mean over seeds."""
    histories = [one["history"] for one in row.results if one["history"]]
    found = [[history[place].get("feature spread") for history in histories] for place in (0, -1)]
    return [mean(values) if values and None not in values else None for values in found] if histories else []


def rankings(rows: Mapping[str, Row]) -> str:
    """Each family of orderings: a sentence of what came out, and a table of each ordering in each metric."""
    metrics = metric_names(rows.values())
    parts = []
    for title, orderings in FAMILIES.items():
        judged = {one: {metric: judge(one, metric, rows) for metric in metrics} for one in orderings}
        judged = {one: found for one, found in judged.items() if any(found.values())}
        if not judged:
            parts.append(f"**{title}**: not measured.")
            continue
        main = [found[MAIN_METRIC] for found in judged.values() if found.get(MAIN_METRIC)]
        lines = [
            [_claim(one, rows), *(_judged(found[metric], named=len(one.others) > 1) for metric in metrics)]
            for one, found in judged.items()
        ]
        lines = table(["ordering", *metrics], lines, words=True)
        parts.append(f"**{title}**: {_count(main, len(orderings))}\n\n{lines}")
    return "\n\n".join(parts)


def _claim(ordering: Ordering, rows: Mapping[str, Row]) -> str:
    others = "the best of the others" if len(ordering.others) > 1 else rows[ordering.others[0]].title
    return f"{rows[ordering.first].title} above {others}"


def _judged(found: Judged | None, *, named: bool) -> str:
    """The verdict and its figures; of several others the best one's title too."""
    if found is None:
        return _NONE
    verdict = f"**{found.verdict}**" if found.verdict in ("no", "lower") else found.verdict
    first, second = (f"{100 * value:.1f}" for value in found.means)
    other = f" ({found.best})" if named else ""
    return f"{verdict}: {first} against {second}{other}{_deviations(found.difference, ', {}')}"


def _count(found: Sequence[Judged], wanted: int) -> str:
    verdicts = [one.verdict for one in found]
    counts = [f"{verdicts.count(name)} {name}" for name in dict.fromkeys(("yes", "within noise", "no", *verdicts))]
    counts = [text for text in counts if not text.startswith("0 ")]
    lacking = f", {wanted - len(found)} not measured" if len(found) < wanted else ""
    return f"in {MAIN_METRIC} {', '.join(counts) or 'none measured'}{lacking}."


def region_quality(rows: Mapping[str, Row]) -> str:
    """The regions of each run at its first and last epoch; empty where no run has any."""
    lines = []
    for row in rows.values():
        entries = [made_regions(one) for one in row.results if one["regions"]]
        if not entries:
            continue
        ends = (0, -1) if any(len(one) > 1 for one in entries) else (0,)
        cells = [
            " → ".join(_quality([one[end].get(quality) for one in entries], quality) for end in ends)
            for quality in _QUALITIES
        ]
        epochs = f"{entries[0][0]['epoch']} → {entries[0][-1]['epoch']}" if len(ends) > 1 else "constant"
        lines.append([row.title, epochs, *cells])
    return table(["run", "epoch", *_QUALITIES], lines) if lines else ""


def _quality(values: Sequence[float | None], name: str) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.{1 if name == 'labels' else 3}f}" if known else _NONE


def what_was_run(rows: Mapping[str, Row]) -> str:
    """Each run's program, config and own settings; those that all methods share are said once."""
    firsts = {name: row.results[0] for name, row in rows.items()}
    settings = {
        name: {f"`{key}={json.dumps(value)}`": None for key, value in one["settings"].items() if key != "seed"}
        for name, one in firsts.items()
    }
    methods = [settings[name].keys() for name, one in firsts.items() if one["group"] != "reference"]
    shared = [text for text in methods[0] if all(text in keys for keys in methods)] if methods else []
    lines = []
    for name, one in firsts.items():
        own = ", ".join(text for text in settings[name] if text not in shared)
        config = f"`{one['config']}`" if one["config"] and name != UNTRAINED else _NONE
        lines.append([one["title"], f"`{one['program']}`", config, own or _NONE])
    common = f"All methods have {', '.join(shared)}.\n\n" if shared else ""
    return common + table(["run", "program", "config", "own settings"], lines, words=True)


def photographs(entries: Sequence[Mapping[str, Any]]) -> str:
    """The regions of photographs beside what people drew, a line for each kind of masks."""
    lines = []
    for one in entries:
        shares = (_NONE if one[key] is None else f"{one[key]:.3f}" for key in ("best_iou", "boundary_f", "ari"))
        clusters = str(one.get("clusters") or _NONE)
        lines.append([one["masks"], clusters, *shares, f"{one['labels_per_image']:.1f}", str(one["images"])])
    return table(["masks", "K", "best IoU", "boundary F", "ARI", "labels an image", "images"], lines)
