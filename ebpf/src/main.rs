//! Undine's kernel programs.
//!
//! They count and copy bytes of sockets that are in scope, and know no protocol. For the kernel
//! this is a `no_std` object without a `main`; on a host it is an empty program, so that the
//! workspace builds without any eBPF toolchain.
//!
//! ```text
//! sock_send_length, sock_recv_length ─┐                       ┌─► RING: Open, Data
//! or inet_sendmsg, inet_recvmsg … ────┤                       │
//! or sys_exit (descriptor → socket) ──┴─► scope ─► connection ┤
//!                                           │          │      └─► CONNECTIONS: exact totals
//! inet_sock_set_state: role, listening ports│──────────┘
//!                                           └─► UDP on a watched port ─► RING: Datagram
//! tcp_destroy_sock ─► RING: Close, or CLOSED where the ring is full
//! tls_…, go_tls_…, rustls_… ─► which connection carries it, RING: Tls, Data, Close
//! sched_process_{fork,exec,exit} ─► scope of children, RING: Fork, Exec, Exit
//! cpu_sample ─► scope ─► SAMPLES and STACKS, or STACK_COPIES
//! ```
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        unstable_features,
        reason = "every helper call and every look at kernel memory is unsafe; the kernel's \
                  verifier proves the accesses before a program may run"
    )
)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The kernel only lets programs under the GPL call the helpers that are used here.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
