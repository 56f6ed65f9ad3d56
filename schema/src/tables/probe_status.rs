//! The table `probe_status`.

crate::table! {
    /// Whether each kernel probe could be loaded and attached, and what it costs: a row at the start,
    /// and one for each second in which the cost was measured.
    PROBE_STATUS = "probe_status": Record, ProbeStatus, ProbeStatuses {
        /// When it was tried or measured.
        time_: Time [time],
        /// Undine's own process.
        upid: Process,
        /// The collector's source that wants the probe.
        source_connector: Text,
        /// The kernel's attach point.
        tracepoint: Text,
        /// 0 attached, 7 permission denied, 12 refused by the kernel, 10 not available.
        status: Int,
        /// Why it is not attached, and what to do.
        error: Text,
        /// Further facts as a JSON object: `program`, `standby`, and where they were measured
        /// `runs_per_second`, `run_ns` (mean nanoseconds of a run) and `cpu_ppm` (millionths of a CPU);
        /// `skipped_runs` where the kernel left the program out because the CPU was in it.
        info: Text,
    }
}
