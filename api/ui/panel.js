// A panel: one script, what it answers, which range that covers, and what was lost meanwhile.

import { h } from "./dom.js";
import { records, run } from "./client.js";
import { count, number } from "./format.js";
import { provenance } from "./provenance.js";

/** Rows that a panel asks for; further ones are counted by the server. */
const ROWS_MAX = 1000;
/** Rows that a panel's table shows. */
const SHOWN_MAX = 50;

/** What was lost, by table. */
export const lossScript = (range) => `import px

# What was not kept, by the table that is short of it.
df = px.DataFrame('data_loss', start_time='-${range}')
df = df.groupby('source_table').agg(
    operations=('operations', px.sum),
    rows_min=('rows_min', px.sum),
    times=('time_', px.count),
)
px.display(df, 'losses')
`;

/** What was lost of `tables`, or of what cannot be told, as a tag; nothing if nothing was. */
export function lossTag(losses, tables) {
  const found = (losses ?? []).filter(({ source_table: table }) => table === "" || tables.includes(table));
  if (!losses) return h("span", { class: "tag", title: "What was lost is not known" }, "loss unknown");
  if (!found.length) return h("span", { class: "tag is-good", title: `Nothing was lost of ${tables.join(", ")}` }, "nothing lost");
  const sum = (name) => found.reduce((total, row) => total + Math.max(0, number(row[name])), 0);
  const text = sum("operations") ? `${count(sum("operations"))} operations lost` : sum("rows_min") ? `≥ ${count(sum("rows_min"))} rows lost` : `${count(sum("times"))} losses noted`;
  return h("span", { class: "tag is-warn", title: found.map((row) => `${row.source_table || "not known of which table"}: ${row.operations} operations, at least ${row.rows_min} rows`).join("\n") }, text);
}

export class Panel {
  /**
   * `script(range)` is the question, `tables` what it reads, `draw(rows, answer)` fills the panel. `isOptional`
   * panels are not there while their tables are empty; one with `everyMs` asks no more often than that.
   */
  constructor({ title, unit = "", tables, script, draw, output, empty, isOptional = false, everyMs = 0, open }) {
    Object.assign(this, { script, tables, draw, output, isOptional, empty, everyMs });
    this.origin = h("span", { class: "provenance" });
    this.body = h("div", { class: "panel-body" }, h("div", { class: "empty" }, "Asking."));
    this.root = h("section", { class: "card panel", "aria-label": title, hidden: isOptional },
      h("header", {}, h("h2", {}, title, unit ? h("span", { class: "unit" }, unit) : null), h("span", { class: "spacer" }),
        h("button", { class: "button small", type: "button", "aria-label": `${title} as PxL`, onclick: () => open(script(this.range)) }, "PxL")),
      this.body,
      h("footer", {}, this.origin));
  }

  /** Asks once. `held` are the tables that hold rows. */
  async refresh({ range, losses, held, signal }) {
    this.range = range;
    if (this.everyMs && performance.now() - (this.askedAt ?? -Infinity) < this.everyMs) return;
    if (held && !this.tables.some((table) => held.has(table))) {
      if (this.isOptional) this.root.hidden = true;
      else this.show([h("div", { class: "empty" }, this.empty)], null, losses);
      return;
    }
    this.root.hidden = false;
    try {
      const answer = await run(this.script(range), { limit: ROWS_MAX, signal });
      this.askedAt = performance.now();
      const table = answer.tables.find(({ name }) => name === this.output) ?? answer.tables[0];
      const rows = records(table);
      const drawn = rows.length ? this.draw(rows, answer) : h("div", { class: "empty" }, this.empty);
      this.show([drawn], table, losses, rows.length);
    } catch (error) {
      if (error.name === "AbortError" || signal?.aborted) return;
      this.show([h("p", { class: "offline", role: "alert" }, [error.message, error.hint].filter(Boolean).join("; "))], null, losses);
    }
  }

  show(children, table, losses, shown = 0) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.body.replaceChildren(...children);
    if (focused) this.body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    const more = table ? number(table.row_count ?? shown) - shown : 0;
    this.origin.replaceChildren(
      ...(table ? [provenance(table)] : []),
      ...(more > 0 ? [h("span", { class: "tag is-warn" }, `${count(more)} more rows`)] : []),
      lossTag(losses, this.tables),
    );
    this.origin.title = table?.notes.map(({ message }) => message).join("\n") ?? "";
  }
}

/** Rows as a table. Columns: `[name, title, format, isNumber]`; `format` may give an element. */
export function grid(label, columns, rows) {
  const more = rows.length - SHOWN_MAX;
  return h("div", { class: "scroll short", tabindex: "0", role: "region", "aria-label": label },
    h("table", {},
      more > 0 ? h("caption", {}, `The first ${SHOWN_MAX} of ${rows.length}.`) : null,
      h("thead", {}, h("tr", {}, columns.map(([, title, , isNumber]) => h("th", { scope: "col", class: isNumber ? "num" : undefined }, title)))),
      h("tbody", {}, rows.slice(0, SHOWN_MAX).map((row) => h("tr", {}, columns.map(([name, , format, isNumber]) => h("td", { class: isNumber ? "num" : undefined }, format(row[name], row))))))));
}

/** A share from 0 to 1 with a bar beside it. */
export function share(value, show) {
  const part = Math.max(0, Math.min(1, number(value)));
  return h("span", { class: "share" }, h("span", { class: "bar-cell", "aria-hidden": "true" }, h("i", { style: { width: `${part * 100}%` } })), show(value));
}
