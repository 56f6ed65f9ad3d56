// A time series in SVG: axes with units, a crosshair that all charts share, and a table for those who cannot see it.

import { h, svg, swatch, seriesColor } from "./dom.js";
import { time } from "./format.js";

const MARGIN = { top: 8, right: 8, bottom: 22, left: 52 };
const STEPS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 10e3, 15e3, 30e3, 60e3, 120e3, 300e3, 600e3, 900e3, 1800e3, 3600e3, 2 * 3600e3, 3 * 3600e3, 6 * 3600e3, 12 * 3600e3, 86400e3, 7 * 86400e3];

/** What all charts of a page point at. */
const cursor = { at: null, charts: new Set() };

function point(at, source) {
  cursor.at = at;
  for (const chart of [...cursor.charts]) {
    if (chart.root.isConnected) chart.drawCursor(chart === source);
    else cursor.charts.delete(chart);
  }
}

/** Round numbers from 0 (or below) to at least `max`; `base` is 10, or 1024 for bytes. */
export function ticks(min, max, wanted, base = 10) {
  if (!(max > min)) max = min + 1;
  const raw = (max - min) / wanted;
  const power = base ** Math.floor(Math.log(raw) / Math.log(base));
  const multiples = base === 10 ? [1, 2, 2.5, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const step = power * (multiples.find((multiple) => multiple * power >= raw * 0.999) ?? base);
  const list = [];
  for (let at = Math.floor(min / step) * step; ; at += step) {
    list.push(Number(at.toPrecision(12)));
    if (at >= max - step * 1e-9) return list;
  }
}

function timeTicks(from, to, wanted) {
  const step = STEPS_MS.find((candidate) => candidate >= (to - from) / wanted) ?? STEPS_MS.at(-1);
  const zone = new Date(from).getTimezoneOffset() * 60e3;
  const list = [];
  for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) list.push(at);
  return { list, step };
}

function timeLabel(ms, step) {
  const date = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  if (step >= 86400e3) return `${date.getMonth() + 1}/${date.getDate()}`;
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (step < 1e3) return `${minutes}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return step < 60e3 ? `${minutes}:${two(date.getSeconds())}` : minutes;
}

export class Chart {
  /**
   * `label` names the chart for screen readers, `format` shows its values, `zero` what is drawn
   * where a series has no point, `base` is 1024 for bytes.
   */
  constructor({ label, format, height = 200, base = 10, floor = 0 }) {
    Object.assign(this, { label, format, height, base, floor });
    this.data = { from: 0, to: 1, series: [], spans: [] };
    this.plot = svg("svg", { role: "img", tabindex: "0", height });
    this.tip = h("div", { class: "tip", hidden: true });
    this.root = h("div", { class: "chart" }, this.plot, this.tip);
    this.width = 0;
    new ResizeObserver(() => {
      const width = Math.floor(this.plot.getBoundingClientRect().width);
      if (width && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }).observe(this.root);
    this.plot.addEventListener("pointermove", (event) => point(this.timeAt(event), this));
    this.plot.addEventListener("pointerleave", () => point(null, this));
    this.plot.addEventListener("blur", () => point(null, this));
    this.plot.addEventListener("keydown", (event) => this.step(event));
    cursor.charts.add(this);
  }

  /**
   * `series`: `[{ name, color, dim, area, dots, points: [[ms, value|null], …] }]`; times in milliseconds.
   * `spans`: `[{ from, to, name }]` are shaded.
   */
  set(data) {
    cursor.charts.add(this);
    this.data = { spans: [], ...data };
    this.draw();
  }

  timeAt(event) {
    const box = this.plot.getBoundingClientRect();
    const { from, to } = this.data;
    const share = (event.clientX - box.left - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    return from + Math.min(1, Math.max(0, share)) * (to - from);
  }

  /** Arrow keys move the crosshair from point to point. */
  step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") return point(null, this);
    if (!move) return;
    event.preventDefault();
    const times = [...new Set(this.data.series.flatMap((series) => series.points.map(([at]) => at)))].sort((a, b) => a - b);
    if (!times.length) return;
    const here = cursor.at === null ? times.length - 1 : nearest(times, cursor.at) + move;
    point(times[Math.min(times.length - 1, Math.max(0, here))], this);
  }

  x(ms) {
    const { from, to } = this.data;
    return MARGIN.left + ((ms - from) / (to - from || 1)) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    const [low, high] = this.range;
    return this.height - MARGIN.bottom - ((value - low) / (high - low || 1)) * (this.height - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    if (!this.width) return;
    const { series, from, to, spans } = this.data;
    const values = series.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => Number.isFinite(value));
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.plot.setAttribute("aria-label", this.sentence(values));
    this.root.querySelector(":scope > .empty")?.remove();
    if (!values.length) {
      this.plot.replaceChildren();
      this.plot.setAttribute("hidden", "");
      this.plot.style.display = "none";
      this.root.append(h("div", { class: "empty" }, this.data.empty ?? "Nothing in this range."));
      return;
    }
    this.plot.style.display = "";
    this.plot.removeAttribute("hidden");
    const lines = ticks(Math.min(this.floor, ...values), Math.max(...values, this.data.least ?? 0), 4, this.base);
    this.range = [lines[0], lines.at(-1)];
    const right = this.width - MARGIN.right;
    const grid = lines.map((value) => [
      svg("line", { class: value === lines[0] ? "grid base" : "grid", x1: MARGIN.left, x2: right, y1: this.y(value), y2: this.y(value) }),
      svg("text", { class: "axis", x: MARGIN.left - 8, y: this.y(value) + 3.5, "text-anchor": "end" }, this.format(value)),
    ]);
    const { list, step } = timeTicks(from, to, Math.max(2, Math.floor(this.width / 90)));
    const times = list
      .filter((ms) => this.x(ms) > MARGIN.left + 10 && this.x(ms) < right - 10)
      .map((ms) => svg("text", { class: "axis", x: this.x(ms), y: this.height - 6, "text-anchor": "middle" }, timeLabel(ms, step)));
    const shades = spans.map((span) => this.span(span));
    this.pointer = svg("g", {});
    this.plot.replaceChildren(
      svg("g", { "aria-hidden": "true" }, grid, times, shades, series.map((line) => this.line(line)), this.pointer),
    );
    this.drawCursor(this.root.matches(":hover") || document.activeElement === this.plot);
  }

  span({ from, to, name }) {
    const left = Math.max(this.x(from), MARGIN.left);
    const right = Math.min(this.x(to), this.width - MARGIN.right);
    if (right <= left) return [];
    const box = { y: MARGIN.top, height: this.height - MARGIN.top - MARGIN.bottom };
    const edge = { class: "span-edge", x1: left, x2: left, y1: box.y, y2: box.y + box.height };
    return [svg("rect", { class: "span", x: left, width: right - left, ...box }, svg("title", {}, name)), svg("line", edge)];
  }

  line({ points, color, dim, area, dots }) {
    if (dots) return this.dots(points, color);
    let path = "";
    let isOpen = false;
    let first = null;
    let last = null;
    const fills = [];
    const close = () => {
      if (area && first !== null && last !== first) {
        fills.push(`${path.slice(path.lastIndexOf("M"))}V${this.y(this.range[0]).toFixed(1)}H${first.toFixed(1)}Z`);
      }
      isOpen = false;
      first = null;
    };
    points.forEach(([ms, value], at) => {
      if (!Number.isFinite(value)) return close();
      const x = this.x(ms);
      path += `${isOpen ? "L" : "M"}${x.toFixed(1)} ${this.y(value).toFixed(1)}`;
      // A lone point would be invisible as a line.
      if (!isOpen && !Number.isFinite(points[at + 1]?.[1])) path += "h.01";
      if (first === null) first = x;
      last = x;
      isOpen = true;
    });
    close();
    const look = { stroke: seriesColor(color) };
    return [
      fills.map((d) => svg("path", { class: "area", d, style: { fill: seriesColor(color) } })),
      svg("path", { class: dim ? "series dim" : "series", d: path, style: look }),
    ];
  }

  /** Single events: a line between them would claim what lies between. */
  dots(points, color) {
    const d = points.filter(([, value]) => Number.isFinite(value)).map(([ms, value]) => `M${this.x(ms).toFixed(1)} ${this.y(value).toFixed(1)}h.01`).join("");
    return svg("path", { class: "dots", d, style: { stroke: seriesColor(color) } });
  }

  drawCursor(withTip) {
    if (!this.pointer || !this.range) return;
    const { series, from, to } = this.data;
    if (cursor.at === null || cursor.at < from || cursor.at > to) {
      this.pointer.replaceChildren();
      this.tip.hidden = true;
      return;
    }
    const shown = series.filter((line) => !line.dim);
    const near = shown.map((line) => ({ line, found: closestPoint(line.points, cursor.at) })).filter(({ found }) => found);
    const at = near.length ? near.reduce((best, { found }) => (Math.abs(found[0] - cursor.at) < Math.abs(best - cursor.at) ? found[0] : best), near[0].found[0]) : cursor.at;
    const here = near.filter(({ found }) => found[0] === at).sort((a, b) => b.found[1] - a.found[1]);
    const x = this.x(at);
    this.pointer.replaceChildren(
      svg("line", { class: "cursor", x1: x, x2: x, y1: MARGIN.top, y2: this.height - MARGIN.bottom }),
      ...here.map(({ line, found }) => svg("circle", { class: "marker", cx: x, cy: this.y(found[1]), r: 3.5, style: { fill: seriesColor(line.color) } })),
    );
    this.tip.hidden = !withTip || !here.length;
    if (this.tip.hidden) return;
    this.tip.replaceChildren(
      h("time", {}, time(at * 1e6, { millis: false })),
      ...here.slice(0, 12).map(({ line, found }) => h("div", {}, swatch(line.color), h("span", {}, line.name), h("b", {}, this.format(found[1])))),
    );
    const room = this.width - this.tip.offsetWidth - 8;
    this.tip.style.left = `${x + 14 < room ? x + 24 : Math.max(0, x - this.tip.offsetWidth + 2)}px`;
    this.tip.style.top = "10px";
  }

  sentence(values) {
    if (!values.length) return `${this.label}: nothing in this range`;
    const { series } = this.data;
    const latest = series.slice(0, 6).map((line) => {
      const last = line.points.findLast(([, value]) => Number.isFinite(value));
      return last ? `${line.name} ${this.format(last[1])}` : null;
    });
    return `${this.label}, ${series.length} series, latest: ${latest.filter(Boolean).join(", ")}. Arrow keys move through time.`;
  }
}

function closestPoint(points, at) {
  let best = null;
  for (const candidate of points) {
    if (Number.isFinite(candidate[1]) && (!best || Math.abs(candidate[0] - at) < Math.abs(best[0] - at))) best = candidate;
  }
  return best;
}

function nearest(sorted, at) {
  let best = 0;
  sorted.forEach((value, index) => {
    if (Math.abs(value - at) < Math.abs(sorted[best] - at)) best = index;
  });
  return best;
}

/** A line without axes, as wide as a word. */
export function spark(values, color) {
  const finite = values.filter(Number.isFinite);
  const box = svg("svg", { class: "spark", width: 96, height: 22, viewBox: "0 0 96 22", "aria-hidden": "true" });
  if (finite.length < 2) return box;
  const high = Math.max(...finite) || 1;
  let isOpen = false;
  let path = "";
  values.forEach((value, at) => {
    if (!Number.isFinite(value)) {
      isOpen = false;
      return;
    }
    path += `${isOpen ? "L" : "M"}${((at / (values.length - 1)) * 94 + 1).toFixed(1)} ${(20 - (value / high) * 18).toFixed(1)}`;
    isOpen = true;
  });
  box.append(svg("path", { d: path, style: { stroke: seriesColor(color) } }));
  return box;
}

