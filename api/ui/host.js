// What the host's processes and connections use, how TCP and TLS fare, and what Undine itself costs.

import { h } from "./dom.js";
import { Chart } from "./chart.js";
import { records, run, tables } from "./client.js";
import { bytes, count, duration, number, percent, time, whole } from "./format.js";
import { Panel, grid, lossScript, share } from "./panel.js";

const RANGES = {
  "5m": { text: "5 min", ms: 300e3, bin: 10 },
  "15m": { text: "15 min", ms: 900e3, bin: 30 },
  "1h": { text: "1 h", ms: 3600e3, bin: 60 },
  "6h": { text: "6 h", ms: 6 * 3600e3, bin: 600 },
};
const POLL_MS = 10_000;
const SERIES_MAX = 8;

const cgroupsScript = (range) => `import px

# What each cgroup used, by time. Counters: what a window used is its last reading less that before it.
df = px.DataFrame('cgroup_stats', start_time='-${range}')
df.time_ = px.bin(df.time_, px.seconds(${RANGES[range].bin}))
df = df.groupby(['cgroup', 'time_']).agg(
    cpu=('cpu_usage_ns', px.max),
    throttled=('cpu_throttled_ns', px.max),
    memory=('memory_bytes', px.max),
    memory_limit=('memory_max_bytes', px.max),
    oom_kills=('memory_oom_kills', px.max),
    cpu_waiting=('cpu_some_ns', px.max),
    memory_waiting=('memory_some_ns', px.max),
    io_waiting=('io_some_ns', px.max),
    pids=('pids', px.max),
)
px.display(df, 'cgroups')
`;

const tcpScript = (range) => `import px

# How TCP fares between services; of each connection its newest counters.
df = px.DataFrame('tcp_stats_events', start_time='-${range}')
df.service = df.ctx['service']
df.peer = df.ctx['remote_service']
df = df.groupby(['upid', 'service', 'peer', 'local_addr', 'local_port', 'remote_addr', 'remote_port']).agg(
    srtt=('srtt', px.max),
    sent=('tx', px.max),
    received=('rx', px.max),
    segments=('segments_out', px.max),
    retransmits=('retransmits', px.max),
    drops=('drops', px.max),
    resets_sent=('resets_sent', px.max),
    resets_received=('resets_received', px.max),
)
df.resets = df.resets_sent + df.resets_received
df = df.groupby(['service', 'peer']).agg(
    connections=('srtt', px.count),
    rtt=('srtt', px.quantiles),
    sent=('sent', px.sum),
    received=('received', px.sum),
    segments=('segments', px.sum),
    retransmits=('retransmits', px.sum),
    drops=('drops', px.sum),
    resets=('resets', px.sum),
)
df.rtt_p50 = px.DurationNanos(px.floor(px.pluck_float64(df.rtt, 'p50')))
df.rtt_p99 = px.DurationNanos(px.floor(px.pluck_float64(df.rtt, 'p99')))
px.display(df, 'tcp')
`;

const troubleScript = (range) => `import px

# What TCP sent again, threw away or reset, by reason.
def counted(df):
    df.service = df.ctx['service']
    return df.groupby(['event', 'reason', 'state', 'service']).agg(
        count=('count', px.sum),
        last_seen=('time_', px.max),
    )

again = px.DataFrame('tcp_retransmits', start_time='-${range}')
again.event = 'sent again'
again.reason = ''
thrown = px.DataFrame('tcp_drops', start_time='-${range}')
thrown.event = 'thrown away'
reset = px.DataFrame('tcp_resets', start_time='-${range}')
reset.event = 'reset ' + reset.direction
px.display(counted(again).append([counted(thrown), counted(reset)]), 'trouble')
`;

const tlsScript = (range) => `import px

# TLS handshakes, as far as they can be read without keys.
df = px.DataFrame('tls_events', start_time='-${range}')
df.service = df.ctx['service']
df.server_name = df.ctx['server_name']
df.version = df.ctx['version']
df.cipher = df.ctx['cipher']
df.refused = df.ctx['failed'] == 1
df = df.groupby(['service', 'server_name', 'version', 'cipher']).agg(
    handshakes=('latency', px.count),
    refused=('refused', px.sum),
    latency=('latency', px.quantiles),
)
df.p99 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p99')))
px.display(df, 'tls')
`;

const jvmScript = (range) => `import px

# Heap and garbage collection of each Java virtual machine.
df = px.DataFrame('jvm_stats', start_time='-${range}')
df = df.groupby('upid').agg(
    first=('time_', px.min),
    last=('time_', px.max),
    young_min=('young_gc_time', px.min),
    young_max=('young_gc_time', px.max),
    full_min=('full_gc_time', px.min),
    full_max=('full_gc_time', px.max),
    used=('used_heap_size', px.max),
    limit=('max_heap_size', px.max),
)
df.service = df.ctx['service']
df.pid = px.upid_to_pid(df.upid)
df.young = px.DurationNanos(df.young_max - df.young_min)
df.full = px.DurationNanos(df.full_max - df.full_min)
span = df.last - df.first
df.gc_share = px.Percent(px.select(span > 0, (df.young + df.full) / span, 0.0))
px.display(df[['service', 'pid', 'used', 'limit', 'young', 'full', 'gc_share']], 'jvm')
`;

const processesScript = (range) => `import px

# What each process used.
df = px.DataFrame('process_stats', start_time='-${range}')
df = df.groupby('upid').agg(
    first=('time_', px.min),
    last=('time_', px.max),
    user_min=('cpu_utime_ns', px.min),
    user_max=('cpu_utime_ns', px.max),
    kernel_min=('cpu_ktime_ns', px.min),
    kernel_max=('cpu_ktime_ns', px.max),
    read_min=('read_bytes', px.min),
    read_max=('read_bytes', px.max),
    write_min=('write_bytes', px.min),
    write_max=('write_bytes', px.max),
    rss=('rss_bytes', px.max),
    threads=('num_threads', px.max),
)
df.service = df.ctx['service']
df.pid = px.upid_to_pid(df.upid)
span = df.last - df.first
busy = df.user_max - df.user_min + df.kernel_max - df.kernel_min
df.cpu = px.Percent(px.select(span > 0, busy / span, 0.0))
df.read = px.Bytes(df.read_max - df.read_min)
df.written = px.Bytes(df.write_max - df.write_min)
px.display(df[['service', 'pid', 'cpu', 'rss', 'threads', 'read', 'written']], 'processes')
`;

const probesScript = () => `import px

# Undine's own programs in the kernel: whether they run, and what they cost.
df = px.DataFrame('probe_status', start_time='-24h')
df.program = px.pluck(df.info, 'program')
df.runs = px.pluck_int64(df.info, 'runs_per_second')
df.run_ns = px.pluck_int64(df.info, 'run_ns')
df.cpu_ppm = px.pluck_int64(df.info, 'cpu_ppm')
df = df.groupby(['source_connector', 'tracepoint', 'program', 'status', 'error']).agg(
    runs=('runs', px.max),
    run_ns=('run_ns', px.max),
    cpu_ppm=('cpu_ppm', px.max),
    last=('time_', px.max),
)
df.cpu = px.Percent(df.cpu_ppm / 1000000)
px.display(df, 'probes')
`;

const lossesScript = (range) => `import px

# What was not kept, where and why. Operations and bytes are exact; rows are bounds.
df = px.DataFrame('data_loss', start_time='-${range}')
df = df.groupby(['source_table', 'stage', 'reason']).agg(
    operations=('operations', px.sum),
    bytes=('bytes', px.sum),
    rows_min=('rows_min', px.sum),
    last=('time_', px.max),
)
px.display(df, 'losses')
`;

const STATUS = { 0: "runs", 7: "not permitted", 10: "not available", 12: "refused" };
const named = (service) => service || h("span", { class: "faint" }, "unknown");
const untold = () => h("span", { class: "faint", title: "The kernel does not tell it of this cgroup" }, "–");
const or = (show) => (value) => (number(value) ? show(value) : h("span", { class: "faint" }, "0"));
const warned = (show) => (value) => (number(value) ? h("span", { class: "text-warn" }, show(value)) : h("span", { class: "faint" }, "0"));
const by = (key) => (a, b) => number(b[key]) - number(a[key]);

export class Host {
  constructor({ open }) {
    this.range = RANGES[localStorage.getItem("undine.host-range")] ? localStorage.getItem("undine.host-range") : "5m";
    this.isLive = true;
    this.colors = new Map();
    this.charts = {
      cpu: new Chart({ label: "CPU of each cgroup in CPUs", format: (value) => `${count(value)} CPU` }),
      memory: new Chart({ label: "Memory of each cgroup", format: bytes, base: 1024 }),
      pressure: new Chart({ label: "Share of time in which a task of the cgroup waited for a CPU", format: percent }),
    };
    const panel = (settings) => new Panel({ ...settings, open });
    this.panels = [
      panel({
        title: "Cgroups", unit: "by time", output: "cgroups", tables: ["cgroup_stats"], script: cgroupsScript,
        empty: "No cgroup of the watched processes has been read in this range.",
        draw: (rows) => this.drawCgroups(rows),
      }),
      panel({
        title: "Processes", output: "processes", tables: ["process_stats"], script: processesScript,
        empty: "No watched process has been read in this range.",
        draw: (rows) => grid("Processes", [
          ["service", "Service", named], ["pid", "Pid", String, true], ["cpu", "CPU", (value) => share(value, percent), true],
          ["rss", "Memory", bytes, true], ["threads", "Threads", whole, true], ["read", "Read", or(bytes), true], ["written", "Written", or(bytes), true],
        ], rows.sort(by("cpu"))),
      }),
      panel({
        title: "TCP", unit: "between services", output: "tcp", tables: ["tcp_stats_events"], script: tcpScript,
        empty: "No connection has been used in this range.",
        draw: (rows) => grid("TCP", [
          ["service", "Service", named], ["peer", "Peer", named], ["connections", "Connections", count, true],
          ["rtt_p50", "Round trip p50", duration, true], ["rtt_p99", "p99", duration, true], ["sent", "Sent", bytes, true], ["received", "Received", bytes, true],
          ["retransmits", "Sent again", (value, row) => (number(value) ? h("span", { class: "text-warn" }, `${count(value)} (${percent(number(value) / Math.max(1, number(row.segments)))})`) : h("span", { class: "faint" }, "0")), true],
          ["drops", "Thrown away", warned(count), true], ["resets", "Resets", warned(count), true],
        ], rows.sort(by("connections"))),
      }),
      panel({
        title: "TCP trouble", unit: "by reason", output: "trouble", tables: ["tcp_retransmits", "tcp_drops", "tcp_resets"], script: troubleScript,
        empty: "Nothing was sent again, thrown away or reset in this range.",
        draw: (rows) => grid("TCP trouble", [
          ["event", "What", String], ["reason", "Reason", (value) => (value ? h("code", {}, value) : "")], ["state", "State", (value) => value.toLowerCase()],
          ["service", "Service", named], ["count", "Packets", count, true], ["last_seen", "Last", (value) => time(value, { millis: false }), true],
        ], rows.sort(by("count"))),
      }),
      panel({
        title: "TLS handshakes", output: "tls", tables: ["tls_events"], script: tlsScript, isOptional: true,
        empty: "No handshake was seen in this range.",
        draw: (rows) => grid("TLS handshakes", [
          ["server_name", "Name", (value) => value || h("span", { class: "faint" }, "none")], ["service", "Service", named],
          ["version", "Version", (value) => h("span", { class: /1\.[01]$|SSL/.test(value) ? "text-bad" : undefined }, value || "none chosen")], ["cipher", "Cipher suite", String],
          ["handshakes", "Handshakes", count, true], ["refused", "Refused", warned(count), true], ["p99", "p99", duration, true],
        ], rows.sort(by("handshakes"))),
      }),
      panel({
        title: "Java virtual machines", output: "jvm", tables: ["jvm_stats"], script: jvmScript, isOptional: true,
        empty: "No Java virtual machine was read in this range.",
        draw: (rows) => grid("Java virtual machines", [
          ["service", "Service", named], ["pid", "Pid", String, true], ["used", "Heap at most", (value, row) => share(number(value) / Math.max(1, number(row.limit)), () => bytes(value)), true],
          ["limit", "Limit", bytes, true], ["young", "Young collections", duration, true], ["full", "Full collections", duration, true], ["gc_share", "Of the time", percent, true],
        ], rows.sort(by("used"))),
      }),
      panel({
        title: "Undine's own probes", unit: "state and cost in the last 24 h", output: "probes", tables: ["probe_status"], script: probesScript, everyMs: 60_000,
        empty: "No probe was tried: nothing is captured.",
        draw: (rows) => grid("Undine's own probes", [
          ["tracepoint", "Probe", (value) => h("code", {}, value)], ["program", "Program", String],
          ["status", "State", (value, row) => h("span", { class: `tag ${number(value) ? "is-warn" : "is-good"}`, title: row.error }, STATUS[number(value)] ?? `status ${value}`)],
          ["runs", "Runs per second, at most", or(count), true], ["run_ns", "Each", or(duration), true], ["cpu", "Of a CPU", or(percent), true],
        ], rows.sort((a, b) => number(b.cpu_ppm) - number(a.cpu_ppm) || number(b.status) - number(a.status))),
      }),
      panel({
        title: "Losses", unit: "what was not kept", output: "losses", tables: ["data_loss"], script: lossesScript,
        empty: "Nothing was lost in this range.",
        draw: (rows) => grid("Losses", [
          ["source_table", "Table", (value) => (value ? h("code", {}, value) : h("span", { class: "faint" }, "not known"))], ["stage", "Where", String], ["reason", "Why", String],
          ["operations", "Operations", or(count), true], ["bytes", "Bytes", or(bytes), true], ["rows_min", "Rows, at least", or(count), true], ["last", "Last", (value) => time(value, { millis: false }), true],
        ], rows.sort(by("operations"))),
      }),
    ];
    this.ranges = h("div", { class: "segments", role: "group", "aria-label": "Time range" },
      Object.entries(RANGES).map(([key, { text }]) => h("button", { type: "button", "data-range": key, "aria-pressed": String(key === this.range), onclick: () => this.setRange(key) }, text)));
    this.root = h("div", {},
      h("div", { class: "head" }, h("h1", {}, "Host"), h("p", {}, "Of what is watched, and of no one else."), h("span", { class: "spacer" }), this.ranges),
      h("div", { class: "stack" }, this.panels.map((each) => each.root)));
  }

  setRange(range) {
    this.range = range;
    localStorage.setItem("undine.host-range", range);
    for (const button of this.ranges.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    this.refresh();
  }

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

  /** Asks panel by panel, so that the page never keeps more than one run busy. */
  async refresh() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const asking = new AbortController();
    this.asking = asking;
    const began = performance.now();
    const { range } = this;
    const [lost, found] = await Promise.all([
      run(lossScript(range), { signal: asking.signal }).then((answer) => records(answer.tables[0]), () => null),
      tables().then((answer) => answer.tables, () => null),
    ]);
    const held = found && new Set(found.filter(({ rows }) => number(rows?.hot ?? 0) + number(rows?.sealed ?? 0) > 0).map(({ name }) => name));
    for (const panel of this.panels) {
      if (asking.signal.aborted) return;
      await panel.refresh({ range, losses: lost, held, signal: asking.signal });
    }
    if (this.asking === asking && this.isShown) {
      const pause = Math.max(POLL_MS, 5 * (performance.now() - began));
      this.timer = setTimeout(() => (document.hidden ? this.wait() : this.refresh()), pause);
    }
  }

  wait() {
    document.addEventListener("visibilitychange", () => { if (this.isShown) this.refresh(); }, { once: true });
  }

  drawCgroups(rows, answer) {
    const byCgroup = new Map();
    for (const row of rows) {
      if (!byCgroup.has(row.cgroup)) byCgroup.set(row.cgroup, []);
      byCgroup.get(row.cgroup).push({ ...row, at: number(row.time_) / 1e6 });
    }
    const rates = (readings, name) => readings.slice(1).map((row, at) => [row.at, Math.max(0, number(row[name]) - number(readings[at][name])) / ((row.at - readings[at].at) * 1e6)]);
    const mean = (readings, name) => {
      const [first, last] = [readings[0], readings.at(-1)];
      return last.at > first.at ? Math.max(0, number(last[name]) - number(first[name])) / ((last.at - first.at) * 1e6) : 0;
    };
    const cgroups = [...byCgroup].map(([cgroup, readings]) => {
      readings.sort((a, b) => a.at - b.at);
      const last = readings.at(-1);
      return {
        cgroup, readings, cpu: mean(readings, "cpu"), throttled: mean(readings, "throttled"), memory: number(last.memory), limit: number(last.memory_limit),
        kills: Math.max(0, number(last.oom_kills) - number(readings[0].oom_kills)), pids: number(last.pids),
        cpuWaiting: mean(readings, "cpu_waiting"), memoryWaiting: mean(readings, "memory_waiting"), ioWaiting: mean(readings, "io_waiting"),
      };
    }).sort((a, b) => b.cpu - a.cpu || (a.cgroup < b.cgroup ? -1 : 1));
    for (const { cgroup } of cgroups) if (!this.colors.has(cgroup)) this.colors.set(cgroup, this.colors.size);
    const shown = cgroups.slice(0, SERIES_MAX);
    const { ms, bin } = RANGES[this.range];
    const now = Date.now();
    const newest = Math.max(...cgroups.map(({ readings }) => readings.at(-1).at)) + bin * 1e3;
    const frame = { from: Math.min(now, newest) - ms, to: newest };
    const lines = (points) => shown.map(({ cgroup, readings }) => ({ name: cgroup, color: this.colors.get(cgroup), points: points(readings) }));
    const waiting = "Waiting for a second reading.";
    this.charts.cpu.set({ ...frame, empty: waiting, series: lines((readings) => rates(readings, "cpu")) });
    this.charts.memory.set({ ...frame, empty: "The kernel does not tell the memory of these cgroups.", series: lines((readings) => readings.map((row) => [row.at, number(row.memory) || null])) });
    this.charts.pressure.set({ ...frame, empty: waiting, least: 0.01, series: lines((readings) => rates(readings, "cpu_waiting")) });
    const chart = (title, unit, each) => h("div", {}, h("h3", { class: "inner" }, title, h("span", { class: "unit" }, unit)), each.root);
    return h("div", {},
      h("div", { class: "charts inner" }, chart("CPU", "CPUs", this.charts.cpu), chart("Memory", "", this.charts.memory), chart("Waiting for a CPU", "share of time", this.charts.pressure)),
      grid("Cgroups", [
        ["cgroup", "Cgroup", (value) => h("code", {}, value)], ["cpu", "CPUs", (value) => count(value), true], ["throttled", "Throttled", warned(percent), true],
        ["memory", "Memory", (value, row) => (!value ? untold() : row.limit > 0 ? share(value / row.limit, () => bytes(value)) : bytes(value)), true], ["limit", "Limit", (value) => (value > 0 ? bytes(value) : h("span", { class: "faint" }, "none")), true],
        ["kills", "Killed for memory", warned(count), true], ["cpuWaiting", "Waits: CPU", or(percent), true], ["memoryWaiting", "memory", or(percent), true], ["ioWaiting", "I/O", or(percent), true], ["pids", "Tasks", (value) => (value ? whole(value) : untold()), true],
      ], cgroups));
  }
}
