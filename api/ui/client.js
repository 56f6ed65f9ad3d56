// Asks the server. Integers that a JavaScript number cannot hold arrive as BigInt, with every digit.

/** What the server answered when it did not do what was asked. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `the server answered ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.hint = body.hint || "";
    this.id = body.id || "";
    this.diagnostics = body.diagnostics || [];
    this.rendered = body.rendered || "";
  }
}

function exact(_key, value, context) {
  if (typeof value === "number" && !Number.isSafeInteger(value) && context?.source && /^-?\d+$/.test(context.source)) {
    return BigInt(context.source);
  }
  return value;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "unreachable", detail: "undine cannot be reached", hint: "is it still running?" });
  }
  if (response.ok) return response;
  let body = {};
  try {
    body = await response.json();
  } catch { /* not a problem document; the status has to do */ }
  throw new Problem(response.status, body);
}

async function json(path, options) {
  const response = await ask(path, options);
  return JSON.parse(await response.text(), exact);
}

/** Runs a script or an SQL text; at most `limit` rows of each table come back. */
export function run(text, { sql = false, limit = 2000, signal } = {}) {
  return json(sql ? `/api/v1/sql?limit=${limit}` : `/api/v1/pxl:run?limit=${limit}`, {
    method: "POST",
    headers: { "content-type": "text/plain; charset=utf-8", accept: "application/json" },
    body: text,
    signal,
  });
}

/** Runs it again for all rows of one table in another format. */
export async function fetchAs(text, format, table, sql) {
  const path = sql ? "/api/v1/sql" : "/api/v1/pxl:run";
  const query = new URLSearchParams({ format, table });
  const response = await ask(`${path}?${query}`, {
    method: "POST",
    headers: { "content-type": "text/plain; charset=utf-8" },
    body: text,
  });
  return response.blob();
}

/** What is wrong with a script, without running it. */
export function check(script) {
  return json("/api/v1/pxl:check", {
    method: "POST",
    headers: { "content-type": "text/plain; charset=utf-8" },
    body: script,
  });
}

export const tables = () => json("/api/v1/tables");
export const scripts = () => json("/api/v1/scripts");
export const incidents = () => json("/api/v1/incidents");

/** Readiness with its checks; also when the answer is "not ready". */
export async function ready() {
  const response = await fetch("/readyz?verbose", { cache: "no-store" });
  return response.json();
}

/** Rows of a table as objects by column name. */
export function records(table) {
  const names = table.columns.map((column) => column.name);
  return table.rows.map((row) => Object.fromEntries(names.map((name, at) => [name, row[at]])));
}
