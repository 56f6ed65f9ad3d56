// The first page: what each service does now, and since when it is wrong.

import { h, swatch } from "./dom.js";
import { Chart, spark } from "./chart.js";
import { incidents, records, run } from "./client.js";
import { count, duration, number, percent } from "./format.js";
import { brief } from "./incidents.js";
import { provenance } from "./provenance.js";

const RANGES = {
  "5m": { text: "5 min", ms: 300e3, bin: 10 },
  "15m": { text: "15 min", ms: 900e3, bin: 10 },
  "1h": { text: "1 h", ms: 3600e3, bin: 60 },
  "6h": { text: "6 h", ms: 6 * 3600e3, bin: 300 },
  "24h": { text: "24 h", ms: 86400e3, bin: 900 },
};
const SERIES_MAX = 8;
const POLL_MS = 2000;

/** The script behind the three charts. */
export const seriesScript = (range) => `import px

# Requests that each service answered, by time.
df = px.DataFrame('http_events', start_time='-${range}')
df = df[df.trace_role == 2]
df.service = df.ctx['service']
df.time_ = px.bin(df.time_, px.seconds(${RANGES[range].bin}))
df.failed = df.resp_status >= 500
df = df.groupby(['service', 'time_']).agg(
    requests=('latency', px.count),
    error_ratio=('failed', px.mean),
    latency=('latency', px.quantiles),
)
df.error_ratio = px.Percent(df.error_ratio)
df.p50 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p50')))
df.p99 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p99')))
df = df[['time_', 'service', 'requests', 'error_ratio', 'p50', 'p99']]
px.display(df, 'by_time')
`;

/** The script behind the table. */
export const servicesScript = (range) => `import px

# What each service answered.
df = px.DataFrame('http_events', start_time='-${range}')
df = df[df.trace_role == 2]
df.service = df.ctx['service']
df.failed = df.resp_status >= 500
df = df.groupby('service').agg(
    requests=('latency', px.count),
    error_ratio=('failed', px.mean),
    latency=('latency', px.quantiles),
    last_seen=('time_', px.max),
)
df.error_ratio = px.Percent(df.error_ratio)
df.p50 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p50')))
df.p99 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p99')))
df = df[['service', 'requests', 'error_ratio', 'p50', 'p99', 'last_seen']]
px.display(df, 'services')
`;

/** The script that a click on a service opens. */
const serviceScript = (service, range) => `import px

# What ${JSON.stringify(service).slice(1, -1)} answered, by endpoint.
df = px.DataFrame('http_events', start_time='-${range}')
df = df[df.trace_role == 2]
df.service = df.ctx['service']
df = df[df.service == ${pxlText(service)}]
df.failed = df.resp_status >= 500
df = df.groupby(['req_method', 'req_path']).agg(
    requests=('latency', px.count),
    error_ratio=('failed', px.mean),
    latency=('latency', px.quantiles),
)
df.error_ratio = px.Percent(df.error_ratio)
px.display(df, 'endpoints')
`;

/** A PxL string that holds `text`. */
export function pxlText(text) {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'").replaceAll("\n", "\\n")}'`;
}

export class Overview {
  constructor({ open, setOpenCount }) {
    this.open = open;
    this.setOpenCount = setOpenCount;
    this.range = RANGES[localStorage.getItem("undine.range")] ? localStorage.getItem("undine.range") : "15m";
    this.quantile = "p99";
    this.isLive = true;
    this.colors = new Map();
    this.only = null;
    this.sort = { by: "requests", descending: true };
    this.last = null;
    this.build();
  }

  build() {
    this.charts = {
      throughput: new Chart({ label: "Throughput in requests per second", format: count }),
      errors: new Chart({ label: "Error ratio", format: percent }),
      latency: new Chart({ label: "Latency", format: duration }),
    };
    this.ranges = h("div", { class: "segments", role: "group", "aria-label": "Time range" },
      Object.entries(RANGES).map(([key, { text }]) => h("button", { type: "button", "data-range": key, "aria-pressed": String(key === this.range), onclick: () => this.setRange(key) }, text)));
    this.liveButton = h("button", { class: "pill live", type: "button", style: { border: "0", cursor: "pointer" }, "aria-pressed": "true", onclick: () => this.setLive(!this.isLive) }, h("i", { class: "dot" }), h("span", {}, "Live"));
    this.quantiles = h("div", { class: "segments small", role: "group", "aria-label": "Quantile" },
      ["p50", "p99"].map((name) => h("button", { type: "button", "aria-pressed": String(name === this.quantile), onclick: (event) => this.setQuantile(name, event.target) }, name)));
    this.legend = h("div", { class: "legend", role: "group", "aria-label": "Services" });
    this.origin = h("span", {});
    this.figures = h("dl", { class: "figures" });
    this.banner = h("div", { class: "open-incidents", "aria-live": "polite" });
    this.offline = h("p", { class: "offline", role: "alert", hidden: true });
    this.table = h("div", {});
    const card = (title, unit, chart, extra) => h("section", { class: "card" },
      h("header", {}, h("h2", {}, title, h("span", { class: "unit" }, unit)), h("span", { class: "spacer" }), extra), chart.root);
    this.root = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Services"), this.liveButton, h("span", { class: "spacer" }), this.ranges),
      this.offline,
      this.banner,
      this.figures,
      h("div", { class: "head" }, this.legend, h("span", { class: "spacer" }), this.origin),
      h("div", { class: "charts" },
        card("Throughput", "requests per second", this.charts.throughput),
        card("Errors", "share of answers with 5xx", this.charts.errors),
        card("Latency", "", this.charts.latency, this.quantiles)),
      h("section", { class: "card" },
        h("header", {}, h("h2", {}, "Services"), h("span", { class: "spacer" }),
          h("a", { class: "button small", href: "#/query", onclick: (event) => { event.preventDefault(); this.open(seriesScript(this.range)); } }, "Charts as PxL"),
          h("a", { class: "button small", href: "#/query", onclick: (event) => { event.preventDefault(); this.open(servicesScript(this.range)); } }, "Table as PxL")),
        this.table));
  }

  setRange(range) {
    this.range = range;
    localStorage.setItem("undine.range", range);
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    this.refresh();
  }

  setQuantile(name, button) {
    this.quantile = name;
    for (const other of this.quantiles.children) other.setAttribute("aria-pressed", String(other === button));
    this.draw();
  }

  setLive(isLive) {
    this.isLive = isLive;
    this.liveButton.setAttribute("aria-pressed", String(isLive));
    this.liveButton.classList.toggle("live", isLive);
    this.liveButton.lastChild.textContent = isLive ? "Live" : "Paused";
    if (isLive) this.refresh();
  }

  /** Starts asking; stops when the page is left. */
  enter() {
    this.isShown = true;
    this.refresh();
  }

  leave() {
    this.isShown = false;
    clearTimeout(this.timer);
    this.asking?.abort();
    this.asking = null;
  }

  async refresh() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    const began = performance.now();
    try {
      const range = this.range;
      const [series, services, found] = await Promise.all([
        run(seriesScript(range), { limit: 20_000, signal: asking.signal }),
        run(servicesScript(range), { signal: asking.signal }),
        incidents(),
      ]);
      if (asking.signal.aborted) return;
      this.last = { range, now: Number(series.at_ns) / 1e6, series: records(series.tables[0]), services: records(services.tables[0]), incidents: found.incidents, answer: series.tables[0] };
      this.offline.hidden = true;
      this.draw();
    } catch (error) {
      if (error.name === "AbortError" || asking.signal.aborted) return;
      this.offline.textContent = [error.message, error.hint].filter(Boolean).join("; ");
      this.offline.hidden = false;
    }
    if (this.asking === asking && this.isShown && this.isLive) {
      const pause = Math.max(POLL_MS, 5 * (performance.now() - began));
      this.timer = setTimeout(() => (document.hidden ? this.wait() : this.refresh()), pause);
    }
  }

  /** A page that nobody sees asks for nothing. */
  wait() {
    document.addEventListener("visibilitychange", () => { if (this.isShown && this.isLive) this.refresh(); }, { once: true });
  }

  color(service) {
    if (!this.colors.has(service)) this.colors.set(service, this.colors.size);
    return this.colors.get(service);
  }

  draw() {
    if (!this.last) return;
    const { range, now, series, services, incidents: found } = this.last;
    const { ms, bin } = RANGES[range];
    const width = bin * 1000;
    // The first and the last bin are not whole, so their rates would be too low.
    const first = Math.ceil((now - ms) / width) * width;
    const end = Math.floor(now / width) * width;
    const bins = Array.from({ length: Math.max(0, Math.round((end - first) / width)) }, (_, at) => first + at * width);
    const ranked = [...services].sort((a, b) => number(b.requests) - number(a.requests));
    for (const { service } of [...services].sort((a, b) => (a.service < b.service ? -1 : 1))) this.color(service);
    const shown = ranked.slice(0, SERIES_MAX).map(({ service }) => service);
    if (this.only && !services.some(({ service }) => service === this.only)) this.only = null;
    if (this.only && !shown.includes(this.only)) shown.push(this.only);

    const byService = new Map();
    for (const row of series) {
      if (!byService.has(row.service)) byService.set(row.service, new Map());
      byService.get(row.service).set(Math.round(number(row.time_) / 1e6), row);
    }
    const line = (service, pick) => ({
      name: service || "unknown",
      color: this.color(service),
      dim: this.only !== null && this.only !== service,
      area: shown.length === 1 || this.only === service,
      points: bins.map((at) => [at + width / 2, pick(byService.get(service)?.get(at))]),
    });
    const spans = found.map((incident) => ({
      from: Date.parse(incident.started_at),
      to: incident.ended_at ? Date.parse(incident.ended_at) : now,
      name: incident.summary,
      service: incident.service,
    })).filter(({ service }) => this.only === null || service === this.only);
    const frame = { from: first, to: Math.max(end, first + width), spans };
    const lines = (pick) => shown.map((service) => line(service, pick));
    const empty = services.length
      ? `Waiting for the first whole ${bin >= 60 ? `${bin / 60} minutes` : `${bin} seconds`}.`
      : "No requests seen in this range.";
    this.charts.throughput.set({ ...frame, empty, series: lines((row) => (row ? number(row.requests) / bin : 0)) });
    this.charts.errors.set({ ...frame, empty, least: 0.01, series: lines((row) => (row ? number(row.error_ratio) : null)) });
    this.charts.latency.set({ ...frame, empty, series: lines((row) => (row ? number(row[this.quantile]) : null)) });

    this.drawLegend(ranked, shown);
    this.origin.replaceChildren(provenance(this.last.answer));
    this.origin.title = this.last.answer.notes.map(({ message }) => message).join("\n");
    this.drawFigures(ranked, byService, bins, bin, found, services.length, now);
    this.drawIncidents(found, now);
    this.drawTable(ranked, byService, bins, ms / 1000, found, now);
  }

  drawLegend(ranked, shown) {
    const key = JSON.stringify([shown, this.only, ranked.length]);
    if (key === this.legendKey) return;
    this.legendKey = key;
    const more = ranked.length - SERIES_MAX;
    this.legend.replaceChildren(
      ...shown.map((service) => h("button", { type: "button", "aria-pressed": String(this.only === service), title: this.only === service ? "Show all services" : "Show only this service", onclick: () => this.choose(service) }, swatch(this.color(service)), h("span", {}, service || "unknown"))),
      ...(more > 0 ? [h("span", { class: "soft" }, `and ${more} more in the table`)] : []),
    );
  }

  choose(service) {
    this.only = this.only === service ? null : service;
    this.draw();
  }

  drawFigures(ranked, byService, bins, bin, found, services) {
    const latest = bins.slice(-3);
    let requests = 0;
    let failed = 0;
    let worst = null;
    for (const { service } of ranked) {
      for (const at of latest) {
        const row = byService.get(service)?.get(at);
        if (!row) continue;
        requests += number(row.requests);
        failed += number(row.requests) * number(row.error_ratio);
        if (!worst || number(row.p99) > worst.p99) worst = { service, p99: number(row.p99) };
      }
    }
    const open = found.filter((incident) => incident.state !== "resolved").length;
    const figure = (label, value, small, alarm) => h("div", { class: alarm ? "card figure alarm" : "card figure" }, h("dt", {}, label), h("dd", {}, value, small ? h("small", {}, small) : null));
    this.figures.replaceChildren(
      figure("Requests", latest.length ? count(requests / (latest.length * bin)) : "–", "per second"),
      figure("Errors", requests ? percent(failed / requests) : "–", "of answers"),
      figure("Slowest p99", worst ? duration(worst.p99) : "–", worst?.service),
      figure("Services", String(services), "answering"),
      figure("Open incidents", String(open), open ? "" : "all quiet", open > 0),
    );
    this.setOpenCount(open);
  }

  drawIncidents(found, now) {
    const open = found.filter((incident) => incident.state !== "resolved");
    const key = JSON.stringify(open.map((incident) => [incident.incident_id, incident.changed_at, Math.floor(now / 10e3)]));
    if (key === this.incidentKey) return;
    this.incidentKey = key;
    this.banner.replaceChildren(...open.slice(0, 3).map((incident) => brief(incident, now)));
    this.banner.hidden = open.length === 0;
  }

  drawTable(ranked, byService, bins, seconds, found, now) {
    const first = this.last.series.reduce((least, row) => Math.min(least, number(row.time_) / 1e6), now);
    const covered = Math.max(1, Math.min(seconds, (now - first) / 1000));
    const columns = [
      ["service", "Service", false],
      ["requests", "Requests", true],
      ["rate", "Per second", true],
      ["error_ratio", "Errors", true],
      ["p50", "p50", true],
      ["p99", "p99", true],
      [null, "Throughput", false],
      [null, "State", false],
      [null, h("span", { class: "visually-hidden" }, "Endpoints"), false],
    ];
    const { by, descending } = this.sort;
    const value = (row) => (by === "service" ? row.service : number(by === "rate" ? row.requests : row[by]));
    const rows = [...ranked].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (descending ? -1 : 1));
    const heads = columns.map(([key, text, isRight]) => h("th", { scope: "col", class: isRight ? "num" : undefined, "aria-sort": key === by ? (descending ? "descending" : "ascending") : undefined },
      key ? h("button", { type: "button", "data-key": key, onclick: () => this.sortBy(key) }, text) : text));
    const body = rows.map((row) => {
      const errors = number(row.error_ratio);
      const open = found.find((incident) => incident.service === row.service && incident.state !== "resolved");
      const points = bins.map((at) => number(byService.get(row.service)?.get(at)?.requests ?? 0));
      return h("tr", {},
        h("td", {}, h("span", { class: "name" }, swatch(this.color(row.service)), row.service || "unknown")),
        h("td", { class: "num" }, count(row.requests)),
        h("td", { class: "num" }, count(number(row.requests) / covered)),
        h("td", { class: errors >= 0.05 ? "num text-bad" : errors > 0 ? "num text-warn" : "num faint" }, percent(errors)),
        h("td", { class: "num" }, duration(row.p50)),
        h("td", { class: "num" }, duration(row.p99)),
        h("td", {}, spark(points, this.color(row.service))),
        h("td", {}, open ? h("a", { class: "tag is-bad", href: `#/incidents/${encodeURIComponent(open.incident_id)}` }, open.severity || "open") : h("span", { class: "tag is-good" }, "normal")),
        h("td", { class: "num" }, h("button", { class: "button small", type: "button", "data-service": row.service, "aria-label": `Endpoints of ${row.service || "unknown"} as PxL`, onclick: () => this.open(serviceScript(row.service, this.range)) }, "Endpoints")));
    });
    if (!rows.length) {
      this.table.replaceChildren(h("div", { class: "empty" }, h("b", {}, "No service has answered a request in this range."), "Undine shows one as soon as it sees an HTTP request of a process that it watches; see the probe_status table for what can be seen."));
      return;
    }
    const focused = this.table.contains(document.activeElement) ? { ...document.activeElement.dataset } : null;
    this.table.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Services" }, h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body))));
    if (focused) {
      const same = [...this.table.querySelectorAll("button")].find((button) => (focused.key && button.dataset.key === focused.key) || (focused.service !== undefined && button.dataset.service === focused.service));
      same?.focus();
    }
  }

  sortBy(key) {
    this.sort = { by: key, descending: this.sort.by === key ? !this.sort.descending : key !== "service" };
    this.draw();
  }
}
