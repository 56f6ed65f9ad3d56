// Starts the page: which part is shown, the look, and what is said at the edges.

import { h } from "./dom.js";
import { ready, records, run, tables } from "./client.js";
import { bytes, count, number, whole } from "./format.js";
import { Overview } from "./overview.js";
import { Incidents } from "./incidents.js";
import { Query, linkOf } from "./query.js";
import { Tables } from "./tables.js";
import { Host } from "./host.js";
import { Profile } from "./profile.js";

const STATUS_MS = 5000;
const TITLES = { overview: "Undine", host: "Host · Undine", profile: "Profile · Undine", incidents: "Incidents · Undine", query: "Query · Undine", tables: "Tables · Undine" };
const LOSS = `import px

# What was not kept, where and why. Operations and bytes are exact; rows are bounds.
df = px.DataFrame('data_loss', start_time='-15m')
df = df.groupby(['source_table', 'stage', 'reason']).agg(
    operations=('operations', px.sum),
    bytes=('bytes', px.sum),
    rows_min=('rows_min', px.sum),
    times=('time_', px.count),
    last=('time_', px.max),
)
px.display(df, 'data_loss')
`;

const main = document.getElementById("main");
const openCount = document.getElementById("open-count");
const setOpenCount = (open) => {
  openCount.hidden = open === 0;
  openCount.textContent = String(open);
  openCount.title = `${open} open`;
};
const pages = {};
const open = (script) => {
  location.hash = linkOf(script, false);
  pages.query.pending = script;
};
pages.overview = new Overview({ open, setOpenCount });
pages.incidents = new Incidents({ open, setOpenCount });
pages.query = new Query();
pages.tables = new Tables({ open });
pages.host = new Host({ open });
pages.profile = new Profile({ open });

let current = null;

/** `#/incidents/ID?key=value` as its parts. */
function place() {
  const hash = location.hash.replace(/^#\/?/, "");
  const [path, search = ""] = hash.split(/\?(.*)/s);
  const [name, ...rest] = path.split("/");
  return { name: pages[name] ? name : "overview", argument: decodeURIComponent(rest.join("/")), parameters: new URLSearchParams(search) };
}

function show() {
  const { name, argument, parameters } = place();
  const page = pages[name];
  const isOther = page !== current;
  if (isOther) {
    current?.leave();
    current = page;
    main.replaceChildren(page.root);
    document.title = TITLES[name];
    for (const link of document.querySelectorAll("nav [data-page]")) {
      if (link.dataset.page === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    window.scrollTo(0, 0);
  }
  if (name === "query") {
    page.enter(parameters);
    if (page.pending !== undefined) {
      const script = page.pending;
      page.pending = undefined;
      page.open(script);
    }
  } else if (isOther || argument) {
    page.enter(argument);
  }
}

/* Light or dark */
const root = document.documentElement;
const kept = localStorage.getItem("undine.theme");
if (kept) root.dataset.theme = kept;
document.getElementById("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("undine.theme", root.dataset.theme);
});

/* What was lost */
const loss = document.getElementById("loss");
loss.addEventListener("click", (event) => {
  event.preventDefault();
  open(LOSS);
});

function showLoss(rows) {
  const sum = (name) => rows.reduce((total, row) => total + Math.max(0, number(row[name])), 0);
  const operations = sum("operations");
  const least = sum("rows_min");
  loss.classList.remove("is-good", "is-warn");
  loss.classList.add(rows.length ? "is-warn" : "is-good");
  const text = !rows.length ? "nothing lost" : operations ? `${count(operations)} operations lost` : least ? `≥ ${count(least)} rows lost` : sum("bytes") ? `${bytes(sum("bytes"))} lost` : `${whole(sum("times"))} losses noted`;
  loss.querySelector("span").textContent = text;
}

/* The foot */
const status = document.getElementById("status");
const dot = (className) => h("i", { class: "dot", style: { background: className === "good" ? "var(--good)" : className === "bad" ? "var(--bad)" : "var(--warn)" } });

async function tick() {
  try {
    const [health, found, lost] = await Promise.all([ready(), tables(), run(LOSS).catch(() => null)]);
    const failing = health.checks.filter(({ ok }) => !ok);
    const rows = (name) => found.tables.reduce((sum, table) => sum + number(table.rows?.[name] ?? 0), 0);
    status.replaceChildren(
      h("span", { title: health.checks.map(({ name, ok, detail }) => `${ok ? "✓" : "✗"} ${name}: ${detail}`).join("\n") }, dot(failing.length ? "warn" : "good"), failing.length ? `${failing[0].name}: ${failing[0].detail}` : "Ready"),
      h("span", {}, `${count(rows("hot"))} rows in memory, ${count(rows("sealed"))} sealed`),
      h("span", { class: "spacer" }),
      h("span", {}, health.node ? `Node ${health.node}` : ""),
      h("a", { href: "/api/v1/openapi.json" }, "API"),
      h("a", { href: "/metrics" }, "Metrics"),
      h("span", {}, `undine ${health.version ?? ""}`),
    );
    if (lost) showLoss(records(lost.tables[0] ?? { columns: [], rows: [] }));
  } catch {
    status.replaceChildren(h("span", {}, dot("bad"), "Undine cannot be reached; the page shows what it last knew"));
  }
  setTimeout(tick, document.hidden ? STATUS_MS * 4 : STATUS_MS);
}

addEventListener("hashchange", show);
show();
tick();
