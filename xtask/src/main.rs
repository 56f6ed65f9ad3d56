//! The project's own chores: `cargo xtask test | full | kernels | bpf | deny | fuzz`.
//!
//! `test` is what CI runs and what CONTRIBUTING.md budgets; `full` adds what does not fit there.

mod bpf;
mod buckets;
mod deny;
mod fuzz;
mod interop;
mod kernels;
mod python;
mod shell;
mod steps;
mod ui;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask test [STEP…]   every check that CI runs, or only the named ones
cargo xtask full [STEP…]   the checks that take longer than CI has
cargo xtask kernels [5.10|6.1|6.12]…  run the kernel tests on older kernels, in a virtual machine
cargo xtask bpf            rebuild the kernel objects from ebpf/
cargo xtask fuzz [--seconds N | --merge | --stretch] [TARGET…]
                           look for inputs that break a parser, 10 minutes for each unless told
cargo xtask deny           check the lock file against deny.toml's bans
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = args.split_first().map_or(("help", &[][..]), |(t, r)| (t.as_str(), r));
    match task {
        "test" => steps::run(&steps::test(), rest),
        "full" => steps::run(&steps::full(), rest),
        "kernels" => kernels::run(rest),
        "bpf" => bpf::build(),
        "deny" => deny::check(),
        "fuzz" => fuzz::fuzz(rest),
        compiler if fuzz::is_compiler(compiler) => fuzz::compile(compiler, rest),
        "help" | "--help" | "-h" => {
            shell::say(HELP);
            Ok(())
        }
        other => bail!("there is no task '{other}'\n{HELP}"),
    }
}
