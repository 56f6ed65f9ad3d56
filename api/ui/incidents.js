// Incidents: what is or was wrong, since when, why undine thinks so, and the script that shows it.

import { h } from "./dom.js";
import { incidents } from "./client.js";
import { ago, bytes, count, duration, isoTime, percent, time } from "./format.js";

const POLL_MS = 2000;

/** Shows a feature's value in its unit. */
export function featureValue(feature, value) {
  if (feature?.startsWith("latency")) return duration(value);
  if (feature?.includes("ratio") || feature?.includes("share")) return percent(value);
  if (feature?.includes("bytes")) return bytes(value);
  if (feature === "throughput") return `${count(value)}/s`;
  return count(value);
}

/** A share of quiet windows; the last digits are what matters. */
const score = (value) => (Number(value) > 0.9999 ? "> 0.9999" : Number(value).toFixed(4));

function lasted(incident, now) {
  const end = incident.ended_at ? Date.parse(incident.ended_at) : now;
  return duration(Math.max(0, end - Date.parse(incident.started_at)) * 1e6);
}

const severityTag = (incident) => h("span", { class: `tag ${incident.state === "resolved" ? "" : incident.severity === "critical" ? "is-bad" : "is-warn"}` }, incident.state === "resolved" ? "resolved" : incident.severity || "open");

/** The summary with the service first and in bold; most summaries begin with it. */
function headline({ service, summary }) {
  const rest = service && summary.startsWith(service) ? summary.slice(service.length) : ` ${summary}`;
  return [h("strong", {}, service || "unknown"), h("span", { class: "soft" }, rest)];
}

/** One line about an open incident, with a way to all of it. */
export function brief(incident, now) {
  return h("a", { class: "card incident open", href: `#/incidents/${encodeURIComponent(incident.incident_id)}`, style: { display: "block", "text-decoration": "none", color: "inherit", "border-left-color": incident.severity === "critical" ? "var(--bad)" : "var(--warn)" } },
    h("div", { class: "row", style: { padding: "11px 16px" } },
      severityTag(incident),
      h("span", { style: { flex: "1", "min-width": "220px" } }, headline(incident)),
      h("span", { class: "soft" }, `for ${lasted(incident, now)}`)));
}

function table(rows, columns) {
  return h("div", { style: { overflow: "auto" } }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map(({ name, isRight }) => h("th", { scope: "col", class: isRight ? "num" : undefined }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(({ show, isRight }) => h("td", { class: isRight ? "num" : undefined }, show(row))))))));
}

function contributions(list) {
  const most = Math.max(...list.map(({ share }) => Number(share) || 0), 0);
  const isOfOthers = list.some(({ role }) => role === "symptom");
  return table(list, [
    ...(isOfOthers ? [{ name: "Service", show: (row) => row.service ?? "–" }] : []),
    { name: "Feature", show: (row) => row.feature ?? "–" },
    { name: "Seen", isRight: true, show: (row) => (row.value === undefined ? "–" : featureValue(row.feature, row.value)) },
    { name: "Expected", isRight: true, show: (row) => (row.expected === undefined ? "–" : featureValue(row.feature, row.expected)) },
    { name: isOfOthers ? "Explained" : "Share", show: (row) => (row.share === undefined ? "–" : [h("span", { class: "bar-cell" }, h("i", { style: { width: `${most ? (100 * Number(row.share)) / most : 0}%` } })), percent(row.share)]) },
  ]);
}

/** Any list of flat objects; what is known by name is shown in its unit. */
function samples(list) {
  const names = [...new Set(list.flatMap((row) => Object.keys(row ?? {})))].slice(0, 8);
  const show = (name) => (row) => {
    const value = row?.[name];
    if (value === undefined || value === null || value === "") return "–";
    if (/^time_?$|_time$|^at$/.test(name)) return typeof value === "number" || typeof value === "bigint" ? h("span", { title: isoTime(value) }, time(value)) : String(value);
    if (/latency|duration/.test(name) && !/_ms$/.test(name)) return duration(value);
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    return h("span", { class: "cut", title: text }, text);
  };
  return table(list, names.map((name) => ({ name: name.replace(/_(ns)?$/, ""), isRight: /latency|duration|status/.test(name), show: show(name) })));
}

function history(incident) {
  return table(incident.history, [
    { name: "When", show: (row) => h("span", { title: row.time }, time(Date.parse(row.time) * 1e6, { millis: false })) },
    { name: "State", show: (row) => row.state },
    { name: "Severity", show: (row) => row.severity },
    { name: "Seen", isRight: true, show: (row) => featureValue(row.feature, row.value) },
    { name: "Score", isRight: true, show: (row) => score(row.score) },
  ]);
}

export class Incidents {
  constructor({ open, setOpenCount }) {
    this.open = open;
    this.setOpenCount = setOpenCount;
    this.opened = new Set();
    this.filter = "all";
    this.list = h("div", {});
    this.offline = h("p", { class: "offline", role: "alert", hidden: true });
    this.filters = h("div", { class: "segments", role: "group", "aria-label": "Which incidents" },
      ["all", "open", "resolved"].map((name) => h("button", { type: "button", "aria-pressed": String(name === "all"), onclick: (event) => this.choose(name, event.target) }, name)));
    this.root = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Incidents"), h("p", {}, "Found on every request, not on samples."), h("span", { class: "spacer" }), this.filters),
      this.offline, this.list);
  }

  choose(name, button) {
    this.filter = name;
    for (const other of this.filters.children) other.setAttribute("aria-pressed", String(other === button));
    this.key = null;
    this.draw();
  }

  enter(id) {
    this.isShown = true;
    if (id) {
      this.opened.add(id);
      this.target = id;
    }
    this.key = null;
    this.refresh();
  }

  leave() {
    this.isShown = false;
    clearTimeout(this.timer);
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const { incidents: found, at } = await incidents();
      this.found = found;
      this.now = Date.parse(at);
      this.offline.hidden = true;
      this.setOpenCount(found.filter((incident) => incident.state !== "resolved").length);
      this.draw();
    } catch (error) {
      this.offline.textContent = [error.message, error.hint].filter(Boolean).join("; ");
      this.offline.hidden = false;
    }
    if (this.isShown) this.timer = setTimeout(() => this.refresh(), POLL_MS);
  }

  draw() {
    if (!this.found) return;
    const shown = this.found.filter((incident) => this.filter === "all" || (incident.state === "resolved") === (this.filter === "resolved"));
    const key = JSON.stringify(shown.map((incident) => [incident.incident_id, incident.changed_at]));
    for (const when of this.list.querySelectorAll("[data-when]")) {
      const incident = this.found.find(({ incident_id: id }) => id === when.dataset.when);
      if (incident) when.textContent = this.when(incident);
    }
    if (key === this.key) return;
    this.key = key;
    if (!shown.length) {
      this.list.replaceChildren(h("div", { class: "card empty" }, h("b", {}, this.filter === "open" ? "Nothing is wrong." : "No incidents yet."), "When a service behaves unlike itself, it is listed here with what changed and the requests that show it."));
      return;
    }
    this.list.replaceChildren(...shown.map((incident) => this.item(incident)));
    if (this.target) {
      this.list.querySelector(`[data-id="${CSS.escape(this.target)}"]`)?.scrollIntoView({ block: "start" });
      this.target = null;
    }
  }

  when(incident) {
    const start = Date.parse(incident.started_at);
    return incident.state === "resolved"
      ? `${time(start * 1e6, { millis: false })}, lasted ${lasted(incident, this.now)}`
      : `since ${time(start * 1e6, { millis: false })} (${ago(start, this.now)})`;
  }

  item(incident) {
    const isOpen = incident.state !== "resolved";
    const box = h("details", { class: `card incident ${isOpen ? "open" : ""} ${incident.severity}`, "data-id": incident.incident_id, open: this.opened.has(incident.incident_id) });
    box.addEventListener("toggle", () => {
      if (box.open) this.opened.add(incident.incident_id);
      else this.opened.delete(incident.incident_id);
    });
    const all = Array.isArray(incident.contributions) ? incident.contributions : [];
    const list = all.filter(({ role }) => role !== "symptom");
    const symptoms = all.filter(({ role }) => role === "symptom");
    const requests = Array.isArray(incident.samples) ? incident.samples : [];
    const section = (title, content, className) => h("section", { class: className }, h("h2", {}, title), content);
    box.append(
      h("summary", {},
        severityTag(incident),
        h("span", { class: "what" }, headline(incident)),
        h("span", { class: "when", "data-when": incident.incident_id }, this.when(incident))),
      h("div", { class: "body" },
        section("What changed", [h("p", {}, h("strong", {}, incident.feature), " was ", h("strong", {}, featureValue(incident.feature, incident.value)), " where ", h("strong", {}, featureValue(incident.feature, incident.expected)), " was expected. Score ", score(incident.score), incident.pod ? `, pod ${incident.pod}` : "", "."),
          incident.history?.length ? [h("h3", { style: { "margin-top": "18px" } }, "History"), history(incident)] : null]),
        list.length || symptoms.length ? section("Contributions", [
          list.length ? contributions(list) : null,
          symptoms.length ? [h("h3", { style: { "margin-top": "18px" } }, "Who suffers from it"), contributions(symptoms)] : null]) : null,
        requests.length ? section("Requests that show it", samples(requests), "wide") : null,
        incident.pxl ? section("The script that shows it", [
          h("pre", { class: "code-block", tabindex: "0" }, incident.pxl),
          h("div", { class: "row", style: { "margin-top": "8px" } },
            h("button", { class: "button small primary", type: "button", onclick: () => this.open(incident.pxl) }, "Open in editor"),
            h("button", { class: "button small", type: "button", onclick: (event) => navigator.clipboard?.writeText(incident.pxl).then(() => { event.target.textContent = "Copied"; }) }, "Copy")),
        ], "wide") : null));
    return box;
  }
}
