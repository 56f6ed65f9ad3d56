// The first page: what each service does now, and since when it is wrong.

import { h, swatch } from "./dom.js";
import { Chart, spark } from "./chart.js";
import { incidents, records, run, tables } from "./client.js";
import { count, duration, number, percent } from "./format.js";
import { brief } from "./incidents.js";
import { grid, lossScript, lossTag } from "./panel.js";
import { MEASURES, PROTOCOLS, SHOWN, SIDES, overProtocols, spoken } from "./protocols.js";
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
export const seriesScript = (range, tables) => overProtocols(tables, {
  range,
  output: "by_time",
  title: "Requests that each service answered, or asked of somebody who is not watched, by time.",
  each: `${SIDES}
df.time_ = px.bin(df.time_, px.seconds(${RANGES[range].bin}))
df = df.groupby(['service', 'asks', 'time_']).agg(
${MEASURES}
)
${SHOWN}
return df[['time_', 'service', 'protocol', 'asks', 'requests', 'error_ratio', 'p50', 'p99']]`,
});

/** The script behind the table. */
export const servicesScript = (range, tables) => overProtocols(tables, {
  range,
  output: "services",
  title: "What each service answered, or asked of somebody who is not watched.",
  each: `${SIDES}
df = df.groupby(['service', 'asks']).agg(
${MEASURES}
    last_seen=('time_', px.max),
)
${SHOWN}
return df[['service', 'protocol', 'asks', 'requests', 'error_ratio', 'p50', 'p99', 'last_seen']]`,
});

/** The script behind the edges. */
export const edgesScript = (range, tables) => overProtocols(tables, {
  range,
  output: "edges",
  title: "Who asks whom. Where both ends are watched, the answering one says so.",
  each: `df.service = df.ctx['service']
df.peer = df.ctx['remote_service']
answers = df.trace_role == 2
df = df[answers or df.peer == '']
df.asker = px.select(df.trace_role == 2, df.peer, df.service)
df.answerer = px.select(df.trace_role == 2, df.service, df.peer)
df = df.groupby(['asker', 'answerer']).agg(
${MEASURES}
)
${SHOWN}
return df[['asker', 'answerer', 'protocol', 'requests', 'error_ratio', 'p50', 'p99']]`,
});

/** What requests of each table are told apart by, as assignments and column names. */
const DETAILS = {
  "http_events": [[], ["req_method", "req_path"]],
  "mysql_events": [["df.command = px.mysql_command_name(df.req_cmd)"], ["command", "req_body"]],
  "pgsql_events": [[], ["req_cmd", "req"]],
  "redis_events": [[], ["req_cmd"]],
  "cql_events": [["df.request = px.cql_opcode_name(df.req_op)"], ["request", "req_body"]],
  "mongodb_events": [[], ["req_cmd", "resp_status"]],
  "kafka_events.beta": [["df.request = px.kafka_api_key_name(df.req_cmd)"], ["request", "client_id"]],
  "nats_events.beta": [["df.latency = df.ctx['latency']"], ["cmd"]],
  "amqp_events": [["df.asked = px.amqp_method_name(df.req_class_id, df.req_method_id)", "df.answered = px.amqp_method_name(df.resp_class_id, df.resp_method_id)"], ["asked", "answered"]],
  "mux_events": [["df.message = px.mux_frame_type_name(df.req_type)", "df.destination = df.ctx['dest']"], ["message", "destination"]],
  "dns_events": [["df.name = df.ctx['query_name']", "df.type = df.ctx['query_type']"], ["name", "type"]],
};

/** The script that a click on a service opens. */
const serviceScript = ({ service, protocol, asks }, range) => {
  const [table, { failed }] = Object.entries(PROTOCOLS).find(([, { name }]) => name === protocol);
  const [assignments, keys] = DETAILS[table];
  return `import px

# What ${JSON.stringify(service).slice(1, -1)} ${asks ? "asked" : "answered"} over ${protocol}.
df = px.DataFrame('${table}', start_time='-${range}')
df.service = df.ctx['service']
df = df[df.trace_role ${asks ? "!=" : "=="} 2 and df.service == ${pxlText(service)}]
df.failed = ${failed ?? "df.ctx['failed'] == 1"}
${assignments.map((line) => `${line}\n`).join("")}df = df.groupby([${keys.map((key) => `'${key}'`).join(", ")}]).agg(
    requests=('latency', px.count),
    error_ratio=('failed', px.mean),
    latency=('latency', px.quantiles),
)
df.error_ratio = px.Percent(df.error_ratio)
px.display(df, 'requests')
`;
};

/** A PxL string that holds `text`. */
export function pxlText(text) {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'").replaceAll("\n", "\\n")}'`;
}

/** The rows of one service, one protocol and one side are one line. */
const idOf = ({ service, protocol, asks }) => JSON.stringify([service, protocol, Boolean(asks)]);

export class Overview {
  constructor({ open, setOpenCount }) {
    this.open = open;
    this.setOpenCount = setOpenCount;
    this.range = RANGES[localStorage.getItem("undine.range")] ? localStorage.getItem("undine.range") : "15m";
    this.quantile = "p99";
    this.isLive = true;
    this.colors = new Map();
    this.only = null;
    this.protocol = null;
    this.spoken = ["http_events"];
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
    this.edges = h("div", {});
    this.edgeOrigin = h("span", { class: "provenance" });
    this.protocols = h("div", { class: "segments", role: "group", "aria-label": "Protocol", hidden: true });
    const card = (title, unit, chart, extra) => h("section", { class: "card" },
      h("header", {}, h("h2", {}, title, h("span", { class: "unit" }, unit)), h("span", { class: "spacer" }), extra), chart.root);
    this.root = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Services"), this.liveButton, h("span", { class: "spacer" }), this.protocols, this.ranges),
      this.offline,
      this.banner,
      this.figures,
      h("div", { class: "head" }, this.legend, h("span", { class: "spacer" }), this.origin),
      h("div", { class: "charts" },
        card("Throughput", "requests per second", this.charts.throughput),
        card("Errors", "share of requests that failed", this.charts.errors),
        card("Latency", "", this.charts.latency, this.quantiles)),
      h("section", { class: "card" },
        h("header", {}, h("h2", {}, "Services"), h("span", { class: "spacer" }),
          h("a", { class: "button small", href: "#/query", onclick: (event) => { event.preventDefault(); this.open(seriesScript(this.range, this.asked())); } }, "Charts as PxL"),
          h("a", { class: "button small", href: "#/query", onclick: (event) => { event.preventDefault(); this.open(servicesScript(this.range, this.asked())); } }, "Table as PxL")),
        this.table),
      h("section", { class: "card panel below", "aria-label": "Who asks whom" },
        h("header", {}, h("h2", {}, "Who asks whom"), h("span", { class: "spacer" }),
          h("button", { class: "button small", type: "button", "aria-label": "Who asks whom as PxL", onclick: () => this.open(edgesScript(this.range, this.asked())) }, "PxL")),
        this.edges,
        h("footer", {}, this.edgeOrigin)));
  }

  setRange(range) {
    this.range = range;
    localStorage.setItem("undine.range", range);
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    this.refresh();
  }

  /** The tables that are asked: all that hold rows, or that of the chosen protocol. */
  asked() {
    return this.protocol && this.spoken.includes(this.protocol) ? [this.protocol] : this.spoken;
  }

  setProtocol(table) {
    this.protocol = table;
    this.only = null;
    this.drawProtocols();
    this.refresh();
  }

  drawProtocols() {
    this.protocols.hidden = this.spoken.length < 2;
    const button = (table, text) => h("button", { type: "button", "aria-pressed": String(table === (this.asked().length === 1 ? this.asked()[0] : null)), onclick: () => this.setProtocol(table) }, text);
    this.protocols.replaceChildren(button(null, "All"), ...this.spoken.map((table) => button(table, PROTOCOLS[table].name)));
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
      const held = spoken((await tables()).tables);
      if (held.join() !== this.spoken.join() || !this.protocols.hasChildNodes()) {
        this.spoken = held;
        this.drawProtocols();
      }
      const asked = this.asked();
      const [series, services, found, losses] = await Promise.all([
        run(seriesScript(range, asked), { limit: 20_000, signal: asking.signal }),
        run(servicesScript(range, asked), { signal: asking.signal }),
        incidents(),
        run(lossScript(range), { signal: asking.signal }).then((answer) => records(answer.tables[0]), () => null),
      ]);
      // The edges last: they are no more than two runs at a time.
      const edges = await run(edgesScript(range, asked), { limit: 200, signal: asking.signal });
      if (asking.signal.aborted) return;
      const named = (table) => records(table).map((row) => ({ ...row, id: idOf(row) }));
      this.last = { range, asked, now: Number(series.at_ns) / 1e6, series: named(series.tables[0]), services: named(services.tables[0]), edges: edges.tables[0], losses, incidents: found.incidents, answer: series.tables[0] };
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

  color(id) {
    if (!this.colors.has(id)) this.colors.set(id, this.colors.size);
    return this.colors.get(id);
  }

  /** What a line is called: the protocol is said where there are several. */
  name({ service, protocol, asks }) {
    const known = service || "unknown";
    if (asks) return `${known} → ${protocol}`;
    return this.last.asked.length > 1 ? `${known} · ${protocol}` : known;
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
    for (const { id } of [...services].sort((a, b) => (a.id < b.id ? -1 : 1))) this.color(id);
    const shown = ranked.slice(0, SERIES_MAX);
    const only = this.only && services.find(({ id }) => id === this.only);
    if (!only) this.only = null;
    else if (!shown.includes(only)) shown.push(only);

    const byId = new Map();
    for (const row of series) {
      if (!byId.has(row.id)) byId.set(row.id, new Map());
      byId.get(row.id).set(Math.round(number(row.time_) / 1e6), row);
    }
    const line = (each, pick) => ({
      name: this.name(each),
      color: this.color(each.id),
      dim: this.only !== null && this.only !== each.id,
      area: shown.length === 1 || this.only === each.id,
      points: bins.map((at) => [at + width / 2, pick(byId.get(each.id)?.get(at))]),
    });
    const spans = found.map((incident) => ({
      from: Date.parse(incident.started_at),
      to: incident.ended_at ? Date.parse(incident.ended_at) : now,
      name: incident.summary,
      service: incident.service,
    })).filter(({ service }) => !only || service === only.service);
    const frame = { from: first, to: Math.max(end, first + width), spans };
    const lines = (pick) => shown.map((each) => line(each, pick));
    const empty = services.length
      ? `Waiting for the first whole ${bin >= 60 ? `${bin / 60} minutes` : `${bin} seconds`}.`
      : "No requests seen in this range.";
    this.charts.throughput.set({ ...frame, empty, series: lines((row) => (row ? number(row.requests) / bin : 0)) });
    this.charts.errors.set({ ...frame, empty, least: 0.01, series: lines((row) => (row ? number(row.error_ratio) : null)) });
    this.charts.latency.set({ ...frame, empty, series: lines((row) => (row ? number(row[this.quantile]) : null)) });

    this.drawLegend(ranked, shown);
    this.origin.replaceChildren(provenance(this.last.answer), " ", lossTag(this.last.losses, this.last.asked));
    this.origin.title = this.last.answer.notes.map(({ message }) => message).join("\n");
    this.drawFigures(ranked, byId, bins, bin, found);
    this.drawIncidents(found, now);
    this.drawTable(ranked, byId, bins, ms / 1000, found, now);
    this.drawEdges();
  }

  drawLegend(ranked, shown) {
    const key = JSON.stringify([shown.map(({ id }) => id), this.only, ranked.length, this.last.asked]);
    if (key === this.legendKey) return;
    this.legendKey = key;
    const more = ranked.length - SERIES_MAX;
    this.legend.replaceChildren(
      ...shown.map((each) => h("button", { type: "button", "aria-pressed": String(this.only === each.id), title: this.only === each.id ? "Show all services" : "Show only this service", onclick: () => this.choose(each.id) }, swatch(this.color(each.id)), h("span", {}, this.name(each)))),
      ...(more > 0 ? [h("span", { class: "soft" }, `and ${more} more in the table`)] : []),
    );
  }

  choose(id) {
    this.only = this.only === id ? null : id;
    this.draw();
  }

  drawFigures(ranked, byId, bins, bin, found) {
    const latest = bins.slice(-3);
    let requests = 0;
    let failed = 0;
    let worst = null;
    for (const each of ranked) {
      for (const at of latest) {
        const row = byId.get(each.id)?.get(at);
        if (!row) continue;
        requests += number(row.requests);
        failed += number(row.requests) * number(row.error_ratio);
        if (!worst || number(row.p99) > worst.p99) worst = { name: this.name(each), p99: number(row.p99) };
      }
    }
    const open = found.filter((incident) => incident.state !== "resolved").length;
    const figure = (label, value, small, alarm) => h("div", { class: alarm ? "card figure alarm" : "card figure" }, h("dt", {}, label), h("dd", {}, value, small ? h("small", {}, small) : null));
    this.figures.replaceChildren(
      figure("Requests", latest.length ? count(requests / (latest.length * bin)) : "–", "per second"),
      figure("Errors", requests ? percent(failed / requests) : "–", "of requests"),
      figure("Slowest p99", worst ? duration(worst.p99) : "–", worst?.name),
      figure("Services", String(new Set(ranked.filter(({ asks }) => !asks).map(({ service }) => service)).size), "answering"),
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

  drawTable(ranked, byId, bins, seconds, found, now) {
    const first = this.last.series.reduce((least, row) => Math.min(least, number(row.time_) / 1e6), now);
    const covered = Math.max(1, Math.min(seconds, (now - first) / 1000));
    const columns = [
      ["service", "Service", false],
      ["protocol", "Protocol", false],
      ["requests", "Requests", true],
      ["rate", "Per second", true],
      ["error_ratio", "Errors", true],
      ["p50", "p50", true],
      ["p99", "p99", true],
      [null, "Throughput", false],
      [null, "State", false],
      [null, h("span", { class: "visually-hidden" }, "Requests"), false],
    ];
    const { by, descending } = this.sort;
    const value = (row) => (["service", "protocol"].includes(by) ? row[by] : number(by === "rate" ? row.requests : row[by]));
    const rows = [...ranked].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (descending ? -1 : 1));
    const heads = columns.map(([key, text, isRight]) => h("th", { scope: "col", class: isRight ? "num" : undefined, "aria-sort": key === by ? (descending ? "descending" : "ascending") : undefined },
      key ? h("button", { type: "button", "data-key": key, onclick: () => this.sortBy(key) }, text) : text));
    const body = rows.map((row) => {
      const errors = number(row.error_ratio);
      const open = row.asks ? undefined : found.find((incident) => incident.service === row.service && incident.state !== "resolved");
      const points = bins.map((at) => number(byId.get(row.id)?.get(at)?.requests ?? 0));
      return h("tr", {},
        h("td", {}, h("span", { class: "name" }, swatch(this.color(row.id)), row.service || "unknown")),
        h("td", {}, row.protocol, row.asks ? h("span", { class: "tag after", title: "What it asks of somebody who is not watched" }, "asks") : null),
        h("td", { class: "num" }, count(row.requests)),
        h("td", { class: "num" }, count(number(row.requests) / covered)),
        h("td", { class: errors >= 0.05 ? "num text-bad" : errors > 0 ? "num text-warn" : "num faint" }, percent(errors)),
        h("td", { class: "num" }, duration(row.p50)),
        h("td", { class: "num" }, duration(row.p99)),
        h("td", {}, spark(points, this.color(row.id))),
        h("td", {}, row.asks ? null : open ? h("a", { class: "tag is-bad", href: `#/incidents/${encodeURIComponent(open.incident_id)}` }, open.severity || "open") : h("span", { class: "tag is-good" }, "normal")),
        h("td", { class: "num" }, h("button", { class: "button small", type: "button", "data-service": row.id, "aria-label": `${row.protocol} requests of ${row.service || "unknown"} as PxL`, onclick: () => this.open(serviceScript(row, this.range)) }, row.protocol === "HTTP" ? "Endpoints" : "Requests")));
    });
    if (!rows.length) {
      this.table.replaceChildren(h("div", { class: "empty" }, h("b", {}, "No service has answered a request in this range."), "Undine shows one as soon as it sees a request of a process that it watches; see the probe_status table for what can be seen."));
      return;
    }
    const focused = this.table.contains(document.activeElement) ? { ...document.activeElement.dataset } : null;
    this.table.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Services" }, h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body))));
    if (focused) {
      const same = [...this.table.querySelectorAll("button")].find((button) => (focused.key && button.dataset.key === focused.key) || (focused.service !== undefined && button.dataset.service === focused.service));
      same?.focus();
    }
  }

  drawEdges() {
    const { edges, losses, asked } = this.last;
    const rows = records(edges).sort((a, b) => number(b.requests) - number(a.requests));
    const outside = (name) => name || h("span", { class: "faint" }, "outside");
    const more = number(edges.row_count) - rows.length;
    this.edges.replaceChildren(rows.length
      ? grid("Who asks whom", [
        ["asker", "Asks", outside], ["answerer", "Answers", outside], ["protocol", "Protocol", String], ["requests", "Requests", count, true],
        ["error_ratio", "Errors", (value) => h("span", { class: number(value) >= 0.05 ? "text-bad" : number(value) > 0 ? "text-warn" : "faint" }, percent(value)), true],
        ["p50", "p50", duration, true], ["p99", "p99", duration, true],
      ], rows)
      : h("div", { class: "empty" }, "Nobody asked anybody in this range."));
    this.edgeOrigin.replaceChildren(provenance(edges), ...(more > 0 ? [h("span", { class: "tag is-warn" }, `${count(more)} more`)] : []), lossTag(losses, asked));
  }

  sortBy(key) {
    this.sort = { by: key, descending: this.sort.by === key ? !this.sort.descending : !["service", "protocol"].includes(key) };
    this.draw();
  }
}
