use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use undine_collector::Cgroup;

use crate::place::Place;
use crate::server::succeed;

/// Libraries that are copied, where they are.
const LIBRARIES: [&str; 3] = ["libssl.so.3", "libcrypto.so.3", "libgnutls.so.30"];
const LIBRARY_FOLDERS: [&str; 3] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/lib/x86_64-linux-gnu"];
/// What a certificate is made by; without extensions it would be one of version 1, which rustls refuses.
const CERTIFICATE: &str = "[req]
distinguished_name = name
x509_extensions = extensions
[name]
[extensions]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";

/// How programs talk with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As it is.
    Plain,
    /// Inside TLS.
    Tls,
}

/// A place for a server and its clients, a folder for what they write, and what they need where they
/// talk inside TLS.
///
/// Inside TLS they map private copies of the libraries, so that no other program of this machine can
/// meet a probe. A probe stands from when a library was first mapped by what is watched, so a server
/// starts before the watch, or is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'s> {
    /// Where they run.
    pub place: &'s Place,
    /// For what they write.
    pub folder: &'s Path,
    /// How they talk.
    pub wire: Wire,
}

impl Scene<'_> {
    /// Puts what is needed into the folder.
    pub fn prepare(&self) -> Result<()> {
        // Some servers give up the rights of root.
        fs::set_permissions(self.folder, fs::Permissions::from_mode(0o755))?;
        if self.is_tls() {
            self.copy_libraries()?;
            self.make_certificate()?;
        }
        Ok(())
    }

    fn copy_libraries(&self) -> Result<()> {
        let copies = self.path("lib");
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
        // Where OpenSSL is a program and nothing else, it has no settings of its own.
        let settings = self.path("openssl.cnf");
        fs::write(&settings, CERTIFICATE)?;
        let mut openssl = Command::new("openssl");
        openssl
            .env("OPENSSL_CONF", settings)
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-keyout", &self.key(), "-out", &self.certificate()]);
        succeed(&mut openssl).map(drop)
    }

    /// Whether programs talk inside TLS.
    pub fn is_tls(&self) -> bool {
        self.wire == Wire::Tls
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The file of the server's key.
    pub fn key(&self) -> String {
        self.text("key.pem")
    }

    /// The file of its certificate, which it signed itself.
    pub fn certificate(&self) -> String {
        self.text("certificate.pem")
    }

    /// A command in the place, whose TLS libraries are the private ones.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.place.cgroup, program)
    }

    /// The same in another cgroup.
    pub fn command_in(&self, cgroup: &Cgroup, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.place.command_in(cgroup, program);
        if self.is_tls() {
            command.env("LD_LIBRARY_PATH", self.path("lib"));
        }
        command
    }

    /// Runs a command to its successful end; what it says.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        succeed(self.command(program).args(args))
    }
}
