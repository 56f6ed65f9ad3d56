// A table of an answer: cells by what they mean, sorted by a click, more rows on demand.

import { h } from "./dom.js";
import { formatter, isCode, isNumeric, isTime, isoTime, number, statusClass } from "./format.js";

const ROWS_AT_ONCE = 200;
const CUT_AT = 56;

function compare(a, b) {
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0;
  const left = number(a);
  const right = number(b);
  if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
  return left - right;
}

function cell(value, column, show) {
  if (value === null) return h("td", { class: "none" }, "null");
  if (isTime(column)) {
    return h("td", { class: "mono", title: number(value) ? isoTime(value) : "no time" }, show(value));
  }
  if (typeof value === "boolean") return h("td", {}, value ? "true" : h("span", { class: "faint" }, "false"));
  if (isNumeric(column) && !isCode(column)) return h("td", { class: "num", title: String(value) }, show(value));
  if (column.semantic === "ST_HTTP_RESP_STATUS") {
    return h("td", { class: `num ${statusClass(value)}` }, number(value) === 0 ? "none" : String(value));
  }
  if (isCode(column)) return h("td", { class: "num" }, String(value));
  const text = show(value);
  if (text === "") return h("td", { class: "none" }, "–");
  const isLong = text.length > CUT_AT || text.includes("\n");
  const isCodeLike = column.type === "UINT128" || /^[{[]/.test(text);
  const content = isLong ? h("span", { class: "cut", title: text.length > 2000 ? `${text.slice(0, 2000)}…` : text }, text) : text;
  return h("td", { class: isCodeLike ? "mono" : undefined }, content);
}

/** Draws `table` (`{name, columns, rows}`) as an element that keeps its sorting itself. */
export function grid(table, { label = table.name } = {}) {
  const shows = table.columns.map(formatter);
  let order = table.rows.map((_, at) => at);
  let sorted = null;
  let shown = ROWS_AT_ONCE;
  const body = h("tbody", {});
  const more = h("button", { class: "button small", type: "button", onclick: () => { shown += ROWS_AT_ONCE * 5; draw(); } });
  const foot = h("div", { class: "row", style: { padding: "8px 16px" } }, more);

  const heads = table.columns.map((column, at) => {
    const isRight = (isNumeric(column) || isCode(column)) && !isTime(column);
    const title = [column.type, column.semantic !== "ST_NONE" ? column.semantic : ""].filter(Boolean).join(" · ");
    return h("th", { scope: "col", class: isRight ? "num" : undefined, title }, h("button", { type: "button", onclick: () => sort(at) }, column.name));
  });

  function sort(at) {
    const descending = sorted?.at === at ? !sorted.descending : isNumeric(table.columns[at]) || isTime(table.columns[at]);
    sorted = { at, descending };
    const sign = descending ? -1 : 1;
    order = table.rows.map((_, row) => row).sort((a, b) => sign * compare(table.rows[a][at], table.rows[b][at]) || a - b);
    heads.forEach((head, column) => {
      if (column === at) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }

  function draw() {
    body.replaceChildren(
      ...order.slice(0, shown).map((row) => h("tr", {}, table.rows[row].map((value, at) => cell(value, table.columns[at], shows[at])))),
    );
    foot.hidden = order.length <= shown;
    more.textContent = `Show more (${order.length - shown} left)`;
  }

  draw();
  return h(
    "div", {},
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Rows of ${label}` },
      h("table", {}, h("thead", {}, h("tr", {}, heads)), body)),
    foot,
  );
}
