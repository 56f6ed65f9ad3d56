// The protocols of which requests become rows, and the scripts that ask all of them at once.

/** Protocol by table: its name, and what a failure is where the table does not mark it. */
export const PROTOCOLS = {
  "http_events": { name: "HTTP", failed: "df.resp_status >= 500 or df.resp_status == 0" },
  "mysql_events": { name: "MySQL" },
  "pgsql_events": { name: "PostgreSQL" },
  "redis_events": { name: "Redis" },
  "cql_events": { name: "CQL" },
  "mongodb_events": { name: "MongoDB" },
  "kafka_events.beta": { name: "Kafka" },
  "nats_events.beta": { name: "NATS" },
  "amqp_events": { name: "AMQP" },
  "mux_events": { name: "Mux" },
  // A name that does not exist is an answer, not a failure.
  "dns_events": { name: "DNS", failed: "df.ctx['rcode'] != 0 and df.ctx['rcode'] != 3" },
};

/** Those tables of requests that hold rows; HTTP's if none does. */
export function spoken(tables) {
  const holds = (name) => tables.some((table) => table.name === name && Number(table.rows?.hot ?? 0) + Number(table.rows?.sealed ?? 0) > 0);
  const found = Object.keys(PROTOCOLS).filter(holds);
  return found.length ? found : ["http_events"];
}

/**
 * A script over `tables`: `each` is the body of a function of `df` and `protocol` that returns a table,
 * and the tables of all protocols are one in the end, called `output`.
 */
export function overProtocols(tables, { range, title, each, output }) {
  const parts = tables.map((table, at) => `df = px.DataFrame('${table}', start_time='-${range}')
df.failed = ${PROTOCOLS[table].failed ?? "df.ctx['failed'] == 1"}
${table === "nats_events.beta" ? "df.latency = df.ctx['latency']\n" : ""}p${at} = requests(df, '${PROTOCOLS[table].name}')
`);
  const others = tables.slice(1).map((_, at) => `p${at + 1}`);
  return `import px

# ${title}
def requests(df, protocol):
${each.trim().split("\n").map((line) => (line ? `    ${line}` : "")).join("\n")}

${parts.join("\n")}
px.display(${others.length ? `p0.append([${others.join(", ")}])` : "p0"}, '${output}')
`;
}

/**
 * Keeps what a service answers, and what it asks of those who are not watched: `asks`. Where both ends are
 * watched, the answering one has the row.
 */
export const SIDES = `df.service = df.ctx['service']
df = df[df.trace_role == 2 or df.ctx['remote_service'] == '']
df.asks = df.trace_role != 2`;

/** Counts and quantiles of requests, and the columns that show them. */
export const MEASURES = `    requests=('latency', px.count),
    error_ratio=('failed', px.mean),
    latency=('latency', px.quantiles),`;

export const SHOWN = `df.error_ratio = px.Percent(df.error_ratio)
df.p50 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p50')))
df.p99 = px.DurationNanos(px.floor(px.pluck_float64(df.latency, 'p99')))
df.protocol = protocol`;
