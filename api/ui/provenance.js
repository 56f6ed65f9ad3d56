// Says where an answer came from.

import { h } from "./dom.js";
import { time, whole } from "./format.js";

/** Which tiers an answer was read from, and which range it truly covers. */
export function provenance(table) {
  const tags = (table.sources ?? []).map((source) => {
    const isLive = source.kind === "live";
    const what = isLive ? "live" : source.kind === "raw" ? "rows on disk" : `${source.tier} summaries`;
    return h("span", { class: `tag ${isLive ? "is-live" : ""}`, title: [source.table, source.rows !== undefined ? `${whole(source.rows)} rows read` : ""].filter(Boolean).join(": ") }, what);
  });
  const range = table.effective_range;
  if (range) {
    tags.push(h("span", { class: "tag", title: "The range that the answer covers" }, `${range.start_ns ? time(range.start_ns, { millis: false }) : "beginning"} – ${range.end_ns ? time(range.end_ns, { millis: false }) : "now"}`));
  }
  return h("span", { class: "provenance" }, tags);
}
