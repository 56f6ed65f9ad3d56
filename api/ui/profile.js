// What services did with their CPU time, as a flame graph: wide is much, above is who called.

import { h } from "./dom.js";
import { records, run } from "./client.js";
import { count, number, percent } from "./format.js";
import { pxlText } from "./overview.js";
import { provenance } from "./provenance.js";
import { grid, lossScript, lossTag } from "./panel.js";

const RANGES = { "1m": "1 min", "5m": "5 min", "15m": "15 min", "1h": "1 h" };
/** Stacks that are asked for; the server counts the others. */
const STACKS_MAX = 5000;
/** Frames of a stack that are drawn, from the outermost on. */
const DEPTH_MAX = 120;
/** Narrower frames would not be seen. */
const SHARE_MIN = 0.001;
const ROW_PX = 20;

const profileScript = (range, service) => `import px

# What services did with their CPU time.
df = px.DataFrame('stack_traces.beta', start_time='-${range}')
df.service = df.ctx['service']
${service === null ? "" : `df = df[df.service == ${pxlText(service)}]\n`}df = df.groupby(['service', 'stack_trace']).agg(count=('count', px.sum))
px.display(df, 'stacks')
`;

/** Folded stacks as a tree: `{ name, total, own, children }`, below the service if there are several. */
export function fold(rows, withService) {
  const root = { name: "all", total: 0, own: 0, children: new Map() };
  for (const { service, stack_trace: stack, count: samples } of rows) {
    const weight = number(samples);
    root.total += weight;
    let node = root;
    const frames = stack.split(";").slice(0, DEPTH_MAX);
    for (const name of withService ? [`service ${service || "unknown"}`, ...frames] : frames) {
      if (!node.children.has(name)) node.children.set(name, { name, total: 0, own: 0, children: new Map() });
      node = node.children.get(name);
      node.total += weight;
    }
    node.own += weight;
  }
  return root;
}

/** What each function took: itself, and with all that it called; once for each sample that it is in. */
export function functions(rows) {
  const found = new Map();
  for (const { stack_trace: stack, count: samples } of rows) {
    const frames = stack.split(";");
    for (const name of new Set(frames)) {
      const each = found.get(name) ?? { name, own: 0, total: 0 };
      each.total += number(samples);
      if (frames.at(-1) === name) each.own += number(samples);
      found.set(name, each);
    }
  }
  return [...found.values()].sort((a, b) => b.own - a.own || b.total - a.total);
}

export class Profile {
  constructor({ open }) {
    this.range = RANGES[localStorage.getItem("undine.profile-range")] ? localStorage.getItem("undine.profile-range") : "5m";
    this.service = null;
    this.path = [];
    this.sought = "";
    this.ranges = h("div", { class: "segments", role: "group", "aria-label": "Time range" },
      Object.entries(RANGES).map(([key, text]) => h("button", { type: "button", "data-range": key, "aria-pressed": String(key === this.range), onclick: () => this.setRange(key) }, text)));
    this.services = h("select", { "aria-label": "Service", onchange: () => this.setService(this.services.value) });
    this.search = h("input", { type: "search", class: "search", placeholder: "Find a function", "aria-label": "Find a function", oninput: () => { this.sought = this.search.value.trim().toLowerCase(); this.draw(); } });
    this.offline = h("p", { class: "offline", role: "alert", hidden: true });
    this.origin = h("span", { class: "provenance" });
    this.crumbs = h("div", { class: "crumbs" });
    this.flame = h("div", { class: "flame", role: "tree", "aria-label": "Flame graph" });
    this.hint = h("p", { class: "flame-hint soft", "aria-live": "polite" });
    this.list = h("div", {});
    this.root = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Profile"), this.services, this.search, h("span", { class: "spacer" }),
        h("button", { class: "button small", type: "button", onclick: () => this.refresh() }, "Take again"), this.ranges),
      this.offline,
      h("section", { class: "card panel", "aria-label": "CPU time" },
        h("header", {}, h("h2", {}, "CPU time", h("span", { class: "unit" }, "of kernel and user, outermost function on top")), h("span", { class: "spacer" }),
          h("button", { class: "button small", type: "button", "aria-label": "CPU time as PxL", onclick: () => open(profileScript(this.range, this.service)) }, "PxL")),
        this.crumbs, this.flame, this.hint,
        h("footer", {}, this.origin)),
      h("section", { class: "card panel below", "aria-label": "Functions" },
        h("header", {}, h("h2", {}, "Functions", h("span", { class: "unit" }, "by their own time"))), this.list));
    new ResizeObserver(() => { if (this.flame.clientWidth !== this.width) this.draw(); }).observe(this.flame);
  }

  enter() {
    this.refresh();
  }

  leave() {
    this.asking?.abort();
  }

  setRange(range) {
    this.range = range;
    localStorage.setItem("undine.profile-range", range);
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    this.refresh();
  }

  setService(value) {
    this.service = value === "all" ? null : value.slice(1);
    this.path = [];
    this.refresh();
  }

  async refresh() {
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    try {
      const [answer, losses] = await Promise.all([
        run(profileScript(this.range, this.service), { limit: STACKS_MAX, signal: asking.signal }),
        run(lossScript(this.range), { signal: asking.signal }).then((found) => records(found.tables[0]), () => null),
      ]);
      if (asking.signal.aborted) return;
      const table = answer.tables[0];
      this.rows = records(table);
      this.offline.hidden = true;
      const more = number(table.row_count) - this.rows.length;
      this.origin.replaceChildren(provenance(table), ...(more > 0 ? [h("span", { class: "tag is-warn" }, `${count(more)} more stacks`)] : []), lossTag(losses, ["stack_traces.beta"]));
      this.origin.title = table.notes.map(({ message }) => message).join("\n");
      if (this.service === null) this.offer([...new Set(this.rows.map(({ service }) => service))].sort());
      this.draw();
    } catch (error) {
      if (error.name === "AbortError" || asking.signal.aborted) return;
      this.offline.textContent = [error.message, error.hint].filter(Boolean).join("; ");
      this.offline.hidden = false;
    }
  }

  offer(services) {
    this.services.replaceChildren(h("option", { value: "all" }, "All services"), ...services.map((service) => h("option", { value: `=${service}` }, service || "unknown")));
  }

  draw() {
    if (!this.rows) return;
    this.width = this.flame.clientWidth;
    const root = fold(this.rows, this.service === null);
    if (!root.total) {
      this.crumbs.replaceChildren();
      this.flame.replaceChildren(h("div", { class: "empty" }, h("b", {}, "No sample in this range."), "Every CPU is looked at some times a second; what is watched and idle has none. See profiler.frequency_hz in the configuration, and probe_status."));
      this.hint.textContent = "";
      this.list.replaceChildren();
      return;
    }
    let top = root;
    const path = [];
    for (const name of this.path) {
      const below = top.children.get(name);
      if (!below) break;
      top = below;
      path.push(name);
    }
    this.path = path;
    this.crumbs.replaceChildren(...["all", ...path].map((name, at) => h("button", { type: "button", class: "button small", "aria-current": at === path.length ? "true" : undefined, title: name, onclick: () => this.zoom(path.slice(0, at)) }, h("span", { class: "cut" }, name))));
    const shown = [];
    let deepest = 0;
    const place = (node, left, depth, way) => {
      const width = node.total / top.total;
      if (width < SHARE_MIN) return;
      shown.push({ node, left, width, depth, way });
      deepest = Math.max(deepest, depth);
      let from = left;
      for (const child of [...node.children.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
        place(child, from, depth + 1, [...way, child.name]);
        from += child.total / top.total;
      }
    };
    place(top, 0, 0, path);
    this.flame.style.height = `${(deepest + 1) * ROW_PX}px`;
    let hits = 0;
    this.flame.replaceChildren(...shown.map(({ node, left, width, depth, way }) => {
      const isHit = this.sought !== "" && node.name.toLowerCase().includes(this.sought);
      if (isHit) hits += 1;
      const text = `${node.name}: ${percent(node.total / root.total)}, ${count(node.total)} samples${node.own ? `, ${percent(node.own / root.total)} itself` : ""}`;
      return h("button", {
        type: "button", role: "treeitem", "aria-level": String(depth + 1), class: `frame ${kind(node.name)}${isHit ? " hit" : this.sought ? " dim" : ""}`, title: text, "aria-label": text, tabindex: depth === 0 ? "0" : "-1",
        style: { left: `${left * 100}%`, width: `${width * 100}%`, top: `${depth * ROW_PX}px`, "--tone": String(tone(node.name)) },
        onclick: () => this.zoom(way), onkeydown: (event) => this.move(event), onfocus: () => { this.hint.textContent = text; }, onpointerenter: () => { this.hint.textContent = text; },
      }, width * this.width > 30 ? node.name.replace("[k] ", "") : "");
    }));
    this.hint.textContent = this.sought ? `${count(hits)} frames hold “${this.sought}”.` : "Click a frame to see it and what it called as the whole; blue is user, orange the kernel.";
    this.list.replaceChildren(grid("Functions", [
      ["name", "Function", (value) => h("code", { class: "cut" }, value)],
      ["own", "Itself", (value) => percent(value / root.total), true],
      ["total", "With all that it calls", (value) => percent(value / root.total), true],
      ["samples", "Samples", (_, row) => count(row.own), true],
    ], functions(this.rows).filter(({ name }) => !this.sought || name.toLowerCase().includes(this.sought))));
  }

  zoom(path) {
    this.path = path;
    this.draw();
    this.flame.firstChild?.focus({ preventScroll: true });
  }

  /** Arrow keys move between frames as they are drawn. */
  move(event) {
    const here = event.currentTarget;
    if (event.key === "Escape") return this.zoom(this.path.slice(0, -1));
    const box = here.getBoundingClientRect();
    const middle = box.left + box.width / 2;
    const others = [...this.flame.children].map((frame) => [frame, frame.getBoundingClientRect()]);
    const level = (step) => others.filter(([, other]) => Math.round(other.top - box.top) === step * ROW_PX);
    const pick = {
      ArrowDown: () => level(1).filter(([, other]) => other.left >= box.left - 1 && other.right <= box.right + 1)[0],
      ArrowUp: () => level(-1).find(([, other]) => other.left <= middle && other.right >= middle),
      ArrowRight: () => level(0).find(([, other]) => other.left >= box.right - 1),
      ArrowLeft: () => level(0).filter(([, other]) => other.right <= box.left + 1).at(-1),
    }[event.key];
    if (!pick) return undefined;
    event.preventDefault();
    return pick()?.[0].focus();
  }
}

const kind = (name) => (name.startsWith("[k] ") ? "kernel" : name.startsWith("service ") || name === "all" ? "whole" : "user");

/** The same shade for the same name. */
function tone(name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 997;
  return hash % 5;
}
