//! Who a process, a pod or an address is.
//!
//! There is no Kubernetes API to ask. A pod is known by its processes alone, and its name is its UID;
//! other lookups by address, service or container id give the empty text, as upstream does for what it
//! does not know, and so do all on a bare host. Processes are looked up in the table `processes`; where
//! a row still carries its own context, `df.ctx[…]` uses that instead.

use undine_schema::SemanticType as St;

use super::environment::{Environment, Pod, Process};
use super::json::has_service_name;
use super::kernel::{self as k, Kernel, ambient, lookup, one, two};
use super::{B, Body, I, Meaning, Needs, Registry, S, T, U};

pub(crate) fn declare(r: &mut Registry) {
    r.plain("upid_to_pid", &[U], I, one::<k::U, k::I>(|upid| part(upid, 4)));
    r.plain("upid_to_asid", &[U], I, one::<k::U, k::I>(|upid| part(upid, 0)));
    r.plain("upid_to_string", &[U], S, one::<k::U, k::S>(upid_text));
    processes(r);
    unknown(r);
    r.tagged("pod_name_to_namespace", &[S], S, St::NamespaceName, one::<k::S, k::S>(namespace));
    r.tagged("service_name_to_namespace", &[S], S, St::NamespaceName, one::<k::S, k::S>(namespace));
    r.plain("has_service_name", &[S, S], B, two::<k::S, k::S, k::B>(has_service_name));
    // Asking a name server would send what was seen off the machine, so the address stays itself.
    r.plain("nslookup", &[S], S, one::<k::S, k::S>(str::to_owned));
    r.plain("vizier_id", &[], S, ambient::<k::S>(|environment| cluster_id(&environment.cluster)));
    r.plain("vizier_name", &[], S, ambient::<k::S>(|environment| environment.cluster.clone()));
    r.plain("vizier_namespace", &[], S, ambient::<k::S>(|_| String::new()));
    r.plain("_exec_hostname", &[], S, ambient::<k::S>(|environment| environment.node.clone()));
    r.plain("_exec_host_num_cpus", &[], I, ambient::<k::I>(|environment| environment.cpus));
    r.plain("asid", &[], I, ambient::<k::I>(|environment| node_id(&environment.node)));
    r.plain("get_cidrs", &[], S, ambient::<k::S>(|_| "[]".to_owned()));
    r.plain("cidrs_contain_ip", &[S, S], B, two::<k::S, k::S, k::B>(super::uri::cidrs_contain_ip));
}

fn part(upid: &[u8], from: usize) -> i64 {
    upid.get(from..from + 4)
        .map_or(0, |bytes| bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)))
}

/// `asid:pid:start`
fn upid_text(upid: &[u8]) -> String {
    let start = part(upid, 8) << 32 | part(upid, 12);
    format!("{}:{}:{start}", part(upid, 0), part(upid, 4))
}

fn of_process(field: fn(&Process) -> &String) -> Kernel {
    lookup::<k::U, k::S>(move |environment: &Environment, upid| {
        environment.process(upid).map_or_else(String::new, |process| field(process).clone())
    })
}

fn processes(r: &mut Registry) {
    let mut declare = |name, semantic, field| {
        let body = Body::Kernel(of_process(field));
        r.add_needing(Needs::Processes, name, &[U], S, Meaning::Is(semantic), body);
    };
    declare("upid_to_cmdline", St::None, |process| &process.cmdline);
    declare("upid_to_service_name", St::ServiceName, |process| &process.service);
    declare("upid_to_pod_name", St::PodName, |process| &process.pod);
    declare("upid_to_namespace", St::NamespaceName, |process| &process.namespace);
    declare("upid_to_node_name", St::NodeName, |process| &process.node);
    declare("upid_to_container_name", St::ContainerName, |process| &process.container);
    declare("upid_to_container_id", St::None, |process| &process.container_id);
    declare("upid_to_hostname", St::None, |process| &process.node);
    declare("upid_to_pod_id", St::None, |process| &process.pod);
    pods(r);
}

/// By a pod's id or name, which are the same here.
fn pods(r: &mut Registry) {
    r.tagged("pod_id_to_pod_name", &[S], S, St::PodName, one::<k::S, k::S>(str::to_owned));
    r.plain("pod_name_to_pod_id", &[S], S, one::<k::S, k::S>(str::to_owned));
    let mut declare = |name, semantic, field: fn(&Pod) -> String| {
        let kernel = lookup::<k::S, k::S>(move |environment: &Environment, pod| {
            environment.pods.get(pod).map_or_else(String::new, field)
        });
        let meaning = Meaning::Is(semantic);
        r.add_needing(Needs::Processes, name, &[S], S, meaning, Body::Kernel(kernel));
    };
    declare("pod_id_to_service_name", St::ServiceName, Pod::service);
    declare("pod_name_to_service_name", St::ServiceName, Pod::service);
    declare("pod_id_to_node_name", St::NodeName, |pod| pod.node.clone());
    declare("pod_name_to_node_name", St::NodeName, |pod| pod.node.clone());
}

/// What only a Kubernetes API server could tell.
fn unknown(r: &mut Registry) {
    for (name, semantic) in [
        ("upid_to_service_id", St::None),
        ("upid_to_deployment_name", St::None),
        ("upid_to_deployment_id", St::None),
        ("upid_to_replicaset_name", St::None),
        ("upid_to_replicaset_id", St::None),
        ("upid_to_pod_status", St::PodStatus),
    ] {
        r.tagged(name, &[U], S, semantic, one::<k::U, k::S>(|_| String::new()));
    }
    for (name, semantic) in UNKNOWN_BY_TEXT {
        r.tagged(name, &[S], S, semantic, one::<k::S, k::S>(|_| String::new()));
    }
    r.plain("ip_to_pod_id", &[S, T], S, two::<k::S, k::I, k::S>(|_, _| String::new()));
    for name in [
        "pod_id_to_start_time",
        "pod_id_to_stop_time",
        "pod_name_to_start_time",
        "pod_name_to_stop_time",
        "container_name_to_start_time",
        "container_name_to_stop_time",
        "container_id_to_start_time",
        "container_id_to_stop_time",
    ] {
        r.tagged(name, &[S], T, St::TimeNs, one::<k::S, k::I>(|_| 0));
    }
}

const UNKNOWN_BY_TEXT: [(&str, St); 32] = [
    ("ip_to_pod_id", St::None),
    ("ip_to_service_id", St::None),
    ("pod_id_to_service_id", St::None),
    ("pod_id_to_namespace", St::NamespaceName),
    ("pod_id_to_deployment_name", St::None),
    ("pod_id_to_deployment_id", St::None),
    ("pod_id_to_replicaset_name", St::None),
    ("pod_id_to_replicaset_id", St::None),
    ("pod_id_to_container_name", St::ContainerName),
    ("pod_name_to_pod_ip", St::IpAddress),
    ("pod_name_to_service_id", St::None),
    ("pod_name_to_deployment_name", St::None),
    ("pod_name_to_deployment_id", St::None),
    ("pod_name_to_replicaset_name", St::None),
    ("pod_name_to_replicaset_id", St::None),
    ("pod_name_to_status", St::PodStatus),
    ("pod_name_to_ready", St::None),
    ("pod_name_to_status_message", St::None),
    ("pod_name_to_status_reason", St::None),
    ("service_id_to_service_name", St::ServiceName),
    ("service_id_to_cluster_ip", St::IpAddress),
    ("service_name_to_service_id", St::None),
    ("deployment_id_to_deployment_name", St::None),
    ("deployment_name_to_deployment_id", St::None),
    ("replicaset_id_to_deployment_name", St::None),
    ("replicaset_name_to_deployment_name", St::None),
    ("replicaset_id_to_replicaset_name", St::None),
    ("replicaset_name_to_replicaset_id", St::None),
    ("container_id_to_status", St::ContainerStatus),
    ("container_name_to_status", St::ContainerStatus),
    ("container_name_to_container_id", St::None),
    ("container_id_to_container_name", St::ContainerName),
];

/// What stands before the only slash.
fn namespace(name: &str) -> String {
    match name.split_once('/') {
        Some((namespace, rest)) if !rest.contains('/') => namespace.to_owned(),
        _ => String::new(),
    }
}

/// A number that a name always gets again (FNV-1a).
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A UUID that the cluster's name always gets again.
pub(crate) fn cluster_id(cluster: &str) -> String {
    let (high, low) = (fingerprint(cluster), fingerprint(&format!("{cluster}/undine")));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The node's short id; 31 bits, never negative.
pub(crate) fn node_id(node: &str) -> i64 {
    i64::try_from(fingerprint(node) & 0x7fff_ffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use undine_schema::Upid;

    #[test]
    fn a_upid_gives_its_parts_by_bits_alone() {
        let upid = Upid::new(7, 42, 1 << 40);
        assert_eq!(part(upid.as_bytes(), 4), 42);
        assert_eq!(upid_text(upid.as_bytes()), format!("7:42:{}", 1_u64 << 40));
    }

    #[test]
    fn a_namespace_needs_exactly_one_slash() {
        assert_eq!(namespace("ns/pod"), "ns");
        assert_eq!(namespace("pod"), "");
        assert_eq!(namespace("a/b/c"), "");
    }
}
