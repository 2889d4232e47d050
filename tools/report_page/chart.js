"use strict";
// One chart of curves over time, drawn anew whenever something about it changes.

const MARGIN = { left: 54, right: 14, top: 22, bottom: 36 };
const HEIGHT = 236;
const DASHES = ["", "9 3", "3 2", "10 3 2 3", "1 3", "14 4", "6 2 1 2 1 2", "5 5"];

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** How a run's curves look: colour, and dashes for those who do not see it; runs of one colour have other dashes. */
function strokeOf(run) {
  const dash = DASHES[(run + Math.floor(run / 8)) % DASHES.length];
  return { style: `stroke: var(--run-${run % 8})`, ...(dash && { "stroke-dasharray": dash }) };
}

function shown(value) {
  if (value === null) return "not finite";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(4).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(5)));
}

/** Average with weights that fall with every point, of means where points stand for others; a gap stays a gap. */
function smoothed(points, share) {
  let [sum, weight] = [0, 0];
  return points.map((point) => {
    if (point.y === null) return point;
    sum = share * sum + (1 - share) * point.mean;
    weight = share * weight + (1 - share);
    return { ...point, y: sum / weight };
  });
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Round values; a linear scale's where fewer than two of them lie within. */
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const times = decades < 1.5 ? [1, 2, 3, 5, 7] : decades < 4 ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil(decades / 6));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    if (power % every === 0) ticks.push(...times.map((one) => Number((one * 10 ** power).toPrecision(6))));
  }
  const within = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return within.length < 2 ? linearTicks(low, high, 5) : within;
}

/** Maps values onto pixels; equal values get a little room. */
function scale(values, from, to, log) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low === Infinity) [low, high] = [1, 2];
  if (log) {
    if (low === high) [low, high] = [low / 2, high * 2];
    const at = (value) => from + ((Math.log(value / low) / Math.log(high / low)) * (to - from));
    return { at, low, high };
  }
  if (low === high) [low, high] = [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
  return { at: (value) => from + ((value - low) / (high - low)) * (to - from), low, high };
}

class Chart {
  /**
   * spec: a chart of the report's data; runs: their names; state: what holds for all charts (axis, smoothing, hidden).
   */
  constructor(spec, runs, state) {
    Object.assign(this, { spec, runs, state, log: spec.log, focus: null });
    this.scaleButton = element("button", { type: "button", "aria-pressed": spec.log, onclick: () => this.toggleLog() }, "log");
    this.scaleButton.title = "logarithmic scale";
    this.scaleButton.setAttribute("aria-label", `logarithmic scale of ${spec.title}`);
    this.hint = element("div", { class: "hint", hidden: true, role: "status" });
    this.plot = element("div", { class: "plot" }, this.hint);
    const thinned = spec.lines.some((line) => line.points.length < line.of);
    const drawn = `lowest and highest of neighbouring points drawn${spec.smooth ? ", their mean smoothed" : ""}`;
    this.note = element("small", {}, thinned ? drawn : "");
    const caption = element("figcaption", {}, element("span", {}, spec.title, " ", this.note), this.scaleButton);
    this.node = element("figure", { class: "chart", "data-chart": spec.id }, caption, this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.plot.addEventListener("pointerdown", (event) => this.point(event.clientX));
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("focusout", () => this.show(null));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  toggleLog() {
    this.log = !this.log;
    this.scaleButton.setAttribute("aria-pressed", String(this.log));
    this.draw();
  }

  /** The lines to be seen, each with its points {x, y, step, epoch, name}. */
  lines() {
    const axis = this.spec.axes[0] === this.spec.axes[1] ? 0 : this.state.axis;
    return this.spec.lines.filter((line) => !this.state.hidden.has(line.run)).map((line) => {
      const points = line.points.map(([step, epoch, y, mean = y], i) =>
        ({ x: axis ? epoch : step, y, mean, step, epoch, name: line.names?.[i] }));
      const raw = points.filter(({ x, y, mean }) => x !== null && (!this.log || y === null || Math.min(y, mean) > 0));
      const share = this.spec.smooth ? this.state.smoothing : 0;
      return { run: line.run, raw, smooth: share > 0 ? smoothed(raw, share) : raw };
    });
  }

  draw() {
    const width = Math.max(220, this.plot.clientWidth);
    this.drawn = this.lines();
    const all = this.drawn.flatMap((line) => line.raw).filter((point) => point.y !== null);
    const x = scale(all.map((point) => point.x), MARGIN.left + 2, width - MARGIN.right - 2, false);
    const y = scale(all.map((point) => point.y), HEIGHT - MARGIN.bottom - 5, MARGIN.top + 5, this.log);
    Object.assign(this, { x, y, width });
    const names = this.drawn.map((line) => this.runs[line.run].name).join(", ");
    const svg = shape("svg", {
      width, height: HEIGHT, tabindex: 0, role: "img",
      "aria-label": `${this.spec.title} (${this.spec.unit}) of ${names || "no run"}; arrow keys read values out`,
    });
    svg.append(...this.axes(), ...this.drawn.flatMap((line) => this.curve(line)));
    this.cursor = shape("g");
    svg.append(this.cursor);
    const focused = this.plot.contains(document.activeElement);
    this.plot.querySelector("svg")?.remove();
    this.plot.prepend(svg);
    if (focused) svg.focus();
    this.show(null);
  }

  axes() {
    const [{ x, y, width, spec }, bottom] = [this, HEIGHT - MARGIN.bottom];
    const parts = [shape("text", { x: 4, y: 12 }, spec.unit)];
    for (const tick of this.log ? logTicks(y.low, y.high) : linearTicks(y.low, y.high, 5)) {
      parts.push(shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y.at(tick), y2: y.at(tick) }));
      parts.push(shape("text", { x: MARGIN.left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, shown(tick)));
    }
    const whole = spec.axes[0] === spec.axes[1];
    for (const tick of linearTicks(x.low, x.high, Math.max(4, Math.min(9, width / 55)))) {
      // What a run began with has no number; its point tells its name.
      if (whole && (tick < 0 || !Number.isInteger(tick))) continue;
      parts.push(shape("line", { class: "frame", x1: x.at(tick), x2: x.at(tick), y1: bottom, y2: bottom + 4 }));
      parts.push(shape("text", { x: x.at(tick), y: bottom + 16, "text-anchor": "middle" }, shown(tick)));
    }
    const name = spec.axes[this.state.axis];
    parts.push(shape("text", { x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, name));
    parts.push(shape("path", { class: "frame", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${width - MARGIN.right}` }));
    return parts;
  }

  curve(line) {
    const attributes = { "data-run": line.run, ...strokeOf(line.run) };
    const parts = [shape("path", { ...attributes, class: "curve", d: this.path(line.smooth) })];
    if (line.smooth !== line.raw) parts.unshift(shape("path", { ...attributes, class: "raw", d: this.path(line.raw) }));
    const lone = line.raw.filter((point) => point.y !== null).length === 1;
    for (const point of this.spec.marked || lone ? line.raw : []) if (point.y !== null) parts.push(this.dot(point, line.run));
    return parts;
  }

  dot(point, run) {
    const place = { cx: this.x.at(point.x), cy: this.y.at(point.y), r: 3.5 };
    return shape("circle", { ...place, "data-run": run, style: `fill: var(--run-${run % 8})` });
  }

  path(points) {
    let before = null;
    return points.map((point) => {
      if (point.y === null) { before = null; return ""; }
      const [px, py] = [this.x.at(point.x).toFixed(1), this.y.at(point.y).toFixed(1)];
      // What a line of the log says holds for the steps before it.
      const part = before === null ? `M${px} ${py}` : this.spec.stepped ? `V${py}H${px}` : `L${px} ${py}`;
      before = point;
      return part;
    }).join("");
  }

  /** Read out the values nearest to a place on the screen. */
  point(clientX) {
    const at = clientX - this.plot.getBoundingClientRect().left;
    this.show(closest(this.drawn.flatMap((line) => line.raw), (point) => Math.abs(this.x.at(point.x) - at))?.x ?? null);
  }

  key(event) {
    const places = [...new Set(this.drawn.flatMap((line) => line.raw.map((point) => point.x)))].sort((a, b) => a - b);
    const last = places.length - 1;
    const now = this.focus === null ? null : places.indexOf(this.focus);
    const to = {
      ArrowRight: now === null ? 0 : Math.min(last, now + 1), ArrowLeft: now === null ? last : Math.max(0, now - 1),
      Home: 0, End: last, Escape: -1,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.show(to < 0 ? null : places[to]);
  }

  /** Show what every line says where x is `focus`; null hides it. */
  show(focus) {
    this.focus = focus;
    this.hint.hidden = focus === null;
    this.cursor.replaceChildren();
    if (focus === null) return;
    const px = this.x.at(focus);
    this.cursor.append(shape("line", { class: "cursor", x1: px, x2: px, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    const rows = this.drawn.filter((line) => line.raw.length).map((line) => {
      const point = closest(line.raw, (one) => Math.abs(one.x - focus));
      const smooth = line.smooth === line.raw || point.y === null ? null : line.smooth[line.raw.indexOf(point)];
      if (point.y !== null) this.cursor.append(this.dot(smooth ?? point, line.run));
      const sample = shape("svg", { width: 22, height: 8 }, shape("path", { class: "curve", d: "M0 4H22", ...strokeOf(line.run) }));
      const more = [smooth && `smoothed ${shown(smooth.y)}`, point.x !== focus && this.place(point)].filter(Boolean).join(", ");
      return element("div", {}, sample, ` ${this.runs[line.run].name} `, element("b", {}, shown(point.y)), more && ` (${more})`);
    });
    const there = this.drawn.flatMap((line) => line.raw).find((point) => point.x === focus);
    this.hint.replaceChildren(element("div", { class: "quiet" }, this.place(there)), ...rows);
    const right = px > this.width / 2;
    Object.assign(this.hint.style, { left: right ? "auto" : `${px + 10}px`, right: right ? `${this.width - px + 10}px` : "auto" });
  }

  place({ step, epoch, name }) {
    if (this.spec.axes[0] === this.spec.axes[1]) return name ?? `${this.spec.axes[0]} ${step}`;
    return `step ${step}${epoch === null ? "" : `, epoch ${shown(epoch)}`}`;
  }
}

function closest(items, distance) {
  let [best, least] = [null, Infinity];
  for (const item of items) {
    const far = distance(item);
    if (far < least) [best, least] = [item, far];
  }
  return best;
}
