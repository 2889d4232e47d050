// The page: header, what steers all charts, sections of tables and charts, pictures.

const report = JSON.parse(document.getElementById("data").textContent);
const state = { axis: 0, smoothing: 0, hidden: new Set() };
const charts = [];

function tableOf({ head, rows }) {
  const cell = (text) => element("td", /^[-+]?[\d.]+(e[-+]?\d+)?$/.test(text) ? { class: "figure" } : {}, text);
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": head.join(", ") },
    element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))))));
}

function drawHeader() {
  const header = document.getElementById("header");
  header.append(element("h1", {}, report.title), element("p", { class: "quiet" }, `made ${report.made} by tools.report`));
  header.append(...report.notes.map((note) => element("p", { class: "quiet note" }, note)));
  if (report.runs.length) header.append(tableOf(report.summary));
  const { head, rows } = report.differences;
  if (report.runs.length > 1) {
    const title = rows.length ? `Configs: ${rows.length} keys differ from ${report.runs[0].name}'s` : "Configs: no difference";
    const details = element("details", { id: "differences" }, element("summary", {}, title), tableOf({ head, rows }));
    details.open = rows.length > 0 && rows.length <= 12;
    header.append(details);
  }
  const folded = (title, ...inside) => element("details", {}, element("summary", {}, title), ...inside);
  const configs = report.runs.map((run) => folded(`Whole config of ${run.name}`, element("pre", {}, run.config)));
  header.append(...(configs.length > 1 ? [folded("Whole configs", ...configs)] : configs));
}

function drawControls() {
  const controls = document.getElementById("controls");
  if (!report.runs.length) return controls.remove();
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Runs shown" });
  report.runs.forEach((run, place) => {
    const sample = shape("svg", { width: 26, height: 10 }, shape("path", { class: "curve", d: "M0 5H26", ...strokeOf(place) }));
    const button = element("button", { type: "button", "aria-pressed": "true", "data-run": place }, sample, run.name);
    button.addEventListener("click", () => {
      if (!state.hidden.delete(place)) state.hidden.add(place);
      button.setAttribute("aria-pressed", String(!state.hidden.has(place)));
      changed();
    });
    legend.append(button);
  });
  const axis = element("select", { id: "axis" }, element("option", {}, "optimiser steps"), element("option", {}, "epochs"));
  axis.addEventListener("change", () => { state.axis = axis.selectedIndex; changed(); });
  const said = element("output", {}, "0");
  const smoothing = element("input", { id: "smoothing", type: "range", min: 0, max: 0.98, step: 0.02, value: 0 });
  smoothing.addEventListener("input", () => {
    state.smoothing = Number(smoothing.value);
    said.textContent = smoothing.value;
    changed();
  });
  controls.append(legend, element("label", {}, "over ", axis), element("label", {}, "smoothing ", smoothing, said));
  const below = () => document.documentElement.style.setProperty("--below", `${controls.offsetHeight}px`);
  new ResizeObserver(below).observe(controls);
}

/** All that depends on `state`, once a frame. */
let waiting = false;
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    charts.forEach((chart) => chart.draw());
    for (const strip of document.querySelectorAll(".strip")) strip.hidden = state.hidden.has(Number(strip.dataset.run));
  });
}

function drawSections() {
  const page = document.getElementById("page");
  for (const section of report.sections) {
    if (!section.charts.length && !section.tables.length) continue;
    const own = section.charts.map((spec) => new Chart(spec, report.runs, state));
    charts.push(...own);
    page.append(element("section", {},
      element("h2", {}, section.title),
      ...section.tables.map(tableOf),
      element("div", { class: "charts" }, ...own.map((chart) => chart.node))));
  }
}

/** The moments of which there is a picture, over all runs: epochs where every picture tells its own, else steps. */
function momentsOf(galleries) {
  const pictures = galleries.flatMap((gallery) => gallery.strips.flatMap((strip) => strip.pictures));
  const unit = pictures.every((picture) => picture.epoch !== null) ? "epoch" : "step";
  return { unit, places: [...new Set(pictures.map((picture) => picture[unit]))].sort((a, b) => a - b) };
}

class Strip {
  /** One run's pictures of one name, of which one is shown at a time. */
  constructor(gallery, strip) {
    Object.assign(this, { gallery, strip });
    this.image = element("img", { alt: "" });
    this.caption = element("span");
    const zoom = element("button", { type: "button", class: "zoom", title: "whole size and back" }, this.image);
    const left = strip.of - strip.pictures.length;
    const note = element("small", {}, left ? ` ${left} of ${strip.of} pictures left out` : "");
    this.node = element("figure", { class: "strip", "data-run": strip.run }, element("figcaption", {}, this.caption, note), zoom);
    zoom.addEventListener("click", () => this.node.classList.toggle("large"));
  }

  /** The newest picture at a moment. */
  show(unit, moment) {
    const picture = this.strip.pictures.filter((one) => one[unit] <= moment).at(-1);
    const name = report.runs[this.strip.run].name;
    this.image.hidden = !picture;
    this.caption.textContent = picture
      ? `${name}: ${picture.epoch === null ? "" : `epoch ${shown(picture.epoch)}, `}step ${picture.step}`
      : `${name}: none yet`;
    if (!picture) return;
    if (this.image.src !== picture.source) this.image.src = picture.source;
    this.image.alt = `${this.gallery.title} (${this.gallery.note}) of ${this.caption.textContent}`;
  }
}

function drawGalleries() {
  const page = document.getElementById("page");
  const section = element("section", { id: "pictures" }, element("h2", {}, "Pictures"));
  page.append(section);
  const galleries = report.galleries.filter((gallery) => gallery.strips.some((strip) => strip.pictures.length));
  if (!galleries.length) {
    section.append(element("p", { class: "quiet" }, "None of these runs has pictures: log.num_pictures, or no step done yet."));
    return;
  }
  const { unit, places } = momentsOf(galleries);
  const strips = [];
  const last = places.length - 1;
  const slider = element("input", { id: "moment", type: "range", min: 0, max: last, step: 1, value: last, "aria-label": unit });
  const said = element("output", { for: "moment" });
  const go = (place) => { slider.value = Math.max(0, Math.min(last, place)); show(); };
  const show = () => {
    const moment = places[Number(slider.value)];
    said.textContent = `${unit} ${unit === "step" ? moment : shown(moment)}`;
    slider.setAttribute("aria-valuetext", said.textContent);
    strips.forEach((strip) => strip.show(unit, moment));
  };
  slider.addEventListener("input", show);
  const step = (text, name, by) =>
    element("button", { type: "button", "aria-label": name, onclick: () => go(Number(slider.value) + by) }, text);
  if (last > 0) {
    section.append(element("div", { class: "moments" }, step("‹", `earlier ${unit}`, -1), slider, step("›", `later ${unit}`, 1), said));
    // Where nothing else takes them, the arrows step through the pictures.
    document.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const taken = event.target.closest("input, select, svg, .scroll, pre, .large");
      if (by && !taken && !event.ctrlKey && !event.altKey && !event.metaKey) go(Number(slider.value) + by);
    });
  }
  for (const gallery of galleries) {
    const own = gallery.strips.map((strip) => new Strip(gallery, strip));
    strips.push(...own);
    section.append(
      element("h3", {}, gallery.title),
      element("p", { class: "quiet" }, gallery.note),
      element("div", { class: "strips" }, ...own.map((strip) => strip.node)));
  }
  show();
}

drawHeader();
drawControls();
drawSections();
if (report.runs.length) drawGalleries();
