//! Rows of what a scan has read.

use arrow::array::RecordBatch;
use undine_schema::tables::{
    CGROUP_STATS, CgroupStat, CgroupStats, JVM_STATS, JvmStat, JvmStats, NETWORK_STATS,
    NetworkStat, NetworkStats, PROCESS_STATS, ProcessStat, ProcessStats,
};
use undine_schema::{TableDef, TimeNs};

use crate::process::{Facts, Identity};
use crate::service_name::{Place, ServiceRule, service_name};

use super::cgroup_usage::{Limit, Pressure};
use super::hsperf::Heap;
use super::scan::{CgroupSample, NetworkSample, ProcessSample, Sample};

/// What rows have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) node: String,
    pub(crate) rules: Vec<ServiceRule>,
}

impl Origin {
    /// The rows of `sample`, whose processes have `identities`, in their order. One that is not
    /// known has ended meanwhile.
    pub(crate) fn batches(
        &self,
        sample: &Sample,
        identities: &[Option<Identity>],
        time_: TimeNs,
    ) -> Vec<(&'static TableDef, RecordBatch)> {
        let mut batches = Vec::new();
        let mut processes = ProcessStats::new(sample.processes.len());
        for (process, identity) in sample.processes.iter().zip(identities) {
            if let Some(identity) = identity {
                self.process(&mut processes, process, identity, sample.page_bytes, time_);
            }
        }
        if !processes.is_empty() {
            batches.push((&PROCESS_STATS, processes.finish()));
        }
        let mut machines = JvmStats::new(0);
        for (index, heap) in &sample.machines {
            if let Some(identity) = &identities[*index] {
                self.machine(&mut machines, heap, identity, time_);
            }
        }
        if !machines.is_empty() {
            batches.push((&JVM_STATS, machines.finish()));
        }
        let mut networks = NetworkStats::new(0);
        for network in &sample.networks {
            self.network(&mut networks, network, identities, time_);
        }
        if !networks.is_empty() {
            batches.push((&NETWORK_STATS, networks.finish()));
        }
        let mut cgroups = CgroupStats::new(0);
        for cgroup in &sample.cgroups {
            self.cgroup(&mut cgroups, cgroup, identities, time_);
        }
        if !cgroups.is_empty() {
            batches.push((&CGROUP_STATS, cgroups.finish()));
        }
        batches
    }

    fn process(
        &self,
        rows: &mut ProcessStats,
        process: &ProcessSample,
        identity: &Identity,
        page_bytes: u64,
        time_: TimeNs,
    ) {
        let ProcessSample { stat, io, .. } = process;
        rows.push(&ProcessStat {
            time_,
            upid: identity.upid,
            major_faults: signed(stat.major_faults),
            minor_faults: signed(stat.minor_faults),
            cpu_utime_ns: signed(stat.user_ns),
            cpu_ktime_ns: signed(stat.kernel_ns),
            num_threads: signed(stat.threads),
            vsize_bytes: signed(stat.virtual_bytes),
            rss_bytes: signed(stat.resident_pages.saturating_mul(page_bytes)),
            rchar_bytes: signed(io.read_chars),
            wchar_bytes: signed(io.written_chars),
            read_bytes: signed(io.read_bytes),
            write_bytes: signed(io.written_bytes),
            service: &identity.service,
            pod: &identity.place.pod_uid,
            namespace: "",
            node: &self.node,
            container: identity.place.container_name(),
        });
    }

    fn machine(&self, rows: &mut JvmStats, heap: &Heap, identity: &Identity, time_: TimeNs) {
        rows.push(&JvmStat {
            time_,
            upid: identity.upid,
            young_gc_time: signed(heap.young_gc_ns),
            full_gc_time: signed(heap.full_gc_ns),
            used_heap_size: signed(heap.used_bytes),
            total_heap_size: signed(heap.total_bytes),
            max_heap_size: signed(heap.max_bytes),
            service: &identity.service,
            pod: &identity.place.pod_uid,
            namespace: "",
            node: &self.node,
            container: identity.place.container_name(),
        });
    }

    fn network(
        &self,
        rows: &mut NetworkStats,
        network: &NetworkSample,
        identities: &[Option<Identity>],
        time_: TimeNs,
    ) {
        let members = || network.members.iter().filter_map(|index| identities[*index].as_ref());
        let service = common(members().map(|identity| &*identity.service));
        let container = common(members().map(|identity| identity.place.container_name()));
        let pod = common(members().map(|identity| identity.place.pod_uid.as_str()));
        // Processes of pods in the host's own network share it with everyone.
        let pod = if network.is_host { "" } else { pod };
        let (received, sent) = (&network.counters.received, &network.counters.sent);
        rows.push(&NetworkStat {
            time_,
            pod_id: pod,
            rx_bytes: signed(received.bytes),
            rx_packets: signed(received.packets),
            rx_errors: signed(received.errors),
            rx_drops: signed(received.drops),
            tx_bytes: signed(sent.bytes),
            tx_packets: signed(sent.packets),
            tx_errors: signed(sent.errors),
            tx_drops: signed(sent.drops),
            netns: i64::from(network.inode),
            loopback_bytes: signed(network.counters.loopback_bytes),
            loopback_packets: signed(network.counters.loopback_packets),
            service,
            pod,
            namespace: "",
            node: &self.node,
            container,
        });
    }

    fn cgroup(
        &self,
        rows: &mut CgroupStats,
        cgroup: &CgroupSample,
        identities: &[Option<Identity>],
        time_: TimeNs,
    ) {
        let facts = Facts { cgroup: cgroup.path.clone(), ..Facts::default() };
        let place = Place::of(&facts);
        // Without an executable only a rule, pod, container or unit gives a name.
        let (mut service, _) = service_name(&self.rules, &facts, None);
        if service.is_empty() {
            let members = cgroup.members.iter().filter_map(|index| identities[*index].as_ref());
            common(members.map(|identity| &*identity.service)).clone_into(&mut service);
        }
        let usage = &cgroup.usage;
        let known = |value: Option<u64>| signed(value.unwrap_or(0));
        let waited = |pressure: Option<Pressure>| {
            let Pressure { some_ns, full_ns } = pressure.unwrap_or_default();
            (signed(some_ns), signed(full_ns))
        };
        let (cpu_some_ns, cpu_full_ns) = waited(usage.cpu_pressure);
        let (memory_some_ns, memory_full_ns) = waited(usage.memory_pressure);
        let (io_some_ns, io_full_ns) = waited(usage.io_pressure);
        rows.push(&CgroupStat {
            time_,
            cgroup: &cgroup.path,
            controllers: &usage.controllers(),
            cpu_usage_ns: known(usage.cpu_usage_ns),
            cpu_user_ns: known(usage.cpu_user_ns),
            cpu_system_ns: known(usage.cpu_system_ns),
            cpu_periods: known(usage.cpu_periods),
            cpu_throttled_periods: known(usage.cpu_throttled_periods),
            cpu_throttled_ns: known(usage.cpu_throttled_ns),
            memory_bytes: known(usage.memory_bytes),
            memory_peak_bytes: known(usage.memory_peak_bytes),
            memory_max_bytes: match usage.memory_max {
                None => 0,
                Some(Limit::None) => -1,
                Some(Limit::Bytes(bytes)) => signed(bytes),
            },
            memory_swap_bytes: known(usage.memory_swap_bytes),
            memory_high_events: known(usage.memory_high_events),
            memory_max_events: known(usage.memory_max_events),
            memory_oom_events: known(usage.memory_oom_events),
            memory_oom_kills: known(usage.memory_oom_kills),
            io_read_bytes: known(usage.io_read_bytes),
            io_write_bytes: known(usage.io_write_bytes),
            io_read_ops: known(usage.io_read_ops),
            io_write_ops: known(usage.io_write_ops),
            cpu_some_ns,
            cpu_full_ns,
            memory_some_ns,
            memory_full_ns,
            io_some_ns,
            io_full_ns,
            pids: known(usage.pids),
            service: &service,
            pod: &place.pod_uid,
            namespace: "",
            node: &self.node,
            container: place.container_name(),
        });
    }
}

/// What all are, or nothing where they differ.
fn common<'a>(mut all: impl Iterator<Item = &'a str>) -> &'a str {
    let first = all.next().unwrap_or_default();
    if all.all(|other| other == first) { first } else { "" }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use undine_schema::Upid;

    use super::*;

    fn identity(service: &str, pod: &str) -> Identity {
        let place = Place { pod_uid: pod.to_owned(), ..Place::default() };
        Identity { upid: Upid::default(), service: Arc::from(service), place }
    }

    fn text(batch: &RecordBatch, column: &str) -> Vec<String> {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>();
        column.iter().map(|text| text.unwrap_or_default().to_owned()).collect()
    }

    fn network(is_host: bool, members: &[usize]) -> NetworkSample {
        let counters = super::super::net_dev::NetDev::default();
        NetworkSample { inode: 1, is_host, counters, members: members.to_vec() }
    }

    #[test]
    fn a_namespace_is_named_only_as_all_in_it_are() {
        let origin = Origin { node: "knot".to_owned(), rules: Vec::new() };
        let known = [identity("a", "p"), identity("b", "p"), identity("a", "p")];
        let identities: Vec<_> = known.into_iter().map(Some).chain([None]).collect();
        let networks = vec![
            network(false, &[0, 2, 3]),
            network(false, &[0, 1]),
            network(true, &[0]),
            network(false, &[3]),
        ];
        let sample = Sample { networks, ..Sample::default() };
        let batches = origin.batches(&sample, &identities, TimeNs::ZERO);
        let [(table, batch)] = &batches[..] else { panic!("{batches:?}") };
        assert_eq!(table.name, "network_stats");
        assert_eq!(text(batch, "service"), ["a", "", "a", ""]);
        assert_eq!(text(batch, "pod_id"), ["p", "p", "", ""]);
    }

    #[test]
    fn a_cgroup_is_named_by_its_path_or_else_by_all_in_it() {
        let rule = ServiceRule {
            service: "shop".to_owned(),
            cgroup: Some("/shop/*".to_owned()),
            ..ServiceRule::default()
        };
        let origin = Origin { node: "knot".to_owned(), rules: vec![rule] };
        let identities = [identity("a", ""), identity("b", "")].map(Some);
        let cgroup = |path: &str, members: &[usize]| CgroupSample {
            path: path.to_owned(),
            usage: super::super::cgroup_usage::CgroupUsage::default(),
            members: members.to_vec(),
        };
        let cgroups = vec![
            cgroup("/system.slice/web.service", &[0]),
            cgroup("/mine", &[1]),
            cgroup("/ours", &[0, 1]),
            cgroup("/shop/x", &[0]),
            cgroup("/", &[]),
        ];
        let sample = Sample { cgroups, ..Sample::default() };
        let batches = origin.batches(&sample, &identities, TimeNs::ZERO);
        let services = text(&batches[0].1, "service");
        assert_eq!(services, ["web", "b", "", "shop", ""]);
    }
}
