// Says where an answer came from.

import { h } from "./dom.js";
import { time, whole } from "./format.js";

/** Which tiers an answer was read from, and which range it truly covers. */
export function provenance(table) {
  // Several tables may be read in the same way; that is said once.
  const ways = new Map();
  for (const source of table.sources ?? []) {
    const what = source.kind === "live" ? "live" : source.kind === "raw" ? "rows on disk" : source.kind === "summary" ? `${source.tier.replace("_", " ")} summaries` : source.tier;
    const title = [source.table, source.rows !== undefined ? `${whole(source.rows)} rows read` : ""].filter(Boolean).join(": ");
    ways.set(what, [...(ways.get(what) ?? []), title]);
  }
  const tags = [...ways].map(([what, titles]) => h("span", { class: `tag ${what === "live" ? "is-live" : ""}`, title: [...new Set(titles)].join("\n") }, what));
  const range = table.effective_range;
  if (range) {
    tags.push(h("span", { class: "tag", title: "The range that the answer covers" }, `${range.start_ns ? time(range.start_ns, { millis: false }) : "beginning"} – ${range.end_ns ? time(range.end_ns, { millis: false }) : "now"}`));
  }
  return h("span", { class: "provenance" }, tags);
}
