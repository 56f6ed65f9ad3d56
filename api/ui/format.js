// Turns values into what people read, by what they mean.

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const COUNT_UNITS = ["", "k", "M", "G", "T"];

/** A number of JavaScript, also for what came as BigInt or as "NaN". */
export function number(value) {
  return typeof value === "number" ? value : Number(value);
}

function digits(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return trim(value.toFixed(1));
  return trim(value.toFixed(2));
}

function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** Nanoseconds as a duration, two units from a minute on. */
export function duration(ns) {
  const value = number(ns);
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e3) return `${digits(value)} ns`;
  if (size < 1e6) return `${digits(value / 1e3)} µs`;
  if (size < 1e9) return `${digits(value / 1e6)} ms`;
  if (size < 60e9) return `${digits(value / 1e9)} s`;
  const seconds = Math.round(size / 1e9);
  const sign = value < 0 ? "-" : "";
  if (seconds < 3600) return `${sign}${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${sign}${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${sign}${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function bytes(value) {
  let size = number(value);
  if (!Number.isFinite(size)) return "–";
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < BYTE_UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${digits(size)} ${BYTE_UNITS[unit]}`;
}

/** A share from 0 to 1 as percent. */
export function percent(share) {
  const value = number(share) * 100;
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.01) return `${value < 0 ? "-" : ""}<0.01 %`;
  return `${digits(value)} %`;
}

/** A count with k, M, G. */
export function count(value) {
  let size = number(value);
  if (!Number.isFinite(size)) return "–";
  let unit = 0;
  // Four digits are still read at a glance without a unit, four before a unit are not.
  while (Math.abs(size) >= (unit ? 999.5 : 9999.5) && unit < COUNT_UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${digits(size)}${unit ? ` ${COUNT_UNITS[unit]}` : ""}`;
}

/** A count with every digit, grouped. */
export function whole(value) {
  return typeof value === "bigint" ? value.toLocaleString("en") : number(value).toLocaleString("en", { maximumFractionDigits: 6 });
}

const two = (value) => String(value).padStart(2, "0");

/** Local time of day of nanoseconds, with the date where it is not today. */
export function time(ns, { millis = true } = {}) {
  const value = number(ns);
  if (!value) return "–";
  const date = new Date(value / 1e6);
  let text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (millis) text += `.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return date.toDateString() === new Date().toDateString()
    ? text
    : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${text}`;
}

/** The same in UTC with every digit. */
export function isoTime(ns) {
  const whole = typeof ns === "bigint" ? ns : BigInt(Math.trunc(number(ns) || 0));
  const fraction = ((whole % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  const seconds = (whole - fraction) / 1_000_000_000n;
  const date = new Date(Number(seconds) * 1000).toISOString().slice(0, 19);
  return `${date}.${String(fraction).padStart(9, "0")}Z`;
}

/** How long ago a moment in milliseconds was. */
export function ago(ms, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

const NUMERIC = new Set(["INT64", "FLOAT64", "TIME64NS", "Int8", "Int16", "Int32", "UInt8", "UInt16", "UInt32", "UInt64", "Float32"]);

export function isTime(column) {
  return column.semantic === "ST_TIME_NS" || column.type === "TIME64NS";
}

export function isNumeric(column) {
  return NUMERIC.has(column.type) && !isTime(column);
}

/** Codes and numbers of things: they have digits but no size. */
export function isCode(column) {
  return ["ST_PORT", "ST_HTTP_RESP_STATUS"].includes(column.semantic);
}

/** The formatter of a column's values for axes and cells. */
export function formatter(column) {
  if (isTime(column)) return (value) => time(value);
  switch (column.semantic) {
    case "ST_DURATION_NS": return duration;
    case "ST_BYTES": return bytes;
    case "ST_PERCENT": return percent;
    case "ST_THROUGHPUT_PER_NS": return (value) => `${count(number(value) * 1e9)}/s`;
    case "ST_THROUGHPUT_BYTES_PER_NS": return (value) => `${bytes(number(value) * 1e9)}/s`;
    case "ST_PORT": return String;
    case "ST_HTTP_RESP_STATUS": return String;
    case "ST_QUANTILES": return (value) => quantiles(value, count);
    case "ST_DURATION_NS_QUANTILES": return (value) => quantiles(value, duration);
    default:
  }
  if (column.type === "FLOAT64") return (value) => (Number.isFinite(number(value)) ? fractional(number(value)) : String(value));
  if (isNumeric(column)) return whole;
  return String;
}

function fractional(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e15 || size < 1e-4) return value.toExponential(3);
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1e4 ? 9 : 5 });
}

function quantiles(text, show) {
  try {
    const parsed = typeof text === "string" ? JSON.parse(text) : text;
    return ["p50", "p90", "p99"].filter((name) => name in parsed).map((name) => `${name} ${show(parsed[name])}`).join(" · ") || String(text);
  } catch {
    return String(text);
  }
}

/** The class of an HTTP status, "" where there is nothing to say about it. */
export function statusClass(status) {
  const value = number(status);
  if (value >= 500 || value === 0) return "text-bad";
  if (value >= 400) return "text-warn";
  return "";
}
