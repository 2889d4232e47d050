"""The report's page as a person sees it, in Debian's Chromium (`make browser`)."""

import json
import re
import shutil

import pytest

from tests.tools.fake_runs import make_run
from tools.report import main
from utils.files import write_json

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements.txt")

EXECUTABLE = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here: `make browser` installs it"),
]
PATIENCE = 120_000  # milliseconds, on a machine that does something else too
playwright.expect.set_options(timeout=PATIENCE)
NAME = "two <b>&amp;"  # of the second run


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=EXECUTABLE, headless=True, args=OPTIONS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "one", clusters=True)
    two = make_run(folder / NAME, losses=("loss", "vmf"), epochs=2, settings={"model": {"base_momentum": 0.5}}, seed=1)
    write_json(one / "probe_history.json", [{"step": 10 * i, "epoch": i, "segmentation mIoU": i / 7} for i in range(4)])
    quality = {"best_iou": 0.25, "boundary_f": 0.1, "ari": 0.0, "labels_per_image": 4.5, "images": 8}
    write_json(two / "mask_quality.json", {"gen_0001": quality, "gen_0002": quality})
    return one, two


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    return output.as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end, nothing may have gone wrong in it, and nothing may have been fetched."""
    heard, contexts = [], []

    def open_one(**options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url != address and heard.append(request.url))
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.plot > svg').length === charts.length")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture
def page(open_page):
    return open_page()


def rows_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def chart(page, name):
    return page.locator(f'[data-chart="{name}"]')


def curve(page, name, *, run):
    return chart(page, name).locator(f'.plot > svg .curve[data-run="{run}"]')


def places(page, name, *, run) -> list[tuple[float, float]]:
    """Where the points of a curve lie, in pixels of its chart."""
    return [
        (float(x), float(y))
        for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", curve(page, name, run=run).get_attribute("d"))
    ]


def pictures(page) -> list[str]:
    return [image.get_attribute("src") for image in page.locator(".strip img").all()]


def test_a_curve_has_as_many_points_as_the_log_and_falls_where_it_falls(page, runs):
    for place, run in enumerate(runs):
        rows = rows_of(run)
        drawn = places(page, "total_loss", run=place)
        assert len(drawn) == len(rows)
        # Pixels count from the top.
        order = sorted(range(len(rows)), key=lambda i: rows[i]["total_loss"], reverse=True)
        assert [drawn[i][1] for i in order] == sorted(y for _, y in drawn)
    assert curve(page, "vmf", run=1).count() == 1 and curve(page, "vmf", run=0).count() == 0
    assert chart(page, "probe segmentation mIoU").locator("circle").count() == 4
    assert chart(page, "masks gen best_iou").locator("circle").count() == 2


def test_the_number_of_clusters_is_drawn_in_steps(page, runs):
    path = curve(page, "clusters", run=0).get_attribute("d")
    assert len(re.findall("H", path)) == len(rows_of(runs[0])) - 1 and "L" not in path


def test_a_click_on_the_legend_hides_a_run_and_another_shows_it(page):
    entry = page.locator('.legend [data-run="1"]')
    assert entry.inner_text() == NAME
    for hidden in (True, False):
        entry.click()
        playwright.expect(curve(page, "total_loss", run=1)).to_have_count(0 if hidden else 1)
        assert curve(page, "total_loss", run=0).count() == 1
        assert entry.get_attribute("aria-pressed") == str(not hidden).lower()
        assert page.locator('.strip[data-run="1"]').is_hidden() == hidden


def test_the_hover_tells_what_the_log_says(page, runs):
    rows = rows_of(runs[0])
    plot, at = chart(page, "gradient_norm").locator(".plot"), 2
    x, y = places(page, "gradient_norm", run=0)[at]
    plot.hover(position={"x": x + 1, "y": y})
    said = plot.locator(".hint").inner_text()
    assert f"step {rows[at]['step']}, epoch {rows[at]['epoch']:g}" in said
    assert f"one {rows[at]['gradient_norm']:.5g}" in said
    # The two runs log at the same steps here.
    assert f"{NAME} {rows_of(runs[1])[at]['gradient_norm']:.5g}" in said
    page.mouse.move(0, 0)
    assert plot.locator(".hint").is_hidden()


def test_the_keyboard_reads_a_chart(page, runs):
    svg, hint = chart(page, "total_loss").locator(".plot > svg"), chart(page, "total_loss").locator(".hint")
    svg.focus()
    for key, at in (("ArrowRight", 0), ("ArrowRight", 1), ("End", -1)):
        page.keyboard.press(key)
        assert f"one {rows_of(runs[0])[at]['total_loss']:.5g}" in hint.inner_text()
    page.keyboard.press("Escape")
    assert hint.is_hidden()


def test_the_slider_steps_the_pictures_of_all_runs(page):
    slider, last = page.locator("#moment"), pictures(page)
    assert len(last) == 2
    slider.focus()
    page.keyboard.press("Home")
    first = pictures(page)
    assert [caption.inner_text() for caption in page.locator(".strip figcaption").all()] == [
        "one: epoch 0, step 0",
        f"{NAME}: epoch 0, step 0",
    ]
    assert all(before != after for before, after in zip(first, last))
    assert all(image.evaluate("one => one.naturalWidth") == 24 for image in page.locator(".strip img").all())
    page.evaluate("document.activeElement.blur()")
    # Without the slider's focus, too; the shorter run stays at its last picture.
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator(".moments output").inner_text() == "epoch 2"
    assert pictures(page)[1] == last[1] and pictures(page)[0] not in (first[0], last[0])
    page.get_by_label("later epoch").click()
    assert pictures(page) == last


def test_a_logarithmic_scale_a_smoothed_curve_and_an_axis_of_epochs_can_be_had(page):
    straight = places(page, "total_loss", run=0)
    chart(page, "total_loss").get_by_role("button").click()
    assert [x for x, _ in places(page, "total_loss", run=0)] == [x for x, _ in straight]
    assert places(page, "total_loss", run=0) != straight
    chart(page, "total_loss").get_by_role("button").click()
    page.select_option("#axis", "epochs")
    axis = chart(page, "total_loss").locator("text", has_text="epochs")
    playwright.expect(axis).to_have_count(1)
    assert places(page, "total_loss", run=0) == straight
    page.locator("#smoothing").fill("0.8")
    playwright.expect(chart(page, "total_loss").locator(".raw")).to_have_count(2)
    smooth = [y for _, y in places(page, "total_loss", run=0)]
    # A falling loss is smoothed from above, from its first value on.
    assert smooth[0] == straight[0][1] and all(after < before for after, (_, before) in zip(smooth[1:], straight[1:]))
    assert chart(page, "learning_rate").locator(".raw").count() == 0


def test_dashes_differ_logarithmic_axes_have_ticks_and_means_are_smoothed(page):
    assert len(set(page.evaluate("[...Array(24).keys()].map((run) => JSON.stringify(strokeOf(run)))"))) == 24
    for low, high in ((4.1, 4.6), (0.11, 0.19), (1, 1e9), (1e-7, 4e-4)):
        ticks = page.evaluate("(ends) => logTicks(...ends)", [low, high])
        assert len(ticks) >= 2 and low * 0.99 <= min(ticks) and max(ticks) <= high * 1.01
    smooth = page.evaluate("smoothed([{y: 9, mean: 2}, {y: 1, mean: 4}], 0.5).map((one) => one.y)")
    assert smooth == pytest.approx([2, 10 / 3])


def test_the_configs_are_compared(page):
    row = page.locator("#differences tr", has_text="model.base_momentum")
    assert row.locator("td").all_inner_texts() == ["model.base_momentum", "0.99", "0.5"]
    assert page.locator("#differences th").all_inner_texts() == ["key", "one", NAME]


def test_a_narrow_screen_scrolls_only_downwards(open_page):
    page = open_page(viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    for found in (page.locator(".chart").all(), page.locator(".strip").all()):
        assert all(340 < one.bounding_box()["width"] <= 400 for one in found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_from_the_page(open_page, scheme):
    page = open_page(color_scheme=scheme)
    style = (
        "([one, name]) => getComputedStyle(document.querySelector(one))[name].match(/\\d+/g).slice(0, 3).map(Number)"
    )
    card = luminance(page.evaluate(style, [".chart", "backgroundColor"]))
    assert (card < 0.1) == (scheme == "dark")
    wanted = {
        "figcaption": ("color", 7),
        ".plot text": ("fill", 4.5),
        ".curve": ("stroke", 3),
        '.curve[data-run="1"]': ("stroke", 3),
    }
    for selector, (name, least) in wanted.items():
        lights = sorted((card, luminance(page.evaluate(style, [selector, name]))))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= least, selector


def luminance(colour: list[int]) -> float:
    """Of an sRGB colour, as WCAG defines it."""
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))
