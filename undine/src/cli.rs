//! The command line, as clap reads it and help shows it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Watches this machine with eBPF, keeps months as summaries, learns what is normal, and answers PxL.
#[derive(Debug, Parser)]
#[command(name = "undine", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the appliance until it is told to stop.
    Up(Up),
    /// See all of it at work on services that it starts for the purpose.
    Demo(Demo),
    /// Run a PxL script on a running appliance.
    Run(Run),
    /// Ask a running appliance in SQL.
    Query(Query),
    /// Show what a running appliance knows.
    #[command(subcommand)]
    Get(Get),
    /// Say what this kernel and these rights allow, and what to do about the rest.
    Doctor(Doctor),
    /// Look at the data folder: what it holds, whether it is whole, how other engines read it.
    #[command(subcommand)]
    Storage(Storage),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// One of the demo's own services.
    #[command(hide = true)]
    DemoService(DemoService),
    /// The demo's own receiver of webhooks and OTLP.
    #[command(hide = true)]
    DemoReceiver(DemoReceiver),
    /// The demo's own client.
    #[command(hide = true)]
    DemoLoad(DemoLoad),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A file that changes some of the defaults (see `undine up --print-defaults`).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Watch only this: pid:N, cgroup:PATH, netns:PATH or comm:NAME; may be given several times.
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Vec<String>,
    /// Where the page and the HTTP API listen.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where OTLP is received.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) otlp_listen: Option<SocketAddr>,
    /// Where the data is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Do not capture; only store what is received and answer questions.
    #[arg(long)]
    pub(crate) no_capture: bool,
    /// Refuse to start if rows that were safe are gone from the log, instead of reporting them.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Record what the kernel sends to this file, to be replayed or to report a bug.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// What of the contents is recorded; masked unless the configuration says otherwise.
    #[arg(long, value_enum, requires = "record")]
    pub(crate) record_content: Option<RecordContent>,
    /// Replay such a file, in the time that it took, instead of capturing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "no_capture", "record"])]
    pub(crate) replay: Option<PathBuf>,
    /// Print every setting with its default, and stop.
    #[arg(long)]
    pub(crate) print_defaults: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Demo {
    /// How long it takes in all.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub(crate) seconds: u64,
    /// Requests a second; each becomes one at every service.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,
    /// Print the final report as one JSON object in the last line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Inject no fault; nothing may be found.
    #[arg(long)]
    pub(crate) control: bool,
    /// Fail instead of replaying a recording where eBPF is not allowed.
    #[arg(long)]
    pub(crate) require_ebpf: bool,
    /// Replay the recording that comes with Undine even where eBPF is allowed.
    #[arg(long, conflicts_with = "require_ebpf")]
    pub(crate) replay: bool,
    /// Keep a recording of this run in a folder, as the one that comes with Undine.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) save_recording: Option<PathBuf>,
    /// Where the page listens; a free port if not given.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Appliance {
    /// The appliance to ask.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7117", env = "UNDINE_ADDR")]
    pub(crate) addr: String,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// As `capture.recording_content` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordContent {
    /// The structure of what was said, without contents: it can be given away.
    Masked,
    /// Everything, passwords too.
    Full,
}

impl RecordContent {
    /// Its name in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Masked => "masked",
            Self::Full => "full",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON document with types, notes and sources.
    Json,
    /// One JSON object a row.
    Ndjson,
    /// RFC 4180, raw values.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of a built-in script, or `-` to read one from standard input.
    #[arg(required_unless_present = "file")]
    pub(crate) script: Option<String>,
    /// Read the script from this file, or from a folder with one .pxl and, beside it, a vis.json that
    /// says which of its functions to call.
    #[arg(long, short, value_name = "FILE", conflicts_with = "script")]
    pub(crate) file: Option<PathBuf>,
    /// The value of a variable of that vis.json, or else of an argument of `--function`.
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    pub(crate) args: Vec<String>,
    /// Call this function of the script instead of what it displays by itself.
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
    /// Refuse to answer where a part of the range can only be answered in part.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Which table to print where the script displays several and the format holds one.
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,
    #[command(flatten)]
    pub(crate) appliance: Appliance,
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The statement, or `-` to read it from standard input.
    pub(crate) sql: String,
    /// Refuse to answer where a part of the range can only be answered in part.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) appliance: Appliance,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Get {
    /// The tables and how many rows they hold.
    Tables(Appliance),
    /// The columns of every table, or of one.
    Schemas {
        /// Only this table.
        table: Option<String>,
        #[command(flatten)]
        appliance: Appliance,
    },
    /// The scripts that can be run by name.
    Scripts(Appliance),
    /// The incidents, newest first.
    Incidents(Appliance),
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Storage {
    /// What a data folder or a bucket holds of each table and tier. Works beside a running Undine.
    Status {
        /// Tiers without files too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        folder: StorageFolder,
    },
    /// Whether everything is there and is what the logs say; status 1 where it is not. Works beside
    /// a running Undine.
    Verify {
        /// Decode every page of every file, not only the footers.
        #[arg(long)]
        pages: bool,
        #[command(flatten)]
        folder: StorageFolder,
    },
    /// Print SQL that makes a view of each table and tier over exactly the files of this moment.
    ExportView {
        /// Whose SQL.
        #[arg(long = "for", value_enum, default_value_t = ViewsFor::Duckdb)]
        engine: ViewsFor,
        #[command(flatten)]
        folder: StorageFolder,
    },
    /// Delete files that no version needs. A running Undine does so itself.
    Vacuum {
        /// Only say what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// How long a file stays after it is not needed any more; readers of older versions need it.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        keep: humantime::Duration,
        #[command(flatten)]
        folder: StorageFolder,
    },
    /// Check a data folder, copy it to an empty one, and check the copy. FROM may be a backup or, to
    /// make one, the folder of a running Undine; or a bucket, of which one node's tables are copied.
    #[command(visible_alias = "backup")]
    Restore {
        /// The folder to copy, or a bucket's address as `store.bucket` has it.
        from: PathBuf,
        /// Where it is to be: an empty folder, or one that is not there.
        to: PathBuf,
        /// The node of a bucket that is to be copied, where there are several.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StorageFolder {
    /// The data folder; otherwise the one that the configuration names.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The configuration that names it.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A bucket instead, with all nodes that write there: its address as `store.bucket` has it, such as
    /// `s3://BUCKET/PREFIX`. Region, endpoint and credentials come from the environment.
    #[arg(long, value_name = "URL", conflicts_with_all = ["data_dir", "config"])]
    pub(crate) bucket: Option<String>,
    /// Only this node of the bucket.
    #[arg(long, value_name = "NAME", requires = "bucket")]
    pub(crate) node: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewsFor {
    /// `DuckDB` 1.3 or later.
    Duckdb,
    /// `ClickHouse`, `clickhouse-local` or `chDB`.
    Clickhouse,
}

#[derive(Debug, Args)]
pub(crate) struct DemoService {
    /// Where it listens; port 0 takes a free one, which it prints.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Services that it calls for each request.
    #[arg(long)]
    pub(crate) calls: Vec<SocketAddr>,
    /// How long its own work takes.
    #[arg(long)]
    pub(crate) work_us: u64,
    /// Where it records every request that it answered.
    #[arg(long)]
    pub(crate) record: PathBuf,
    /// While this file exists it is slow and fails often.
    #[arg(long)]
    pub(crate) fault: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoReceiver {
    /// Where it records what it received.
    #[arg(long)]
    pub(crate) record: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoLoad {
    /// The service that it calls.
    #[arg(long)]
    pub(crate) gateway: SocketAddr,
    /// Requests a second.
    #[arg(long)]
    pub(crate) rate: u32,
    /// Where it records what it sent.
    #[arg(long)]
    pub(crate) record: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
