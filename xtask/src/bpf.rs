//! Rebuilds the kernel objects from `ebpf/`, and tells whether the committed ones are of their
//! sources.
//!
//! The object is built by Debian's `rustc-web` where it is installed, otherwise by a nightly
//! toolchain; both need `bpf-linker` on the path. CONTRIBUTING.md says how to get them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::shell::{command, is_installed, root, run, say};

/// The compiled objects with the features that each is built with: the usual one, and that for
/// kernels before 5.17.
const OBJECTS: [(&str, &[&str]); 2] =
    [("ebpf/undine.bpf.o", &[]), ("ebpf/undine-before-5.17.bpf.o", &["--features", "before-5-17"])];
/// The hash of what they were compiled from.
const SOURCES: &str = "ebpf/undine.bpf.sources";

/// Debian's toolchain for browsers, which is newer than its usual one.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// Pieces of paths that only a building machine has.
const LOCAL_PATHS: [&str; 4] = ["/home/", "/root/", "/work/", ".cargo/registry"];

/// Builds, strips and installs the objects, and notes what they were built from.
pub(crate) fn build() -> Result<()> {
    ensure!(
        is_installed("bpf-linker"),
        "bpf-linker is not on the path; CONTRIBUTING.md says how to get it"
    );
    for (object, features) in OBJECTS {
        compile(object, features)?;
    }
    fs::write(root().join(SOURCES), format!("{}\n", hash_of_sources()?))?;
    check()?;
    say("the kernel objects are built; run the kernel tests before you commit them");
    Ok(())
}

fn compile(object: &str, features: &[&str]) -> Result<()> {
    let target = root().join("target/bpf");
    let mut cargo = cargo()?;
    cargo
        .args(["build", "--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none"])
        .args(["-p", "undine-ebpf", "--bin", "undine-bpf"])
        .args(features)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags().join("\u{1f}"))
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    run(&mut cargo)?;
    let built = target.join("bpfel-unknown-none/release/undine-bpf");
    run(command(&objcopy()?, &["--remove-section=.debug_*", "--remove-section=.rel.debug_*"])
        .arg(&built)
        .arg(root().join(object)))
}

/// Fails if a committed object is not of the sources, or names the machine that built it.
pub(crate) fn check() -> Result<()> {
    let noted = fs::read_to_string(root().join(SOURCES))
        .with_context(|| format!("cannot read {SOURCES}"))?;
    ensure!(
        noted.trim() == hash_of_sources()?,
        "the kernel objects are not of their sources; run: cargo xtask bpf"
    );
    for (name, _) in OBJECTS {
        let object = fs::read(root().join(name)).with_context(|| format!("cannot read {name}"))?;
        for path in LOCAL_PATHS {
            let is_inside = object.windows(path.len()).any(|window| window == path.as_bytes());
            ensure!(!is_inside, "{name} holds the path {path}… of the machine that built it");
        }
        say(format!("{name}, {} bytes, is of its sources", object.len()));
    }
    Ok(())
}

fn cargo() -> Result<Command> {
    let has_sources = Path::new("/usr/lib/rustlib/src/rust/library").exists()
        || fs::read_dir("/usr/src").is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("rustc-"))
            })
        });
    if Path::new(DEBIAN_CARGO).exists() && Path::new(DEBIAN_RUSTC).exists() && has_sources {
        let mut debian = command(DEBIAN_CARGO, &[]);
        debian
            .env("RUSTC", DEBIAN_RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTUP_TOOLCHAIN");
        return Ok(debian);
    }
    let nightly = command("cargo", &["+nightly", "--version"]).output();
    ensure!(
        nightly.is_ok_and(|output| output.status.success()),
        "there is no toolchain for kernel programs; CONTRIBUTING.md says how to get one"
    );
    Ok(command("cargo", &["+nightly"]))
}

fn flags() -> Vec<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the path of the home is what must not be in the object"
    )]
    let home = std::env::var("HOME").unwrap_or_default();
    let mut flags: Vec<_> = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
        "--remap-path-prefix=/usr/src=rust",
    ]
    .map(str::to_owned)
    .into();
    flags.push(format!("--remap-path-prefix={}=undine", root().display()));
    flags.push(format!("--remap-path-prefix={home}/.cargo=cargo"));
    flags
}

fn objcopy() -> Result<String> {
    let versioned =
        (19..=30).rev().map(|version| format!("/usr/lib/llvm-{version}/bin/llvm-objcopy"));
    versioned
        .chain(["llvm-objcopy".to_owned()])
        .find(|program| is_installed(program))
        .context("llvm-objcopy is not installed; install llvm")
}

/// SHA-256 over every source file and the locked version of what it is compiled with.
fn hash_of_sources() -> Result<String> {
    let mut files = vec![root().join("ebpf/Cargo.toml")];
    gather(&root().join("ebpf/src"), &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.strip_prefix(root())?.to_string_lossy().as_bytes());
        hash.update(fs::read(&file)?);
    }
    for package in ["aya-ebpf", "aya-ebpf-bindings", "aya-ebpf-cty", "aya-ebpf-macros"] {
        hash.update(locked_version(package)?);
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn locked_version(package: &str) -> Result<String> {
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let Some((_, rest)) = lock.split_once(&format!("name = \"{package}\"\n")) else {
        bail!("{package} is not in Cargo.lock");
    };
    Ok(rest.lines().next().unwrap_or_default().to_owned())
}
