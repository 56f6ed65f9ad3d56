//! Names a process's service, by the public rule.
//!
//! A service is named by the first of: a rule of the user, the Kubernetes pod, the container, the
//! systemd unit, the script, jar or module in the arguments, the executable. Everything here is a
//! function of what is known of the process; [`crate::process`] finds that out and tells two
//! listeners under one name apart by their port.

use serde::Deserialize;

use crate::process::Facts;

/// A rule of the user: processes that match everything given belong to `service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// The name that it gives.
    pub service: String,
    /// Matches the arguments, joined by blanks. In all patterns `*` stands for any characters and
    /// `?` for one.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// Matches the path of the executable.
    #[serde(default)]
    pub exe: Option<String>,
    /// Matches the path in the unified cgroup hierarchy.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// The port that the process serves at.
    #[serde(default)]
    pub port: Option<u16>,
}

impl ServiceRule {
    fn matches(&self, facts: &Facts, port: Option<u16>) -> bool {
        let pattern = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| glob(pattern, text))
        };
        pattern(&self.cmdline, &facts.cmdline())
            && pattern(&self.exe, &facts.exe)
            && pattern(&self.cgroup, &facts.cgroup)
            && (self.port.is_none() || self.port == port)
    }
}

/// What gave a service its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// A rule of the user.
    Rule,
    /// The Kubernetes pod.
    Pod,
    /// The container.
    Container,
    /// The systemd unit.
    Unit,
    /// The script, jar or module in the arguments.
    Program,
    /// The executable, or the kernel's name of the process.
    Executable,
}

impl NamedBy {
    /// Whether two listeners under one such name are two services.
    pub const fn is_told_apart_by_port(self) -> bool {
        !matches!(self, Self::Rule | Self::Pod)
    }
}

/// Names the service of a process that serves at `port`, if it serves.
pub fn service_name(rules: &[ServiceRule], facts: &Facts, port: Option<u16>) -> (String, NamedBy) {
    if let Some(rule) = rules.iter().find(|rule| rule.matches(facts, port)) {
        return (rule.service.clone(), NamedBy::Rule);
    }
    let place = Place::of(facts);
    if !place.pod_uid.is_empty() {
        return (format!("pod-{}", place.pod_uid), NamedBy::Pod);
    }
    if !place.container_id.is_empty() {
        return (short(&place.container_id).to_owned(), NamedBy::Container);
    }
    if !place.unit.is_empty() {
        let name = place.unit.strip_suffix(".service").unwrap_or(&place.unit);
        return (name.to_owned(), NamedBy::Unit);
    }
    if let Some(program) = program(&facts.args) {
        return (program, NamedBy::Program);
    }
    let exe = file_name(facts.exe.strip_suffix(" (deleted)").unwrap_or(&facts.exe));
    let name = if exe.is_empty() { &facts.comm } else { exe };
    (name.to_owned(), NamedBy::Executable)
}

/// Where a process runs, as its cgroup tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Id of its container, empty where it runs in none.
    pub container_id: String,
    /// UID of its pod, empty on a bare host.
    pub pod_uid: String,
    /// Its systemd unit, empty where it has none.
    pub unit: String,
}

impl Place {
    /// Where the process of `facts` runs.
    pub fn of(facts: &Facts) -> Self {
        // In a hybrid hierarchy the unified path of most processes is the root, and the one that
        // systemd keeps says more.
        let path = if facts.cgroup == "/" { &facts.systemd_cgroup } else { &facts.cgroup };
        let mut place = Self::default();
        for part in path.split('/') {
            if let Some(id) = container_id(part) {
                id.clone_into(&mut place.container_id);
            }
            if let Some(uid) = pod_uid(part) {
                place.pod_uid = uid;
            }
        }
        // A unit names what is in its own cgroup; a cgroup that somebody made below it is
        // somebody's own.
        if let Some(last) = path.rsplit('/').next()
            && last.ends_with(".service")
            && !last.starts_with("user@")
        {
            last.clone_into(&mut place.unit);
        }
        place
    }

    /// What a container is called where only its id is known.
    pub fn container_name(&self) -> &str {
        short(&self.container_id)
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The container that a cgroup's name names: `docker-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID.scope`, `libpod-ID.scope`, or just the ID.
fn container_id(part: &str) -> Option<&str> {
    let scope = part.strip_suffix(".scope").unwrap_or(part);
    let scope = scope.strip_prefix("crio-conmon-").map_or(scope, |_| "");
    let id = scope.rsplit(['-', ':']).next().unwrap_or(scope);
    (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// The pod that a cgroup's name names: `kubepods-burstable-podUID.slice` or `podUID`.
fn pod_uid(part: &str) -> Option<String> {
    let slice = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match slice.rsplit_once("-pod") {
        Some((start, uid)) if start.starts_with("kubepods") => uid,
        _ => slice.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let hex = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let is_uid = hex == 32 && matches!(uid.len(), 32 | 36);
    is_uid.then_some(uid)
}

/// The script, jar or module that an interpreter runs.
fn program(args: &[String]) -> Option<String> {
    let interpreter = file_name(args.first()?);
    let rest = &args[1..];
    let stem = interpreter.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    match stem {
        "python" | "pypy" => {
            script(rest, &["-m"], &["-c"], &["-W", "-X", "--check-hash-based-pycs"])
        }
        "node" | "nodejs" | "bun" | "deno" => script(
            rest,
            &[],
            &["-e", "-p", "--eval", "--print"],
            &["-r", "--require", "--import", "--loader"],
        ),
        "ruby" | "perl" | "php" | "lua" | "Rscript" => {
            script(rest, &[], &["-e", "-r"], &["-I", "-d", "-c"])
        }
        "java" => java(rest),
        "dotnet" => rest.iter().find(|arg| !arg.starts_with('-')).map(|arg| file_stem(arg)),
        _ => None,
    }
}

/// The first argument that is no option: `modules` options name a module, `inline` ones a program
/// text, and `valued` ones take a value.
fn script(args: &[String], modules: &[&str], inline: &[&str], valued: &[&str]) -> Option<String> {
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        if inline.contains(&arg) {
            return None;
        } else if modules.contains(&arg) {
            return args.next().map(str::to_owned);
        } else if valued.contains(&arg) {
            args.next();
        } else if matches!(arg, "run" | "--") {
            // `bun run x`, `deno run x`.
        } else if !arg.starts_with('-') {
            return Some(file_stem(arg)).filter(|stem| !stem.is_empty());
        }
    }
    None
}

fn java(args: &[String]) -> Option<String> {
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-jar" => return args.next().map(file_stem),
            "-m" | "--module" => {
                return args
                    .next()
                    .map(|module| module.split('/').next().unwrap_or(module).to_owned());
            }
            "-cp" | "-classpath" | "--class-path" | "-p" | "--module-path" | "--add-modules" => {
                args.next();
            }
            _ if arg.starts_with('-') || arg.starts_with('@') => {}
            class => return Some(class.rsplit('.').next().unwrap_or(class).to_owned()),
        }
    }
    None
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn file_stem(path: &str) -> String {
    let name = file_name(path);
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extension.len() <= 4 => stem.to_owned(),
        _ => name.to_owned(),
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(exe: &str, args: &[&str], cgroup: &str) -> Facts {
        Facts {
            exe: exe.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            cgroup: cgroup.to_owned(),
            comm: "comm".to_owned(),
            ..Facts::default()
        }
    }

    fn named(exe: &str, args: &[&str], cgroup: &str) -> String {
        let (name, by) = service_name(&[], &facts(exe, args, cgroup), None);
        format!("{name} by {by:?}")
    }

    #[test]
    fn the_first_source_that_knows_gives_the_name() {
        let id = "4f1c".repeat(16);
        let uid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let python = ["/usr/bin/python3.11", "-u", "/srv/cart.py", "--port", "80"];
        for (cgroup, expected) in [
            ("/", "cart by Program".to_owned()),
            ("/undine-test/cart", "cart by Program".to_owned()),
            ("/system.slice/shop.service", "shop by Unit".to_owned()),
            ("/system.slice/ci.service/job", "cart by Program".to_owned()),
            ("/user.slice/user@1000.service", "cart by Program".to_owned()),
            (&format!("/system.slice/docker-{id}.scope"), "4f1c4f1c4f1c by Container".to_owned()),
            (&format!("/docker/{id}"), "4f1c4f1c4f1c by Container".to_owned()),
            (
                &format!("/machine.slice/libpod-{id}.scope/container"),
                "4f1c4f1c4f1c by Container".to_owned(),
            ),
            (
                &format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{id}.scope",
                    uid.replace('-', "_")
                ),
                format!("pod-{uid} by Pod"),
            ),
            (&format!("/kubepods/besteffort/pod{uid}/{id}"), format!("pod-{uid} by Pod")),
        ] {
            assert_eq!(named("/usr/bin/python3.11", &python, cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn programs_that_interpreters_run_are_found_in_the_arguments() {
        for (args, expected) in [
            (&["python3", "-m", "http.server", "80"][..], "http.server by Program"),
            (&["python", "-X", "dev", "app.py"], "app by Program"),
            (&["python", "-c", "print(1)"], "exe by Executable"),
            (&["node", "--max-old-space-size=100", "dist/api.js"], "api by Program"),
            (&["node", "-r", "dotenv/config", "api.mjs"], "api by Program"),
            (&["java", "-Xmx1g", "-jar", "/opt/orders.jar"], "orders by Program"),
            (&["java", "-cp", "a:b", "org.example.Main", "x"], "Main by Program"),
            (&["dotnet", "Billing.dll"], "Billing by Program"),
            (&["nginx: worker process"], "exe by Executable"),
            (&[], "exe by Executable"),
        ] {
            assert_eq!(named("/opt/exe (deleted)", args, "/"), expected, "{args:?}");
        }
        assert_eq!(named("", &[], "/"), "comm by Executable");
    }

    #[test]
    fn a_rule_of_the_user_goes_first_and_must_match_in_everything() {
        let rules = [
            ServiceRule {
                service: "checkout".to_owned(),
                cmdline: Some("*--name checkout*".to_owned()),
                port: Some(8080),
                ..ServiceRule::default()
            },
            ServiceRule {
                service: "any".to_owned(),
                exe: Some("/opt/*".to_owned()),
                ..ServiceRule::default()
            },
        ];
        let facts = facts("/opt/undine", &["undine", "--name", "checkout"], "/");
        assert_eq!(service_name(&rules, &facts, Some(8080)).0, "checkout");
        assert_eq!(service_name(&rules, &facts, Some(9)).0, "any");
        assert_eq!(service_name(&rules[..1], &facts, None).0, "undine");
    }

    #[test]
    fn a_glob_matches_the_whole_text() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("*a*b*", "xxaxxbxx", true),
            ("", "a", false),
            ("**x", "aax", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }
}
