//! The programs that the demo watches, and the one that receives what it sends.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use undine_collector::Cgroup;

use super::{load, service};
use crate::workload::{CHILD_TIME_MAX, end, wait_for};

/// The service that is made to fail.
pub(crate) const FAULTY: &str = "inventory";

/// A service, and the process that runs it.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    record: Record,
    process: Child,
}

#[derive(Debug)]
enum Record {
    Own(PathBuf),
    Nginx(PathBuf),
}

impl Hop {
    /// Requests that the service itself has recorded, by status.
    pub(crate) fn requests(&self) -> u64 {
        match &self.record {
            Record::Own(path) => service::read_record(path).map_or(0, |record| record.requests()),
            Record::Nginx(path) => {
                fs::read_to_string(path).map_or(0, |text| text.lines().count() as u64)
            }
        }
    }
}

/// Everything that the demo started, in the order of the calls: clients first.
#[derive(Debug)]
pub(crate) struct Children {
    hops: Vec<Hop>,
    load: Child,
    load_record: PathBuf,
    fault: PathBuf,
}

/// Where the services are to be, before anything runs.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) cgroup: &'a Cgroup,
}

impl Stage<'_> {
    /// A command for a copy of this program under the name of a service, by which the public rule
    /// then names it.
    fn program(&self, name: &str) -> Result<Command> {
        let path = self.dir.join("bin").join(name);
        fs::create_dir_all(self.dir.join("bin"))?;
        let own = fs::read_link("/proc/self/exe")?;
        if !path.exists() && fs::hard_link(&own, &path).is_err() {
            fs::copy(&own, &path).with_context(|| format!("cannot copy {}", own.display()))?;
        }
        Ok(self.command(&path))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = self.cgroup.command(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn service(&self, name: &str, work_us: u64, calls: &[SocketAddr]) -> Result<Hop> {
        let record = self.dir.join(format!("{name}.json"));
        let mut command = self.program(name)?;
        command
            .args(["demo-service", "--listen", "127.0.0.1:0", "--work-us", &work_us.to_string()])
            .arg("--record")
            .arg(&record)
            .arg("--fault")
            .arg(self.dir.join(format!("{name}.fault")));
        for callee in calls {
            command.args(["--calls", &callee.to_string()]);
        }
        let mut process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let known = wait_for(&mut process, name, || service::read_record(&record))?;
        Ok(Hop {
            name: name.to_owned(),
            address: known.listen.parse()?,
            record: Record::Own(record),
            process,
        })
    }

    fn nginx(&self, program: &Path, upstream: SocketAddr) -> Result<Hop> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let dir = self.dir.join("nginx");
        fs::create_dir_all(&dir)?;
        let log = dir.join("access.log");
        let conf = dir.join("nginx.conf");
        fs::write(&conf, nginx_config(&dir, address, upstream))?;
        let mut process = self
            .command(program)
            .arg("-c")
            .arg(&conf)
            .arg("-p")
            .arg(&dir)
            .spawn()
            .context("cannot start nginx")?;
        wait_for(&mut process, "nginx", || TcpStream::connect(address).ok())?;
        Ok(Hop { name: "nginx".to_owned(), address, record: Record::Nginx(log), process })
    }

    /// Starts the services, callees first: nginx (where installed) → storefront → catalog and
    /// orders → inventory. Their work takes long beside what a busy machine adds to it.
    pub(crate) fn services(&self) -> Result<Vec<Hop>> {
        let inventory = self.service(FAULTY, 12_000, &[])?;
        let catalog = self.service("catalog", 8_000, &[])?;
        let orders = self.service("orders", 10_000, &[inventory.address])?;
        let storefront = self.service("storefront", 6_000, &[catalog.address, orders.address])?;
        let mut hops = vec![storefront, orders, catalog, inventory];
        let nginx = Path::new("/usr/sbin/nginx");
        if nginx.exists() {
            hops.insert(0, self.nginx(nginx, hops[0].address)?);
        }
        Ok(hops)
    }

    /// Starts the load on the first of `hops`.
    pub(crate) fn load(&self, hops: Vec<Hop>, rate: u32) -> Result<Children> {
        let load_record = self.dir.join("load.json");
        let first = hops.first().context("there is no service to call")?;
        let load = self
            .program("shopper")?
            .args([
                "demo-load",
                "--gateway",
                &first.address.to_string(),
                "--rate",
                &rate.to_string(),
            ])
            .arg("--record")
            .arg(&load_record)
            .spawn()
            .context("cannot start the load")?;
        Ok(Children { hops, load, load_record, fault: self.dir.join(format!("{FAULTY}.fault")) })
    }
}

impl Children {
    /// Names of the services, in the order of the calls.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.hops.iter().map(|hop| hop.name.as_str()).collect()
    }

    /// Requests that each service has recorded itself.
    pub(crate) fn requests(&self) -> BTreeMap<String, u64> {
        self.hops.iter().map(|hop| (hop.name.clone(), hop.requests())).collect()
    }

    /// Makes the faulty service slow and unreliable.
    pub(crate) fn inject(&self) -> Result<()> {
        fs::write(&self.fault, "").context("cannot inject the fault")
    }

    /// Lets it recover.
    pub(crate) fn lift(&self) -> Result<()> {
        fs::remove_file(&self.fault).context("cannot lift the fault")
    }

    /// Ends the load and waits for what was under way; then no service has work left.
    pub(crate) fn stop_load(&mut self) -> Result<load::LoadRecord> {
        terminate(&mut self.load)?;
        wait_for_end(&mut self.load, "the load")?;
        load::read_record(&self.load_record).context("the load left no record")
    }

    /// Lets every service write its final record, callers first, and end.
    pub(crate) fn stop_services(&mut self) -> Result<()> {
        for hop in &mut self.hops {
            match hop.record {
                Record::Own(_) => terminate(&mut hop.process)?,
                Record::Nginx(_) => send_signal(&hop.process, "QUIT")?,
            }
            wait_for_end(&mut hop.process, &hop.name)?;
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for process in
            std::iter::once(&mut self.load).chain(self.hops.iter_mut().map(|hop| &mut hop.process))
        {
            end(process);
        }
    }
}

fn wait_for_end(process: &mut Child, name: &str) -> Result<()> {
    let deadline = Instant::now() + CHILD_TIME_MAX;
    while process.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "{name} does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn terminate(process: &mut Child) -> Result<()> {
    send_signal(process, "TERM")
}

fn send_signal(process: &Child, signal: &str) -> Result<()> {
    let sent =
        Command::new("kill").args([&format!("-{signal}"), &process.id().to_string()]).status()?;
    ensure!(sent.success(), "cannot send {signal} to process {}", process.id());
    Ok(())
}

fn nginx_config(dir: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        r"daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log {dir}/access.log; keepalive_requests 1000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream storefront {{ server {upstream}; keepalive 32; keepalive_requests 1000000; }}
  server {{ listen {address}; location / {{ proxy_pass http://storefront; proxy_http_version 1.1; proxy_set_header Connection ''; }} }}
}}
"
    )
}
