// What can be asked: every table with its columns, what they mean, and what is kept of them.

import { h } from "./dom.js";
import { tables } from "./client.js";
import { bytes, count, whole } from "./format.js";

const KINDS = {
  event: "Things that happened; older windows become summaries.",
  counter: "Counters of an entity; older windows become summaries.",
  gauge: "Momentary values of an entity; older windows become summaries.",
  stacks: "Stacks of an entity; of older windows the most frequent are kept.",
  state: "Versions of what exists.",
  record: "Findings; every row is kept.",
};
const ROLES = { time: "time", dimension: "grouped by", measure: "summed", sketched: "quantiles", counter: "summed, with its increase", detail: "row only" };

/** Text in which backticks mark code. */
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

const query = (table) => `import px

# ${table.doc}
df = px.DataFrame('${table.name}', start_time='-15m')
px.display(df.head(100))
`;

export class Tables {
  constructor({ open }) {
    this.open = open;
    this.list = h("div", { role: "navigation", class: "card picker", "aria-label": "Tables" });
    this.detail = h("section", { class: "card" });
    this.offline = h("p", { class: "offline", role: "alert", hidden: true });
    this.root = h("div", {}, h("div", { class: "head" }, h("h1", {}, "Tables"), h("p", {}, "Each can be asked with PxL or SQL.")), this.offline, h("div", { class: "split" }, this.list, this.detail));
  }

  async enter(name) {
    this.name = name || this.name || "http_events";
    try {
      this.found = (await tables()).tables;
      this.offline.hidden = true;
      this.draw();
    } catch (error) {
      this.offline.textContent = [error.message, error.hint].filter(Boolean).join("; ");
      this.offline.hidden = false;
    }
  }

  leave() {}

  draw() {
    const table = this.found.find(({ name }) => name === this.name) ?? this.found[0];
    this.list.replaceChildren(...this.found.map((each) => h("a", { href: `#/tables/${encodeURIComponent(each.name)}`, "aria-current": each === table ? "true" : undefined },
      h("span", { class: "mono" }, each.name), h("small", {}, `${count(each.rows?.hot ?? 0)} rows`), h("small", { style: { "grid-column": "1 / -1" } }, each.kind))));
    const rows = table.rows;
    const size = rows
      ? [`${whole(rows.hot)} rows in memory`, `${whole(rows.sealed)} sealed`, rows.evicted ? `${whole(rows.evicted)} evicted` : "", rows.bytes ? bytes(rows.bytes) : ""].filter(Boolean).join(" · ")
      : "";
    const visible = table.columns.map((column) => h("tr", {},
      h("td", { class: "mono" }, column.visibility === "context" ? [h("span", { class: "faint" }, "df.ctx["), `'${column.name}'`, h("span", { class: "faint" }, "]")] : column.name),
      h("td", { class: "tight soft" }, column.type.toLowerCase()),
      h("td", { class: "tight soft" }, column.semantic === "ST_NONE" ? "" : column.semantic.replace(/^ST_/, "").toLowerCase().replaceAll("_", " ")),
      h("td", { class: "tight" }, ROLES[column.role] === "row only" ? h("span", { class: "faint" }, "row only") : h("span", { class: "tag" }, ROLES[column.role] ?? column.role)),
      h("td", {}, prose(column.doc), column.class !== "plain" ? h("span", { class: "tag is-warn", style: { "margin-left": "8px" }, title: "Redacted as configured before it is written" }, "sensitive") : null)));
    this.detail.replaceChildren(
      h("header", {}, h("h2", { class: "mono" }, table.name), h("span", { class: "tag", title: KINDS[table.kind] }, table.kind), h("span", { class: "soft" }, size), h("span", { class: "spacer" }),
        h("button", { class: "button small primary", type: "button", onclick: () => this.open(query(table)) }, "Query it")),
      h("p", { class: "prose" }, prose(table.doc)),
      h("div", { class: "scroll", style: { "max-height": "none" } }, h("table", { class: "wrap" },
        h("thead", {}, h("tr", {}, ["Column", "Type", "Meaning", "In summaries", "Description"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, visible))));
  }
}
