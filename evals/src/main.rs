//! Does the whole do its job? Scenarios on real input that end in figures and checks.
//!
//! `evals SCENARIO --json` prints one JSON object as its last line and ends with status 1 where a
//! check failed; `evals list` names the scenarios and what each proves.

mod capture;
mod client;
mod columns;
mod cpu;
mod crash;
mod flavours;
mod ingest;
mod latency;
mod longrange;
mod loss;
mod memory;
mod nginx;
mod overhead;
mod profile;
mod query;
mod random;
mod report;
mod resident;
mod scripts;
mod stage;
mod talker;
mod tiers;
mod truth;
mod watch;
mod year;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "evals", about = "Proves on real input that Undine does its job")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the report as one JSON object in the last line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name the scenarios.
    List,
    /// What a server or its client recorded itself = rows: count, fields, order, latency.
    Capture {
        /// Protocols with commas between them; `all` takes each whose programs are installed.
        #[arg(long, default_value = capture::ALL)]
        protocol: String,
        /// Requests of each protocol, or about as many.
        #[arg(long, default_value_t = 20_000)]
        requests: u32,
        /// Keep a small recording of each protocol in this folder, with the rows that it gives.
        #[arg(long, value_name = "FOLDER")]
        record: Option<PathBuf>,
    },
    /// Every flavour of call that moves bytes, under each way to see them: bytes exact.
    Flavours,
    /// A program with a known use of the CPU: shares of its functions within 3 points.
    Profile {
        /// Seconds of CPU time that are profiled in each case.
        #[arg(long, default_value_t = 4)]
        seconds: u32,
    },
    /// Where something is lost, at any stage: operations and bytes exact, rows within the bounds.
    Loss {
        /// Requests by which a load fills what is too small.
        #[arg(long, default_value_t = 4_000)]
        requests: usize,
    },
    /// What watching costs the server, other calls, and the collector's thread.
    Overhead {
        /// Windows of each kind; the best counts.
        #[arg(long, default_value_t = 8)]
        windows: u32,
        /// Requests in each window.
        #[arg(long, default_value_t = 10_000)]
        requests: u32,
    },
    /// The same script gives the same answer before, during and after sealing and after a restart, and
    /// over minutes, hours and all of a simulated month.
    Tiers {
        /// Rows that are written.
        #[arg(long, default_value_t = 200_000)]
        rows: u32,
        /// Days of simulated time, after that.
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// Rows of each second of them.
        #[arg(long, default_value_t = 10)]
        rate: u32,
    },
    /// Six questions over one hour of requests, in memory and on Parquet, beside other engines.
    Query {
        /// Rows that are asked about.
        #[arg(long, default_value_t = 20_000_000)]
        rows: u64,
        /// Engines to ask too, with commas between them: duckdb, chdb, polars, datafusion.
        #[arg(long, default_value = "duckdb,chdb,polars,datafusion")]
        peer: String,
        /// Times that each question is asked after the first; the median counts.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Questions with commas between them.
        #[arg(long, default_value = "q1,q2,q3,q4,q5,q6")]
        queries: String,
    },
    /// A year of summaries: what a question over all of it takes, and what it takes on disk.
    Longrange {
        /// Days of it.
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Services.
        #[arg(long, default_value_t = 20)]
        services: u32,
        /// Endpoints of each service.
        #[arg(long, default_value_t = 200)]
        endpoints: u32,
        /// Hours of each day that have requests.
        #[arg(long, default_value_t = 2)]
        hours: u32,
        /// Requests of an endpoint in such an hour.
        #[arg(long, default_value_t = 4)]
        requests: u32,
    },
    /// A day of requests with the default settings, and what a year of such days takes on disk.
    Year {
        /// Requests a second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
    },
    /// Rows a second and core: to memory with the log, to Parquet, all the way; peers beside it.
    Ingest {
        /// Rows of each table.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u32,
        /// Rounds; the best counts.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Leave out the peers, also where they are installed.
        #[arg(long)]
        without_peers: bool,
    },
    /// What questions take while rows come, are sealed and merged, beside a store at rest.
    Latency {
        /// Seconds in which rows come.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
    },
    /// What a day of rows leaves resident, in simulated time.
    Memory {
        /// Hours of it.
        #[arg(long, default_value_t = 24)]
        hours: u32,
        /// Rows of each second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
    },
    /// What the appliance keeps resident, rows apart, while it watches servers with all its sources.
    Resident {
        /// Seconds of load.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// A loaded store is killed at random moments: what was acknowledged is there, nothing twice.
    Crash {
        /// How often it is killed.
        #[arg(long, default_value_t = 50)]
        rounds: u32,
    },
    /// Every PxL script in a folder runs, and what it exports arrives.
    Scripts {
        /// The folder; without it, scripts of the shape of Pixie's tutorial that come with Undine.
        folder: Option<PathBuf>,
    },
    /// The client of the capture scenario.
    #[command(hide = true)]
    Client(client::Args),
    /// The client of the loss scenario.
    #[command(hide = true)]
    Talker(talker::Args),
    /// The store that the crash scenario kills.
    #[command(hide = true)]
    CrashLoad(crash::LoadArgs),
    /// What the overhead scenario runs in a process of its own.
    #[command(hide = true)]
    Calls,
    /// The same.
    #[command(hide = true)]
    Exchange,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let report = match cli.command {
        Command::List => {
            say(LIST);
            return Ok(ExitCode::SUCCESS);
        }
        Command::Client(args) => {
            client::run(&args)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Capture { protocol, requests, record } => {
            capture::run(&protocol, requests, record.as_deref())?
        }
        Command::Flavours => flavours::run()?,
        Command::Profile { seconds } => profile::run(seconds)?,
        Command::Talker(args) => {
            talker::run(&args)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::CrashLoad(args) => {
            crash::run_load(&args)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Calls => {
            say(&overhead::run_calls()?.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Exchange => {
            say(&overhead::run_exchange()?.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Overhead { windows, requests } => overhead::run(windows, requests)?,
        Command::Loss { requests } => loss::run(requests)?,
        Command::Crash { rounds } => crash::run(rounds)?,
        Command::Tiers { rows, days, rate } => tiers::run(rows, tiers::Month { days, rate })?,
        Command::Query { rows, peer, runs, queries } => {
            query::run(&query::Options { rows, peers: peer, runs, queries })?
        }
        Command::Longrange { days, services, endpoints, hours, requests } => {
            longrange::run(longrange::Options { days, services, endpoints, hours, requests })?
        }
        Command::Year { rate } => year::run(rate)?,
        Command::Ingest { rows, rounds, without_peers } => {
            ingest::run(rows, rounds, !without_peers)?
        }
        Command::Latency { seconds } => latency::run(seconds)?,
        Command::Memory { hours, rate } => memory::run(hours, rate)?,
        Command::Resident { seconds } => resident::run(seconds)?,
        Command::Scripts { folder } => scripts::run(folder.as_deref())?,
    };
    say(&if cli.json { serde_json::to_string(&report)? } else { report.table() });
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const LIST: &str = "\
capture   of every protocol: what its server or client recorded itself = rows
flavours  every flavour of call that moves bytes: bytes exact, what passes by is named
profile   shares of functions in CPU profiles, of programs with and without frame pointers
loss      forced at each stage: operations and bytes exact, missing rows within the bounds
overhead  watched and unwatched windows in turn: what it costs the server, other calls, the collector
tiers     one answer before, during and after sealing, after a restart, and all through a month
query     six questions over one hour of requests, in memory and on Parquet, beside other engines
longrange a year of summaries: questions over all of it with cold caches, bytes of each tier
year      a day of requests with the default settings, and what a year of such days takes on disk
ingest    rows a second and core: to memory with the log, to Parquet, all the way; peers beside it
latency   questions while rows come, are sealed and merged, beside those of a store at rest
memory    a day of rows in simulated time: the process stays within the store's budget
resident  all sources on, servers under load: what the process keeps beside rows in memory
crash     a loaded store is killed: acknowledged rows are there, none twice, losses reported
scripts   every PxL script in a folder runs, and what it exports arrives";

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn say(text: &str) {
    println!("{text}");
}

/// The scope that every scenario needs to be set before anything is loaded.
fn require_scope() -> Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "evals are run by hand too, and must not watch the machine"
    )]
    if std::env::var("UNDINE_SCOPE").is_ok_and(|value| value == "required") {
        return Ok(());
    }
    bail!("UNDINE_SCOPE=required is not set; run this through cargo, or set it")
}
