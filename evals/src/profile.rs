//! CPU profiles of a program whose use of the CPU is known, through the whole product: what a script
//! finds in `stack_traces.beta` is what the program measured of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use undine::appliance::question;
use undine_collector::{Cgroup, profiler};

use crate::report::Report;
use crate::require_scope;
use crate::stage;
use crate::watch::{Watch, Watched};
use undine_testbed::Program;
use undine_testbed::spin::{
    self, FRAME_POINTERS, FUNCTIONS, Finding, NO_FRAME_POINTERS, Shares, Stacks, share,
};

/// How a compiler keeps track of frames.
struct Case {
    name: &'static str,
    flags: &'static [&'static str],
}

const CASES: [Case; 2] = [
    Case { name: "frame_pointers", flags: &FRAME_POINTERS },
    Case { name: "no_frame_pointers", flags: &NO_FRAME_POINTERS },
];
/// Ten times what is usual, so that a few seconds give enough samples; no divisor of anything that
/// the program does.
const FREQUENCY_HZ: u32 = 499;
/// The share of the stacks that must reach the outermost function.
const WHOLE_SHARE_MIN: f64 = 0.95;

const SCRIPT: &str = "\
import px
df = px.DataFrame('stack_traces.beta', start_time='-1h')
df.pid = px.upid_to_pid(df.upid)
df = df.groupby(['pid', 'stack_trace']).agg(samples=('count', px.sum))
px.display(df)
";

pub(crate) fn run(seconds: u32) -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("profile");
    CASES.iter().try_for_each(|case| observe(case, seconds, &mut report).context(case.name))?;
    Ok(report)
}

fn observe(case: &Case, seconds: u32, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = spin::build(case.flags, dir.path())?;
    let cgroup = Cgroup::create("undine-evals")?;
    let interval = Duration::from_secs(1);
    let profiler =
        profiler::Config { frequency_hz: FREQUENCY_HZ, interval, kernel_stacks_max: None };
    let watch = Watch { profiler: Some(profiler), ..Watch::roomy() };
    let act = |watched: &Watched<'_>| {
        let mut command = cgroup.command(&program);
        let program = Program::start(command.args(["shares", &seconds.to_string()]))?;
        let (pid, told) = (program.id(), program.finish()?);
        watched.drain()?;
        Ok((pid, told, ask(watched)?))
    };
    let (seen, (pid, told, stacks)) = watch.through(&cgroup, |store| store, || Ok(()), act)?;
    let truth = Shares::read(&told)?;
    let profile = &seen.stats.profile;
    let all: u64 = stacks.values().flat_map(Stacks::values).sum();
    report.same(format!("{}: samples in rows = samples taken", case.name), all, profile.samples);
    let kernel = &profile.kernel;
    report.same(format!("{}: samples without room in the kernel", case.name), kernel.map_full, 0);
    let stacks = stacks.get(&i64::from(pid)).context("the program was not sampled")?;
    judge(case.name, stacks, truth, report);
    Ok(())
}

/// The stacks of each process, as a script finds them.
fn ask(watched: &Watched<'_>) -> Result<BTreeMap<i64, Stacks>> {
    let engine = stage::engine(watched.store)?;
    let answer = watched.runtime.block_on(engine.run(question(SCRIPT)))?;
    let table = answer.tables.first().context("the script displayed nothing")?;
    let mut all: BTreeMap<i64, Stacks> = BTreeMap::new();
    for batch in &table.batches {
        let column =
            |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
        let pids = column("pid")?.as_primitive::<Int64Type>();
        let (stacks, samples) = (column("stack_trace")?, column("samples")?);
        let (stacks, samples) = (stacks.as_string::<i32>(), samples.as_primitive::<Int64Type>());
        for row in 0..batch.num_rows() {
            let samples = u64::try_from(samples.value(row))?;
            let of = all.entry(pids.value(row)).or_default();
            *of.entry(stacks.value(row).to_owned()).or_default() += samples;
        }
    }
    Ok(all)
}

fn judge(name: &str, stacks: &Stacks, truth: Shares, report: &mut Report) {
    report.count(format!("{name}_samples"), stacks.values().sum());
    for (function, truth) in FUNCTIONS.iter().zip(truth.of) {
        let seen = share(stacks, function);
        report.figure(format!("{name}_{function}_share"), seen);
        report.figure(format!("{name}_{function}_share_error"), (seen - truth).abs());
    }
    for Finding { what, seen, wanted, is_right } in truth.judge(stacks, FREQUENCY_HZ) {
        report.check(format!("{name}: {what}"), seen, wanted, is_right);
    }
    let whole = share(stacks, "main");
    report.check(
        format!("{name}: stacks that reach main"),
        format!("{:.1} %", whole * 100.0),
        format!(">= {:.0} %", WHOLE_SHARE_MIN * 100.0),
        whole >= WHOLE_SHARE_MIN,
    );
}
