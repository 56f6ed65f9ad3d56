// The editor page: write PxL or SQL, run it, read the answer and where it came from.

import { h, download, swatch } from "./dom.js";
import { Chart } from "./chart.js";
import { fetchAs, run, scripts } from "./client.js";
import { Editor } from "./editor.js";
import { duration, formatter, isCode, isNumeric, isTime, number, whole } from "./format.js";
import { grid } from "./grid.js";
import { provenance } from "./provenance.js";

const ROWS_MAX = 2000;
const CHART_SERIES_MAX = 8;
const KEPT = "undine.script";
const FIRST = `import px

# Requests of the last minute. Ctrl+Enter runs the script.
df = px.DataFrame('http_events', start_time='-1m')
df.service = df.ctx['service']
df = df[['time_', 'service', 'req_method', 'req_path', 'resp_status', 'latency']]
px.display(df.head(200))
`;
const FIRST_SQL = `SELECT service, count(*) AS requests, avg(latency) AS latency
FROM http_events
GROUP BY service
ORDER BY requests DESC
`;

/** The hash under which a script can be shared. */
export function linkOf(text, sql) {
  return `#/query?${new URLSearchParams(sql ? { sql: text } : { script: text })}`;
}

export class Query {
  constructor() {
    this.sql = false;
    this.editor = new Editor({ onrun: () => this.run(), onchange: (text) => this.keep(text) });
    this.picker = h("select", { "aria-label": "Scripts that come with undine", onchange: () => this.pick() }, h("option", { value: "" }, "Scripts…"));
    this.languages = h("div", { class: "segments", role: "group", "aria-label": "Language" },
      [["PxL", false], ["SQL", true]].map(([text, sql]) => h("button", { type: "button", "aria-pressed": String(sql === this.sql), onclick: () => this.speak(sql, true) }, text)));
    this.button = h("button", { class: "button primary", type: "button", onclick: () => this.run() }, "Run ", h("kbd", {}, "Ctrl ↵"));
    this.share = h("button", { class: "button", type: "button", onclick: () => this.copyLink() }, "Copy link");
    this.said = h("span", { class: "soft", role: "status" });
    this.doc = h("span", { class: "soft" });
    this.problems = h("div", { "aria-live": "polite" });
    this.results = h("div", { class: "stack" });
    this.root = h("div", { class: "query" },
      h("section", { class: "card" },
        h("header", {}, h("h1", {}, "Query"), this.languages, this.picker, this.doc),
        this.editor.root,
        h("div", { class: "editor-foot" }, this.button, this.share, this.said, h("span", { class: "spacer" }), h("span", { class: "faint" }, "Tab indents; Esc, then Tab leaves the editor")),
        this.problems),
      this.results);
    this.editor.value = localStorage.getItem(KEPT) || FIRST;
    this.loaded = this.loadScripts();
  }

  async loadScripts() {
    try {
      this.scripts = (await scripts()).scripts;
      this.picker.append(...this.scripts.map(({ name }) => h("option", { value: name }, name)));
      this.picker.hidden = !this.scripts.length;
    } catch { /* the page works without them; the status line says that the server is away */ }
  }

  pick() {
    if (this.choose(this.picker.value)) this.run();
  }

  /** Puts a script that comes with undine into the editor. */
  choose(name) {
    const script = this.scripts?.find((each) => each.name === name);
    if (!script) return false;
    this.load(script.script, false);
    this.picker.value = name;
    this.doc.textContent = script.doc ?? "";
    return true;
  }

  keep(text) {
    if (!this.sql) localStorage.setItem(KEPT, text);
  }

  speak(sql, withText) {
    if (sql === this.sql) return;
    this.sql = sql;
    this.editor.sql = sql;
    [...this.languages.children].forEach((button, at) => button.setAttribute("aria-pressed", String((at === 1) === sql)));
    this.doc.textContent = "";
    this.picker.value = "";
    if (withText) this.editor.value = sql ? FIRST_SQL : localStorage.getItem(KEPT) || FIRST;
    else this.editor.draw();
  }

  /** Shows the page; `parameters` come from the link. */
  enter(parameters) {
    const script = parameters.get("script");
    const sql = parameters.get("sql");
    const name = parameters.get("name");
    if (sql !== null) this.load(sql, true);
    else if (script !== null) this.load(script, false);
    else if (name !== null) this.loaded.then(() => this.choose(name));
    // A link only fills the editor; whoever opened it decides to run it.
  }

  leave() {
    this.asking?.abort();
  }

  load(text, sql) {
    this.speak(sql, false);
    this.editor.value = text;
    this.doc.textContent = "";
    this.picker.value = "";
    this.keep(text);
  }

  /** Opens a script of this page's own making and runs it. */
  open(text) {
    this.load(text, false);
    this.run();
  }

  copyLink() {
    history.replaceState(null, "", linkOf(this.editor.value, this.sql));
    navigator.clipboard?.writeText(location.href).then(() => this.say("Link copied"), () => this.say("The link is in the address bar"));
  }

  say(text) {
    this.said.textContent = text;
  }

  async run() {
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    const text = this.editor.value;
    const sql = this.sql;
    history.replaceState(null, "", linkOf(text, sql));
    this.button.disabled = true;
    this.say("Running…");
    const began = performance.now();
    try {
      const answer = await run(text, { sql, limit: ROWS_MAX, signal: asking.signal });
      this.problems.replaceChildren();
      this.editor.mark([]);
      this.say(`Done in ${duration((performance.now() - began) * 1e6)}`);
      this.show(answer, text, sql);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.say("");
      this.refuse(error, text);
    } finally {
      if (this.asking === asking) this.button.disabled = false;
    }
  }

  refuse(problem, text) {
    this.results.classList.add("stale");
    const diagnostics = problem.diagnostics ?? [];
    this.editor.mark(diagnostics);
    if (diagnostics.length) {
      this.say(diagnostics.length === 1 ? "1 mistake" : `${diagnostics.length} mistakes`);
      this.problems.replaceChildren(...diagnostics.map((diagnostic) => this.diagnostic(diagnostic, text)));
      return;
    }
    this.problems.replaceChildren(h("div", { class: "problem", role: "alert" }, h("b", {}, problem.message), problem.hint ? h("span", { class: "soft" }, problem.hint) : null, problem.id ? h("div", { class: "faint mono" }, `id ${problem.id}`) : null));
  }

  diagnostic(diagnostic, text) {
    const { line, col, end_line: endLine, end_col: endCol, message, label, help } = diagnostic;
    const source = text.split("\n")[line - 1] ?? "";
    const number = String(line);
    const pad = " ".repeat(number.length);
    const width = Math.max(1, endLine === line ? endCol - col : source.length - col + 1);
    return h("div", { class: "diagnostic" },
      h("button", { class: "button small", type: "button", style: { float: "right" }, onclick: () => this.editor.goTo(diagnostic) }, `Go to line ${line}`),
      h("span", { class: "where" }, message),
      h("pre", {}, h("i", {}, `${number} │ `), source, "\n", h("i", {}, `${pad} │ `), " ".repeat(Math.max(0, col - 1)), h("b", {}, `${"^".repeat(width)}${label && label !== message ? ` ${label}` : ""}`)),
      help ? h("div", { class: "help" }, `Help: ${help}`) : null);
  }

  show(answer, text, sql) {
    this.results.classList.remove("stale");
    const { tables } = answer;
    const parts = [];
    for (const sent of answer.exports ?? []) {
      parts.push(h("section", { class: "card" }, h("div", { class: "result-bar" }, h("span", { class: "tag is-good" }, "exported"), h("span", {}, `${whole(sent.points)} points and ${whole(sent.spans)} spans of ${whole(sent.rows)} rows to ${sent.endpoint}`), sent.rejected ? h("span", { class: "text-bad" }, `${whole(sent.rejected)} rejected`) : null, h("span", { class: "soft" }, sent.message ?? ""))));
    }
    if (!tables.length) {
      if (!parts.length) parts.push(h("section", { class: "card empty" }, h("b", {}, "The script shows nothing."), "Call px.display(df) on what you want to see."));
      this.results.replaceChildren(...parts);
      return;
    }
    const holder = h("div", {});
    const card = h("section", { class: "card", "data-result": "" });
    const choose = (at) => {
      [...(tabs?.children ?? [])].forEach((tab, index) => {
        tab.setAttribute("aria-selected", String(index === at));
        tab.tabIndex = index === at ? 0 : -1;
      });
      holder.replaceChildren(...this.table(tables[at], text, sql));
    };
    const tabs = tables.length > 1
      ? h("div", { class: "tabs", role: "tablist", "aria-label": "Tables of the answer", onkeydown: (event) => {
          const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
          if (!move) return;
          const at = [...tabs.children].indexOf(document.activeElement);
          const next = (at + move + tables.length) % tables.length;
          choose(next);
          tabs.children[next].focus();
        } }, tables.map((table, at) => h("button", { type: "button", role: "tab", onclick: () => choose(at) }, `${table.name} (${whole(table.row_count)})`)))
      : null;
    if (tabs) card.append(tabs);
    card.append(holder);
    choose(0);
    this.results.replaceChildren(...parts, card);
  }

  table(table, text, sql) {
    const parts = [];
    const shown = table.rows.length;
    const rows = table.row_count === 1 ? "1 row" : `${whole(table.row_count)} rows`;
    const file = (format, type) => h("button", { class: "button small", type: "button", onclick: async (event) => {
      event.target.disabled = true;
      try {
        download(`${table.name}.${format}`, type, await fetchAs(text, format, table.name, sql));
      } catch (error) {
        this.refuse(error, text);
      }
      event.target.disabled = false;
    } }, format.toUpperCase());
    parts.push(h("div", { class: "result-bar" },
      h("h2", {}, table.name), h("span", { class: "soft" }, table.truncated ? `${rows}, the first ${whole(shown)} shown` : rows),
      provenance(table), h("span", { class: "spacer" }), h("span", { class: "faint" }, "Download"), file("csv", "text/csv"), file("json", "application/json"), file("arrow", "application/vnd.apache.arrow.stream")));
    for (const note of table.notes ?? []) parts.push(h("div", { class: "note" }, note.message ?? String(note)));
    const drawn = plot(table);
    if (drawn) parts.push(drawn);
    parts.push(shown ? grid(table) : h("div", { class: "empty" }, h("b", {}, "No rows."), "Nothing in this range matched. A longer start_time or fewer filters may find some."));
    return parts;
  }
}

/** A chart where a table has a time and a number; otherwise nothing. */
function plot(table) {
  const at = table.columns.findIndex(isTime);
  const values = table.columns.map((column, index) => ({ column, index })).filter(({ column }) => isNumeric(column) && !isCode(column));
  if (at < 0 || !values.length || table.rows.length < 3) return null;
  const times = new Set(table.rows.map((row) => String(row[at])));
  if (times.size < 2) return null;
  const names = table.columns.map((column, index) => ({ column, index })).filter(({ column }) => column.type === "STRING" && !/QUANTILES/.test(column.semantic));
  // One line per combination of the text columns, unless the rows are single events.
  const groups = new Map();
  for (const row of table.rows) {
    const key = names.map(({ index }) => row[index]).join(" · ");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const isEvents = groups.size > table.rows.length / 2 || [...groups.values()].some((rows) => new Set(rows.map((row) => String(row[at]))).size < rows.length);
  const lines = isEvents ? [["all rows", table.rows]] : [...groups];
  let chosen = values.find(({ column }) => /p99|latency|rate|ratio|throughput|requests|count/.test(column.name)) ?? values[0];
  const chart = new Chart({ label: `${table.name} over time`, format: (value) => formatter(chosen.column)(value), height: 220 });
  const legend = h("div", { class: "legend", style: { padding: "0 16px 10px" } });
  const draw = () => {
    chart.format = formatter(chosen.column);
    chart.base = chosen.column.semantic === "ST_BYTES" ? 1024 : 10;
    const sum = ([, rows]) => rows.reduce((total, row) => total + Math.abs(number(row[chosen.index]) || 0), 0);
    const top = [...lines].sort((a, b) => sum(b) - sum(a)).slice(0, CHART_SERIES_MAX);
    const series = top.map(([name, rows], color) => ({
      name: name || chosen.column.name, color, area: top.length === 1 && !isEvents, dots: isEvents,
      points: rows.map((row) => [number(row[at]) / 1e6, number(row[chosen.index])]).sort((a, b) => a[0] - b[0]),
    }));
    const all = table.rows.map((row) => number(row[at]) / 1e6).filter((ms) => ms > 0);
    chart.set({ from: Math.min(...all), to: Math.max(...all), series });
    legend.replaceChildren(...(series.length > 1 ? series.map((line) => h("span", { class: "row soft", style: { gap: "6px" } }, swatch(line.color), line.name)) : []), ...(lines.length > top.length ? [h("span", { class: "faint" }, `the largest ${top.length} of ${lines.length}`)] : []));
  };
  const select = h("select", { "aria-label": "Column that is drawn", onchange: () => { chosen = values[select.selectedIndex]; draw(); } }, values.map(({ column }) => h("option", { selected: column === chosen.column }, column.name)));
  draw();
  return h("div", {}, h("div", { class: "row", style: { padding: "10px 16px 4px" } }, values.length > 1 ? select : h("span", { class: "soft" }, chosen.column.name)), chart.root, legend);
}
