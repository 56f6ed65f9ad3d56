//! A place for a protocol's programs, a folder for what they write, and what they need where they
//! talk through TLS.
//!
//! Inside TLS they map private copies of the libraries, so that no other program of this machine can
//! meet a probe. A probe stands from when a library was first mapped by what is watched, so the server
//! starts before the watch.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;
use undine_collector::Tls;

use crate::watch::Watch;
use undine_testbed::{Place, succeed};

/// Libraries that are copied, where they are.
const LIBRARIES: [&str; 3] = ["libssl.so.3", "libcrypto.so.3", "libgnutls.so.30"];
const LIBRARY_FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu"];

/// How programs talk with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Plain,
    Tls,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) place: Place,
    dir: TempDir,
    wire: Wire,
}

impl Scene {
    pub(super) fn new(wire: Wire) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Some servers give up the rights of root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let scene = Self { place: Place::new("undine-evals")?, dir, wire };
        if scene.is_tls() {
            scene.copy_libraries()?;
            scene.make_certificate()?;
        }
        Ok(scene)
    }

    fn copy_libraries(&self) -> Result<()> {
        let copies = self.dir().join("lib");
        fs::create_dir(&copies)?;
        for library in LIBRARIES {
            let found = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join(library));
            if let Some(found) = found.into_iter().find(|path| path.exists()) {
                fs::copy(found, copies.join(library))?;
            }
        }
        Ok(())
    }

    fn make_certificate(&self) -> Result<()> {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-keyout", &self.key(), "-out", &self.certificate()]);
        succeed(&mut openssl).map(drop)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.wire == Wire::Tls
    }

    /// What `encrypted` says in every row.
    pub(super) fn encrypted(&self) -> &'static str {
        if self.is_tls() { "true" } else { "false" }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file in its folder.
    pub(super) fn file(&self, name: &str) -> String {
        self.dir().join(name).display().to_string()
    }

    /// The file of the server's key.
    pub(super) fn key(&self) -> String {
        self.file("key.pem")
    }

    /// The file of its certificate, which it signed itself.
    pub(super) fn certificate(&self) -> String {
        self.file("certificate.pem")
    }

    /// A command in the place, whose TLS libraries are the private ones.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.place.command(program);
        if self.is_tls() {
            command.env("LD_LIBRARY_PATH", self.dir().join("lib"));
        }
        command
    }

    /// Runs one to its successful end; what it printed.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        succeed(self.command(program).args(args))
    }

    /// How it is watched.
    pub(super) fn watch(&self) -> Watch {
        let tls = if self.is_tls() { Tls::Read } else { Tls::Leave };
        Watch { tls, ..Watch::roomy() }
    }

    /// What a subject is called in the report.
    pub(super) fn subject(&self, protocol: &str) -> String {
        if self.is_tls() { format!("{protocol}_tls") } else { protocol.to_owned() }
    }
}
