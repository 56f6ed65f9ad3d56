//! What a wrong script is told.

use expect_test::{Expect, expect};

use super::fixture::fixture;

fn check(script: &str, expected: &Expect) {
    let fixture = fixture(4 << 20, None);
    expected.assert_eq(&fixture.engine.check(script).to_string());
}

#[tokio::test]
async fn a_misspelt_table_is_told_its_name() {
    check(
        "import px\npx.display(px.DataFrame('http_event'))",
        &expect![[r"
        error: there is no table `http_event`
          |
        2 | px.display(px.DataFrame('http_event'))
          |                         ^^^^^^^^^^^^ unknown table
          |
          = help: did you mean `http_events`?"]],
    );
}

#[tokio::test]
async fn every_mistake_is_told_and_none_twice() {
    check(
        "import px\n\
         df = px.DataFrame('http_events', start_time='-5 minutes ago')\n\
         a = px.DataFrame('http_events')\n\
         a.x = a.latenzy + 1\n\
         a.y = a.x\n\
         b = px.DataFrame('http_events')\n\
         b.svc = b.ctx['svc']\n\
         b = px.DataFrame('http_events')\n\
         b.z = px.DurationNanos(b.latency / 2)\n\
         c = px.DataFrame('http_events')\n\
         c = c[px.contain(c.req_path, 'x')]\n\
         d = px.DataFrame('http_events')\n\
         d = d[d.req_path > 5]\n\
         px.display(d)\n\
         px.display(e)",
        &expect![[r"
            error: `-5 minutes ago` is no time: neither a duration such as '-5m' nor a time such as '2026-11-21 04:30:00 +0000'
              |
            2 | df = px.DataFrame('http_events', start_time='-5 minutes ago')
              |                                             ^^^^^^^^^^^^^^^^ here
              |
              = help: units are ms, s, m, h and d, as in '-5m'

            error: there is no column `latenzy`
              |
            4 | a.x = a.latenzy + 1
              |       ^^^^^^^^^ unknown column
              |
              = help: did you mean `latency`?

            error: `ctx` has no key `svc`
              |
            7 | b.svc = b.ctx['svc']
              |         ^^^^^^^^^^^^ unknown key
              |
              = help: did you mean `service`?

            error: `px.DurationNanos` needs INT64
              |
            9 | b.z = px.DurationNanos(b.latency / 2)
              |                        ^^^^^^^^^^^^^ this is FLOAT64
              |
              = help: wrap it in `px.floor(…)`

            error: `px` has no `contain`
               |
            11 | c = c[px.contain(c.req_path, 'x')]
               |          ^^^^^^^ unknown function
               |
               = help: did you mean `contains`?

            error: `greaterThan` has no form for (STRING, INT64)
               |
            13 | d = d[d.req_path > 5]
               |       ^^^^^^^^^^^^^^ these types do not go together
               |
               = help: it takes greaterThan(INT64, INT64) -> BOOLEAN, greaterThan(TIME64NS, TIME64NS) -> BOOLEAN, greaterThan(STRING, STRING) -> BOOLEAN, greaterThan(FLOAT64, FLOAT64) -> BOOLEAN

            error: there is no `e` here
               |
            15 | px.display(e)
               |            ^ unknown name"]],
    );
}

#[tokio::test]
async fn context_is_told_from_columns_and_aggregates_from_calls() {
    check(
        "import px\n\
         df = px.DataFrame('http_events')\n\
         px.display(df.groupby('req_method').agg(n=('latency', px.count())))",
        &expect![[r"
            error: `px.count` is not called but passed on
              |
            3 | px.display(df.groupby('req_method').agg(n=('latency', px.count())))
              |                                                       ^^^^^^^^^^ called here
              |
              = help: write `.agg(out=('column', px.count))`"]],
    );
    check(
        "import px\n\
         df = px.DataFrame('http_events')\n\
         px.display(df.groupby('service').agg(n=('latency', px.count)))",
        &expect![[r"
            error: there is no column `service`
              |
            3 | px.display(df.groupby('service').agg(n=('latency', px.count)))
              |                       ^^^^^^^^^ unknown column
              |
              = help: it is context: write `df.ctx['service']`"]],
    );
}

#[tokio::test]
async fn an_export_lacks_what_it_needs() {
    check(
        "import px\n\
         df = px.DataFrame('http_events')\n\
         df = df.groupby('req_method').agg(n=('latency', px.count))\n\
         px.export(df, px.otel.Data(resource={'service.name': df.req_method}, data=[\n\
           px.otel.metric.Gauge(name='requests', value=df.n)]))",
        &expect![[r"
            error: a metric needs the time of its rows in a column `time_`
              |
            5 | px.otel.metric.Gauge(name='requests', value=df.n)]))
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ this metric
              |
              = help: keep it: `.agg(time_=('time_', px.max), …)`"]],
    );
    check(
        "import px\n\
         df = px.DataFrame('http_events')\n\
         px.export(df, px.otel.Data(resource={'host': df.req_method}, data=[\n\
           px.otel.metric.Gauge(name='requests', value=df.latency)]))",
        &expect![[r"
            error: the resource lacks `service.name`
              |
            3 | px.export(df, px.otel.Data(resource={'host': df.req_method}, data=[
              |                                     ^^^^^^^^^^^^^^^^^^^^^^^ missing here
              |
              = help: OpenTelemetry needs it: `'service.name': df.service`"]],
    );
}

#[tokio::test]
async fn no_text_makes_the_compiler_panic() {
    let fixture = fixture(4 << 20, None);
    let whole = "import px\ndf = px.DataFrame('http_events', start_time='-5m')\n\
                 df.x = px.bin(df.time_, px.seconds(1)) / (1 - 1)\n\
                 px.display(df[df['x'] > 1.5 and not True].head(3), 'ä')\n";
    for (cut, _) in whole.char_indices() {
        fixture.engine.check(&whole[..cut]).to_string();
        fixture.engine.check(&whole[cut..]).to_string();
        let mut holed = whole.to_owned();
        holed.remove(cut);
        fixture.engine.check(&holed).to_string();
    }
    for text in [
        "x = 9223372036854775807 + 1\ny = -9223372036854775807 - 2\nz = y % 0 - 1 % -1",
        "x = [1][2]",
        "def f(a):\n  return f(a)\nf(1)",
        "import px\nx = px\npx.now = 3\nx.now()",
        "import px\npx.display(px.DataFrame('http_events').head(-1))",
        "import px\npx.display(px.DataFrame('http_events', end_time='99999999999d'))",
    ] {
        assert!(!fixture.engine.check(text).is_empty(), "{text}");
    }
}
