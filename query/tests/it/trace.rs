//! Scripts that trace functions, over a tracer that knows what the functions do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch};
use expect_test::{Expect, expect};
use undine_query::{Engine, Error, Request};
use undine_schema::trace::{
    KernelVersion, TraceColumn, TraceCounts, TraceError, TraceOutput, TraceProgram, TraceState,
    TraceStatus, TraceSubject, TraceTable, TraceValue, Tracepoint, Tracer, arrow_schema,
};
use undine_schema::{PxlType, SemanticType, TimeNs, Upid};

use super::fixture::{Order, SECOND, START, fixture_with_tracer, text};

const DEPLOY: &str = "\
import px
import pxtrace
@pxtrace.probe('handle')
def probe():
    return [{'number': pxtrace.ArgExpr('n'), 'took': pxtrace.FunctionLatency()}]
pxtrace.UpsertTracepoint('calls', 'calls', probe, pxtrace.ProcessTarget('shop'), '5m')
";

/// Makes a table of three calls of whatever it is asked for, but of `missing`; a program prints `printed`.
#[derive(Debug, Default)]
struct Known(Mutex<Vec<Tracepoint>>);

impl Known {
    fn outputs(tracepoint: &Tracepoint) -> Vec<TraceOutput> {
        match &tracepoint.subject {
            TraceSubject::Function(function) => function.outputs.clone(),
            TraceSubject::Programs(_) => {
                vec![TraceOutput { column: "printed".to_owned(), value: TraceValue::Latency }]
            }
        }
    }

    fn columns(tracepoint: &Tracepoint) -> Arc<[TraceColumn]> {
        let column =
            |name: &str, pxl_type, semantic| TraceColumn { name: name.into(), pxl_type, semantic };
        let first = [
            column("time_", PxlType::Time64Ns, SemanticType::TimeNs),
            column("upid", PxlType::Uint128, SemanticType::Upid),
        ];
        let outputs = Self::outputs(tracepoint);
        let outputs = outputs.iter().map(|o| column(&o.column, PxlType::Int64, SemanticType::None));
        first.into_iter().chain(outputs).collect()
    }
}

impl Tracer for Known {
    fn upsert(&self, tracepoint: Tracepoint) -> Result<(), TraceError> {
        match &tracepoint.subject {
            TraceSubject::Function(function) if function.function == "missing" => {
                return Err(TraceError::new("shop has no function `missing`", "there are handle"));
            }
            TraceSubject::Programs(programs) if programs[0].text.contains("kprobe") => {
                return Err(TraceError::new("this kernel has no kprobes", "see bpftrace(8)"));
            }
            _ => {}
        }
        let mut all = self.0.lock().unwrap();
        all.retain(|other| other.name != tracepoint.name);
        all.push(tracepoint);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), TraceError> {
        let mut all = self.0.lock().unwrap();
        let before = all.len();
        all.retain(|other| other.name != name);
        if all.len() == before {
            return Err(TraceError::new(format!("there is no tracepoint `{name}`"), ""));
        }
        Ok(())
    }

    fn statuses(&self) -> Vec<TraceStatus> {
        let all = self.0.lock().unwrap();
        all.iter()
            .map(|tracepoint| TraceStatus {
                id: [7; 16],
                name: tracepoint.name.clone(),
                table: tracepoint.table.clone(),
                state: TraceState::Running,
                reason: String::new(),
                expires: TimeNs::new(START),
                counts: TraceCounts { calls: 4, rows: 3, limited: 1, ..TraceCounts::default() },
            })
            .collect()
    }

    fn tables(&self) -> Vec<(String, Arc<[TraceColumn]>)> {
        let all = self.0.lock().unwrap();
        all.iter().map(|of| (of.table.clone(), Self::columns(of))).collect()
    }

    fn table(&self, name: &str) -> Option<TraceTable> {
        let all = self.0.lock().unwrap();
        let tracepoint = all.iter().find(|of| of.table == name)?;
        let columns = Self::columns(tracepoint);
        let times: Vec<i64> = (0..3).map(|at| START + at * SECOND).collect();
        let upid = Upid::new(1, 42, 7);
        let upids = std::iter::repeat_n(upid.as_bytes(), 3);
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(times)),
            Arc::new(FixedSizeBinaryArray::try_from_iter(upids).unwrap()),
        ];
        for at in 0..Self::outputs(tracepoint).len() {
            let base = i64::try_from(at).unwrap() * 100;
            arrays.push(Arc::new(Int64Array::from(vec![base, base + 1, base + 2])));
        }
        let batch = RecordBatch::try_new(arrow_schema(&columns), arrays).unwrap();
        Some(TraceTable { columns, batches: vec![batch] })
    }
}

fn engine(tracer: &Arc<Known>) -> (Engine, impl Sized + use<>) {
    let tracer: Arc<dyn Tracer> = Arc::<Known>::clone(tracer);
    let fixture = fixture_with_tracer(Some(tracer));
    (fixture.engine.clone(), fixture)
}

async fn run(engine: &Engine, script: &str) -> Result<String, Error> {
    let request = Request { script: script.to_owned(), ..Request::default() };
    let answer = engine.run(request).await?;
    Ok(answer.tables.iter().map(|table| text(table, Order::AsGiven)).collect())
}

async fn check(script: &str, expected: &Expect) {
    let (engine, _fixture) = engine(&Arc::default());
    expected.assert_eq(&run(&engine, script).await.unwrap_or_else(|error| panic!("{error}")));
}

async fn check_refusal(script: &str, expected: &Expect) {
    let (engine, _fixture) = engine(&Arc::default());
    let refused = run(&engine, script).await.unwrap_err();
    expected.assert_eq(&refused.to_string());
}

#[tokio::test]
async fn a_script_deploys_a_tracepoint_and_reads_its_table() {
    let script = format!(
        "{DEPLOY}\
         df = px.DataFrame('calls')\n\
         df.pid = px.upid_to_pid(df.upid)\n\
         df = df[df.number > 0]\n\
         px.display(df['pid', 'number', 'took'])\n\
         by = px.DataFrame('calls', select=['number']).agg(sum=('number', px.sum))\n\
         px.display(by, 'sum')"
    );
    check(
        &script,
        &expect![[r"
            output: pid | number | took
            42 | 1 | 101
            42 | 2 | 102
            sum: sum
            3
        "]],
    )
    .await;
}

#[tokio::test]
async fn what_the_script_says_reaches_the_tracer() {
    let known = Arc::<Known>::default();
    let (engine, _fixture) = engine(&known);
    run(&engine, DEPLOY).await.unwrap();
    let deployed = known.0.lock().unwrap().clone();
    let [tracepoint] = &deployed[..] else { panic!("{deployed:?}") };
    let TraceSubject::Function(function) = &tracepoint.subject else { panic!("{tracepoint:?}") };
    assert_eq!((tracepoint.name.as_str(), function.function.as_str()), ("calls", "handle"));
    assert_eq!((function.outputs.len(), tracepoint.ttl), (2, Duration::from_mins(5)));
    // A later script reads it without deploying it, as long as it is there.
    let read = "import px\npx.display(px.DataFrame('calls', start_time='-1m').head(1)[['number']])";
    assert!(run(&engine, read).await.is_ok());
    let read = "import px\npx.display(px.DataFrame('calls')[['number']].head(1))";
    assert_eq!(run(&engine, read).await.unwrap(), "output: number\n0\n");
    let gone = "import px\nimport pxtrace\npxtrace.DeleteTracepoint('calls')";
    assert_eq!(run(&engine, gone).await.unwrap(), "");
    let missing = run(&engine, read).await.unwrap_err().to_string();
    assert!(missing.contains("there is no table `calls`"), "{missing}");
    assert!(run(&engine, gone).await.unwrap_err().to_string().contains("no tracepoint `calls`"));
}

#[tokio::test]
async fn the_state_of_tracepoints_is_a_table() {
    let script = format!(
        "{DEPLOY}\
         df = px.GetTracepointStatus()\n\
         df.calls = px.pluck_int64(df.status, 'calls')\n\
         px.display(df['name', 'state', 'calls', 'output_tables'])\n\
         tables = px.GetSchemas()\n\
         tables = tables[tables.table_name == 'calls']\n\
         px.display(tables['column_name', 'column_type'], 'columns')"
    );
    check(
        &script,
        &expect![[r#"
            output: name | state | calls | output_tables
            calls | running | 4 | ["calls"]
            columns: column_name | column_type
            time_ | TIME64NS
            upid | UINT128
            number | INT64
            took | INT64
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_refusal_is_shown_at_the_call() {
    check_refusal(
        &DEPLOY.replace("probe('handle')", "probe('missing')"),
        &expect![[r"
            error: shop has no function `missing`
              |
            6 | pxtrace.UpsertTracepoint('calls', 'calls', probe, pxtrace.ProcessTarget('shop'), '5m')
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ refused
              |
              = help: there are handle"]],
    )
    .await;
}

#[tokio::test]
async fn a_mistake_behind_the_table_is_found_before_anything_is_deployed() {
    let known = Arc::<Known>::default();
    let (engine, _fixture) = engine(&known);
    let script = format!("{DEPLOY}df = px.DataFrame('calls')\npx.display(px.DataFrame('cals'))");
    let refused = run(&engine, &script).await.unwrap_err().to_string();
    assert!(refused.contains("there is no table `cals`"), "{refused}");
    assert!(known.0.lock().unwrap().is_empty());
    let script = format!("{DEPLOY}df = px.DataFrame('calls')\npx.display(df[df.nmber > 1])");
    let refused = run(&engine, &script).await.unwrap_err().to_string();
    assert!(refused.contains("did you mean `number`?"), "{refused}");
}

const PROGRAMS: &str = "\
import px
import pxtrace
programs = [pxtrace.TraceProgram('u:/x:f { printf(\"a:%d\", 1) }', max_kernel='5.18'),
            pxtrace.TraceProgram('u:/x:g { printf(\"a:%d\", 1) }', min_kernel='5.19', host_name='knot')]
pxtrace.UpsertTracepoint('t', 't', programs, pxtrace.kprobe(), '10m')
";

#[tokio::test]
async fn a_script_deploys_a_program_and_reads_its_table() {
    let known = Arc::<Known>::default();
    let (engine, _fixture) = engine(&known);
    let script =
        format!("{PROGRAMS}df = px.DataFrame('t')\npx.display(df[df.printed > 0][['printed']])");
    assert_eq!(run(&engine, &script).await.unwrap(), "output: printed\n1\n2\n");
    let deployed = known.0.lock().unwrap().clone();
    let [Tracepoint { subject: TraceSubject::Programs(programs), .. }] = &deployed[..] else {
        panic!("{deployed:?}")
    };
    let program = |text: &str, kernel_min, kernel_max, host: &str| TraceProgram {
        text: format!("u:/x:{text} {{ printf(\"a:%d\", 1) }}"),
        kernel_min,
        kernel_max,
        host: host.to_owned(),
    };
    let last = KernelVersion([5, 18, u16::MAX]);
    let expected = [
        program("f", KernelVersion::FIRST, last, ""),
        program("g", KernelVersion([5, 19, 0]), KernelVersion::LAST, "knot"),
    ];
    assert_eq!(programs[..], expected);
    // A text is a program too, for every machine.
    let text = "import px\nimport pxtrace\n\
                pxtrace.UpsertTracepoint('u', 'u', 'u:/x:f { }', pxtrace.kprobe(), '1m')\n\
                px.display(px.DataFrame('u')[['printed']].head(1))";
    assert_eq!(run(&engine, text).await.unwrap(), "output: printed\n0\n");
}

#[tokio::test]
async fn a_program_that_is_refused_names_the_table_to_read_instead() {
    check_refusal(
        "import px\nimport pxtrace\n\
         program = 'kprobe:tcp_drop { printf(\"time_:%llu\", nsecs); }'\n\
         pxtrace.UpsertTracepoint('t', 't', program, pxtrace.kprobe(), '10m')\n\
         px.display(px.DataFrame('t'))",
        &expect![[r"
            error: this kernel has no kprobes
              |
            4 | pxtrace.UpsertTracepoint('t', 't', program, pxtrace.kprobe(), '10m')
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ refused
              |
              = help: see bpftrace(8); Undine keeps this all the time: read tcp_drops"]],
    )
    .await;
}

#[tokio::test]
async fn what_is_no_program_is_refused_at_its_place() {
    check_refusal(
        &PROGRAMS.replace("'5.19'", "'new'"),
        &expect![[r#"
            error: `new` is no version of a kernel
              |
            4 |             pxtrace.TraceProgram('u:/x:g { printf("a:%d", 1) }', min_kernel='new', host_name='knot')]
              |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this call
              |
              = help: write a text such as '5.19'"#]],
    )
    .await;
    check_refusal(
        &PROGRAMS.replace("pxtrace.kprobe()", "pxtrace.ProcessTarget('shop')"),
        &expect![[r"
            error: the target of a bpftrace program must be `pxtrace.kprobe()`
              |
            5 | pxtrace.UpsertTracepoint('t', 't', programs, pxtrace.ProcessTarget('shop'), '10m')
              |                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ this is a target
              |
              = help: the program's own probes say what it traces; Undine limits it to what it watches"]],
    )
    .await;
    check_refusal(
        &PROGRAMS.replace("'t', programs", "'t', [programs, 1]"),
        &expect![[r"
            error: `probe_fn` must be a function below `@pxtrace.probe('…')`, or a program of bpftrace
              |
            5 | pxtrace.UpsertTracepoint('t', 't', [programs, 1], pxtrace.kprobe(), '10m')
              |                                    ^^^^^^^^^^^^^ this is a list
              |
              = help: a program is a text, a pxtrace.TraceProgram or a list of these"]],
    )
    .await;
    check_refusal(
        &DEPLOY.replace("pxtrace.ProcessTarget('shop')", "pxtrace.kprobe()"),
        &expect![[r"
            error: functions of the kernel are traced by programs of bpftrace only
              |
            6 | pxtrace.UpsertTracepoint('calls', 'calls', probe, pxtrace.kprobe(), '5m')
              |                                                   ^^^^^^^^^^^^^^^^ the kernel
              |
              = help: give the text of one instead of the function, or read the tables tcp_drops, tcp_retransmits, tcp_resets, proc_exit_events and cgroup_stats"]],
    )
    .await;
}

#[tokio::test]
async fn without_a_tracer_nothing_can_be_traced() {
    let fixture = fixture_with_tracer(None);
    let refused = run(&fixture.engine, DEPLOY).await.unwrap_err().to_string();
    assert!(refused.contains("functions cannot be traced here"), "{refused}");
}
