//! What Undine costs beside the least that programs on its hooks could cost.

use super::Window;
use crate::report::Report;

/// Notes what programs cost that do nothing and that only copy, and how Undine's compare. `unread` is
/// with its programs and ring, but without a reader, which the floor has not either.
pub(super) fn judge(
    report: &mut Report,
    unwatched: &Window,
    watched: &Window,
    unread: &Window,
    floor: &[Window],
) {
    let [empty, copy_only] = floor else { return };
    let request = |window: &Window| window.server_us - unwatched.server_us;
    let exchange = |window: &Window| window.exchange_ns - unwatched.exchange_ns;
    report.figure("request_cost_empty_us", request(empty));
    report.figure("request_cost_copy_only_us", request(copy_only));
    report.figure("request_cost_by_copy_only", request(watched) / request(copy_only));
    report.figure("request_cost_unread_by_copy_only", request(unread) / request(copy_only));
    report.figure("exchange_unwatched_ns", unwatched.exchange_ns);
    report.figure("exchange_cost_empty_ns", exchange(empty));
    report.figure("exchange_cost_copy_only_ns", exchange(copy_only));
    report.figure("exchange_cost_unread_ns", exchange(unread));
    report.figure("exchange_cost_unread_by_copy_only", exchange(unread) / exchange(copy_only));
    // The programs' own time for a request: what else the machine does only ever adds to it.
    report.figure("request_programs_by_copy_only", unread.programs_us / copy_only.programs_us);
}
