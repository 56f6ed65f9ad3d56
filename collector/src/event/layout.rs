//! How messages lie in memory: taken apart and checked, and put together.
//!
//! Nothing that comes from the ring or from a recording is believed: every length is checked
//! against the bytes that are there, and what does not fit is a [`DecodeError`], never a panic.

use undine_ebpf::{
    ConnInfo, ConnTotals, Direction, EGRESS, FLAG_TRUNCATED, Header, Kind, PAYLOAD_BYTES_MAX,
    ProcessInfo, TcpEvent, TcpEventKind, TcpStats, TlsInfo,
    trace::{TEXT_BYTES_MAX, TEXTS_MAX, TraceInfo},
};

use super::{Body, Event, Flow};

/// Bytes of a message's header.
const HEADER_BYTES: usize = size_of::<Header>();

/// Why bytes are not a message of this ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header or the body is cut.
    #[error("a message of {have} bytes is too short, {need} are needed")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the message needs.
        need: usize,
    },
    /// A kind that this version does not know.
    #[error("message kind {0} is unknown")]
    Kind(u8),
    /// A direction that does not exist.
    #[error("direction {0} is neither ingress nor egress")]
    Direction(u8),
    /// A message about a connection that names none.
    #[error("a message about a connection names none")]
    NoConnection,
    /// An event of TCP that does not exist.
    #[error("TCP event {0} is unknown")]
    TcpEvent(u8),
    /// More was captured than the message covers or may carry.
    #[error("a message that covers {len} bytes claims {captured} captured bytes")]
    Captured {
        /// What it covers.
        len: u32,
        /// What it claims.
        captured: u32,
    },
}

impl<'a> Event<'a> {
    /// Takes `bytes` apart. Bytes after the message are ignored, since the kernel may have
    /// reserved more than it needed.
    ///
    /// # Errors
    /// Where the bytes are not a message of this ABI.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor { rest: bytes, whole: bytes.len() };
        let header = cursor.header()?;
        let kind = Kind::from_raw(header.kind).ok_or(DecodeError::Kind(header.kind))?;
        if matches!(kind, Kind::Data | Kind::Open | Kind::Close | Kind::Tls) && header.conn == 0 {
            return Err(DecodeError::NoConnection);
        }
        let body = match kind {
            Kind::Data => {
                let (flow, payload) = cursor.data(&header)?;
                Body::Data { flow, payload }
            }
            Kind::Datagram => {
                let info = cursor.conn_info()?;
                let (flow, payload) = cursor.data(&header)?;
                Body::Datagram { flow, info, payload }
            }
            Kind::Open => Body::Open(cursor.conn_info()?),
            Kind::Close => Body::Close(cursor.conn_totals()?),
            Kind::Tls => Body::Tls(cursor.tls_info()?),
            Kind::Fork => Body::Fork(cursor.process_info()?),
            Kind::Exec => Body::Exec(cursor.process_info()?),
            Kind::Exit => Body::Exit(cursor.process_info()?),
            Kind::Tcp => {
                let event = cursor.tcp_event()?;
                let kind = TcpEventKind::from_raw(event.event);
                Body::Tcp(kind.ok_or(DecodeError::TcpEvent(event.event))?, event)
            }
            Kind::Trace => {
                let info = cursor.trace_info()?;
                Body::Trace { info, texts: cursor.trace_texts(&header, &info)? }
            }
        };
        Ok(Self { header, body })
    }

    /// Appends the message to `out`, byte for byte as the kernel writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_header(out, &self.header);
        match &self.body {
            Body::Data { payload, .. } => out.extend_from_slice(payload),
            Body::Datagram { info, payload, .. } => {
                put_conn_info(out, info);
                out.extend_from_slice(payload);
            }
            Body::Open(info) => put_conn_info(out, info),
            Body::Close(totals) => put_conn_totals(out, totals),
            Body::Tls(tls) => {
                put_conn_info(out, &tls.info);
                out.extend_from_slice(&tls.carrier.to_ne_bytes());
                out.extend_from_slice(&tls.probed_since_ns.to_ne_bytes());
            }
            Body::Fork(info) | Body::Exec(info) | Body::Exit(info) => put_process_info(out, info),
            Body::Tcp(_, event) => put_tcp_event(out, event),
            Body::Trace { info, texts } => {
                put_trace_info(out, info);
                out.extend_from_slice(texts);
            }
        }
    }
}

/// Leaves the last `bytes` of a data message's payload out: the message says that they were not captured.
pub(crate) fn leave_out_last(message: &mut Vec<u8>, bytes: usize) {
    let Ok(Event { mut header, body: Body::Data { flow, payload } }) = Event::decode(message)
    else {
        return;
    };
    if bytes == 0 {
        return;
    }
    let payload = payload[..payload.len().saturating_sub(bytes)].to_vec();
    header.captured = u32::try_from(payload.len()).unwrap_or(0);
    header.flags |= FLAG_TRUNCATED;
    message.clear();
    Event { header, body: Body::Data { flow, payload: &payload } }.encode(message);
}

struct Cursor<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk::<N>() {
            Some((chunk, rest)) => {
                self.rest = rest;
                *chunk
            }
            // `need` was asked before, so this is never reached with bytes missing.
            None => [0; N],
        }
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        if self.rest.len() < bytes {
            let need = self.whole - self.rest.len() + bytes;
            return Err(DecodeError::Short { have: self.whole, need });
        }
        Ok(())
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    #[inline]
    fn header(&mut self) -> Result<Header, DecodeError> {
        self.need(HEADER_BYTES)?;
        Ok(Header {
            kind: self.u8(),
            flags: self.u8(),
            direction: self.u8(),
            beginning: self.u8(),
            cpu: self.u16(),
            syscall: self.u16(),
            cpu_seq: self.u64(),
            time_mono_ns: self.u64(),
            conn: self.u64(),
            tgid: self.u32(),
            tid: self.u32(),
            pos: self.u64(),
            len: self.u32(),
            captured: self.u32(),
            process_start_ns: self.u64(),
        })
    }

    #[inline]
    fn data(&mut self, header: &Header) -> Result<(Flow, &'a [u8]), DecodeError> {
        let flow = match header.direction {
            0 => Flow::Ingress,
            EGRESS => Flow::Egress,
            other => return Err(DecodeError::Direction(other)),
        };
        let captured = header.captured as usize;
        if header.captured > header.len || captured > PAYLOAD_BYTES_MAX {
            return Err(DecodeError::Captured { len: header.len, captured: header.captured });
        }
        self.need(captured)?;
        Ok((flow, &self.rest[..captured]))
    }

    fn conn_info(&mut self) -> Result<ConnInfo, DecodeError> {
        self.need(size_of::<ConnInfo>())?;
        Ok(ConnInfo {
            inode: self.u64(),
            netns: self.u64(),
            cgroup: self.u64(),
            local_addr: self.take(),
            remote_addr: self.take(),
            local_port: self.u16(),
            remote_port: self.u16(),
            family: self.u16(),
            role: self.u8(),
            protocol: self.u8(),
        })
    }

    fn tls_info(&mut self) -> Result<TlsInfo, DecodeError> {
        self.need(size_of::<TlsInfo>())?;
        let info = self.conn_info()?;
        Ok(TlsInfo { info, carrier: self.u64(), probed_since_ns: self.u64() })
    }

    fn conn_totals(&mut self) -> Result<ConnTotals, DecodeError> {
        self.need(size_of::<ConnTotals>())?;
        Ok(ConnTotals { directions: [self.direction(), self.direction()] })
    }

    fn direction(&mut self) -> Direction {
        Direction {
            operations: self.u64(),
            bytes: self.u64(),
            captured_bytes: self.u64(),
            truncated_bytes: self.u64(),
            dropped_bytes: self.u64(),
            dropped_messages: self.u64(),
            bypassed_bytes: self.u64(),
        }
    }

    fn tcp_event(&mut self) -> Result<TcpEvent, DecodeError> {
        self.need(size_of::<TcpEvent>())?;
        Ok(TcpEvent {
            info: self.conn_info()?,
            event: self.u8(),
            state: self.u8(),
            last: self.u8(),
            reserved: self.u8(),
            reason: self.u32(),
            count: self.u64(),
            stats: TcpStats {
                bytes_sent: self.u64(),
                bytes_retransmitted: self.u64(),
                bytes_acked: self.u64(),
                bytes_received: self.u64(),
                retransmits: self.u32(),
                segments_out: self.u32(),
                segments_in: self.u32(),
                lost: self.u32(),
                delivered: self.u32(),
                out_of_order: self.u32(),
                unacked: self.u32(),
                cwnd: self.u32(),
                ssthresh: self.u32(),
                send_window: self.u32(),
                receive_window: self.u32(),
                unsent_bytes: self.u32(),
                srtt_us: self.u32(),
                rttvar_us: self.u32(),
                rtt_min_us: self.u32(),
                mss: self.u32(),
                reordering: self.u32(),
                drops: self.u32(),
                resets_sent: self.u32(),
                resets_received: self.u32(),
            },
        })
    }

    fn trace_info(&mut self) -> Result<TraceInfo, DecodeError> {
        self.need(size_of::<TraceInfo>())?;
        let mut info = TraceInfo {
            slot: self.u32(),
            generation: self.u32(),
            entered_ns: self.u64(),
            faults: self.u32(),
            texts: self.u32(),
            ..TraceInfo::default()
        };
        for value in &mut info.values {
            *value = self.u64();
        }
        Ok(info)
    }

    fn trace_texts(&mut self, header: &Header, info: &TraceInfo) -> Result<&'a [u8], DecodeError> {
        let texts = info.texts as usize;
        let captured = header.captured as usize;
        if texts > TEXTS_MAX || captured != texts * TEXT_BYTES_MAX {
            return Err(DecodeError::Captured { len: header.len, captured: header.captured });
        }
        self.need(captured)?;
        Ok(&self.rest[..captured])
    }

    fn process_info(&mut self) -> Result<ProcessInfo, DecodeError> {
        self.need(size_of::<ProcessInfo>())?;
        Ok(ProcessInfo {
            cgroup: self.u64(),
            parent_tgid: self.u32(),
            exit_code: i32::from_ne_bytes(self.take()),
            comm: self.take(),
        })
    }
}

fn put_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(&[header.kind, header.flags, header.direction, header.beginning]);
    out.extend_from_slice(&header.cpu.to_ne_bytes());
    out.extend_from_slice(&header.syscall.to_ne_bytes());
    out.extend_from_slice(&header.cpu_seq.to_ne_bytes());
    out.extend_from_slice(&header.time_mono_ns.to_ne_bytes());
    out.extend_from_slice(&header.conn.to_ne_bytes());
    out.extend_from_slice(&header.tgid.to_ne_bytes());
    out.extend_from_slice(&header.tid.to_ne_bytes());
    out.extend_from_slice(&header.pos.to_ne_bytes());
    out.extend_from_slice(&header.len.to_ne_bytes());
    out.extend_from_slice(&header.captured.to_ne_bytes());
    out.extend_from_slice(&header.process_start_ns.to_ne_bytes());
}

fn put_conn_info(out: &mut Vec<u8>, info: &ConnInfo) {
    out.extend_from_slice(&info.inode.to_ne_bytes());
    out.extend_from_slice(&info.netns.to_ne_bytes());
    out.extend_from_slice(&info.cgroup.to_ne_bytes());
    out.extend_from_slice(&info.local_addr);
    out.extend_from_slice(&info.remote_addr);
    out.extend_from_slice(&info.local_port.to_ne_bytes());
    out.extend_from_slice(&info.remote_port.to_ne_bytes());
    out.extend_from_slice(&info.family.to_ne_bytes());
    out.extend_from_slice(&[info.role, info.protocol]);
}

fn put_conn_totals(out: &mut Vec<u8>, totals: &ConnTotals) {
    for direction in &totals.directions {
        for value in [
            direction.operations,
            direction.bytes,
            direction.captured_bytes,
            direction.truncated_bytes,
            direction.dropped_bytes,
            direction.dropped_messages,
            direction.bypassed_bytes,
        ] {
            out.extend_from_slice(&value.to_ne_bytes());
        }
    }
}

fn put_tcp_event(out: &mut Vec<u8>, event: &TcpEvent) {
    put_conn_info(out, &event.info);
    out.extend_from_slice(&[event.event, event.state, event.last, event.reserved]);
    out.extend_from_slice(&event.reason.to_ne_bytes());
    out.extend_from_slice(&event.count.to_ne_bytes());
    let stats = &event.stats;
    for value in
        [stats.bytes_sent, stats.bytes_retransmitted, stats.bytes_acked, stats.bytes_received]
    {
        out.extend_from_slice(&value.to_ne_bytes());
    }
    for value in [
        stats.retransmits,
        stats.segments_out,
        stats.segments_in,
        stats.lost,
        stats.delivered,
        stats.out_of_order,
        stats.unacked,
        stats.cwnd,
        stats.ssthresh,
        stats.send_window,
        stats.receive_window,
        stats.unsent_bytes,
        stats.srtt_us,
        stats.rttvar_us,
        stats.rtt_min_us,
        stats.mss,
        stats.reordering,
        stats.drops,
        stats.resets_sent,
        stats.resets_received,
    ] {
        out.extend_from_slice(&value.to_ne_bytes());
    }
}

fn put_trace_info(out: &mut Vec<u8>, info: &TraceInfo) {
    out.extend_from_slice(&info.slot.to_ne_bytes());
    out.extend_from_slice(&info.generation.to_ne_bytes());
    out.extend_from_slice(&info.entered_ns.to_ne_bytes());
    out.extend_from_slice(&info.faults.to_ne_bytes());
    out.extend_from_slice(&info.texts.to_ne_bytes());
    for value in &info.values {
        out.extend_from_slice(&value.to_ne_bytes());
    }
}

fn put_process_info(out: &mut Vec<u8>, info: &ProcessInfo) {
    out.extend_from_slice(&info.cgroup.to_ne_bytes());
    out.extend_from_slice(&info.parent_tgid.to_ne_bytes());
    out.extend_from_slice(&info.exit_code.to_ne_bytes());
    out.extend_from_slice(&info.comm);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(payload: &[u8], len: u32) -> Vec<u8> {
        let header = Header {
            kind: Kind::Data as u8,
            direction: EGRESS,
            conn: 7,
            len,
            captured: u32::try_from(payload.len()).unwrap(),
            ..Header::default()
        };
        let mut bytes = Vec::new();
        Event { header, body: Body::Data { flow: Flow::Egress, payload } }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_encoded_is_what_is_decoded() {
        let info = ConnInfo { inode: 3, local_port: 80, role: 2, family: 2, ..ConnInfo::default() };
        let mut totals = ConnTotals::default();
        totals.directions[1] = Direction { bytes: 9, dropped_messages: 2, ..Direction::default() };
        let process = ProcessInfo { parent_tgid: 1, exit_code: -5, ..ProcessInfo::default() };
        let stats = TcpStats { bytes_acked: 1 << 40, resets_received: 9, ..TcpStats::default() };
        let tcp = TcpEvent { info, event: 3, reason: 45, count: 6, stats, ..TcpEvent::default() };
        for (kind, body) in [
            (Kind::Open, Body::Open(info)),
            (Kind::Close, Body::Close(totals)),
            (Kind::Fork, Body::Fork(process)),
            (Kind::Exec, Body::Exec(process)),
            (Kind::Exit, Body::Exit(process)),
            (Kind::Tcp, Body::Tcp(TcpEventKind::Drop, tcp)),
            (Kind::Tls, Body::Tls(TlsInfo { info, carrier: 5, probed_since_ns: 6 })),
            (Kind::Data, Body::Data { flow: Flow::Ingress, payload: b"abc" }),
            (Kind::Datagram, Body::Datagram { flow: Flow::Ingress, info, payload: b"abc" }),
        ] {
            let header =
                Header { kind: kind as u8, conn: 1, len: 4, captured: 3, ..Header::default() };
            let event = Event { header, body };
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            assert_eq!(Event::decode(&bytes), Ok(event));
            for cut in 0..bytes.len() {
                assert!(
                    matches!(Event::decode(&bytes[..cut]), Err(DecodeError::Short { .. })),
                    "{kind:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_call_is_decoded_with_the_texts_that_it_has() {
        let texts = vec![b'x'; 2 * TEXT_BYTES_MAX];
        let captured = u32::try_from(texts.len()).unwrap();
        let header =
            Header { kind: Kind::Trace as u8, len: captured, captured, ..Header::default() };
        let mut info = TraceInfo { slot: 3, texts: 2, faults: 1, ..TraceInfo::default() };
        info.values[15] = u64::MAX;
        let event = Event { header, body: Body::Trace { info, texts: &texts } };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(Event::decode(&bytes), Ok(event));
        for cut in 0..bytes.len() {
            assert!(Event::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let more = TraceInfo { texts: 3, ..info };
        let mut bytes = Vec::new();
        Event { header, body: Body::Trace { info: more, texts: &texts } }.encode(&mut bytes);
        assert!(matches!(Event::decode(&bytes), Err(DecodeError::Captured { .. })));
    }

    #[test]
    fn a_message_that_claims_more_than_it_may_is_refused() {
        assert_eq!(
            Event::decode(&data(b"abcd", 3)),
            Err(DecodeError::Captured { len: 3, captured: 4 })
        );
        let large = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(
            Event::decode(&data(&large, u32::MAX)),
            Err(DecodeError::Captured { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..14) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let _outcome = Event::decode(&bytes);
        }
    }
}
