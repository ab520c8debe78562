//! Probes: echo requests to a VM's address at a steady pace, and the gap a move leaves in the answers.
//!
//! The VM's kernel answers, as a guest's would; the instants are those at which the prober's kernel
//! received the answers. Which side of a move an answer was sent on shows in its time to live, which
//! a port's route sets (`netmodel::ports::HOP_LIMITS`). Never inside: which migration that was.

use crate::clock::{mono_ns, realtime_ns, sleep_until};
use crate::control::channel::{BlockingSender, ControlError};
use crate::control::message::{FromAgent, ProbeSeen};
use crate::ids::{MigrationId, ProbeId};
use netmodel::ports::HOP_LIMITS;
use nix::cmsg_space;
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn, setsockopt, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long after it was asked for an answer from the new side is waited for: the last of QEMU's
/// announcements comes after 0.8 s.
const PATIENCE_NS: u64 = 3_000_000_000;
/// How often whoever listens looks whether it is to end.
const LOOK_MS: i64 = 20;
const STACK: usize = 128 << 10;
/// ICMP echo request and reply.
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
/// `ping`'s 56 bytes of data: 84 with both headers.
const DATA: usize = 56;
const ICMP_HEADER: usize = 8;

/// The probes of a process.
#[derive(Debug)]
pub(super) struct Probes {
    out: Arc<BlockingSender>,
    open: BTreeMap<ProbeId, Arc<Probe>>,
}

#[derive(Debug)]
struct Probe {
    id: ProbeId,
    interval_ns: u64,
    stop: AtomicBool,
    socket: OwnedFd,
    seen: Mutex<Seen>,
}

/// What has been seen: the last answer, and the gap in which the side changed. Pure.
#[derive(Debug, Default)]
struct Seen {
    last: Option<Answer>,
    gap: Option<(Answer, Answer)>,
    /// Who wants to know of a gap, and until when.
    asked: Option<(MigrationId, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    at_ns: u64,
    number: u64,
    second_side: bool,
}

impl Seen {
    /// An answer came. One that was overtaken tells nothing any more.
    fn take(&mut self, answer: Answer) {
        if let Some(last) = self.last {
            if answer.number <= last.number {
                return;
            }
            if answer.second_side != last.second_side {
                self.gap = Some((last, answer));
            }
        }
        self.last = Some(answer);
    }

    /// Whom to tell what at `now_ns`.
    fn due(&mut self, now_ns: u64, interval_ns: u64) -> Option<(MigrationId, Option<ProbeSeen>)> {
        let (migration, until_ns) = self.asked?;
        let gap = self.gap.take();
        if gap.is_none() && now_ns < until_ns {
            return None;
        }
        self.asked = None;
        let seen = gap.map(|(before, after)| ProbeSeen {
            last_source_ns: before.at_ns,
            first_destination_ns: after.at_ns,
            lost: u32::try_from(after.number - before.number - 1).unwrap_or(u32::MAX),
            interval_ns,
        });
        Some((migration, seen))
    }
}

impl Probes {
    pub(super) fn new(out: Arc<BlockingSender>) -> Self {
        Self {
            out,
            open: BTreeMap::new(),
        }
    }

    /// Begins to ask.
    pub(super) fn open(&mut self, id: ProbeId, to: Ipv4Addr, interval_ns: u64) -> io::Result<()> {
        let probe = Arc::new(Probe {
            id,
            interval_ns,
            stop: AtomicBool::new(false),
            socket: echo_socket(to)?,
            seen: Mutex::default(),
        });
        let (asks, hears) = (Arc::clone(&probe), Arc::clone(&probe));
        let out = Arc::clone(&self.out);
        // Kept first: if the second thread cannot be had, closing ends the first.
        if let Some(before) = self.open.insert(id, probe) {
            before.stop.store(true, Ordering::Release);
        }
        let named = |name: &str| {
            let builder = std::thread::Builder::new().name(format!("{name}-{}", id.0));
            builder.stack_size(STACK)
        };
        let asking = named("probe").spawn(move || asks.ask());
        let hearing = asking.and_then(|_| named("echo").spawn(move || hears.hear(&out)));
        if let Err(error) = hearing {
            self.close(id);
            return Err(error);
        }
        Ok(())
    }

    /// The gap of a migration is wanted; its answer comes from the thread that listens.
    pub(super) fn read(&self, id: ProbeId, migration: MigrationId) -> Result<(), ControlError> {
        match self.open.get(&id) {
            Some(probe) => {
                probe.seen().asked = Some((migration, mono_ns() + PATIENCE_NS));
                Ok(())
            }
            None => self.out.send(&FromAgent::Probed {
                migration,
                probe: id,
                seen: None,
            }),
        }
    }

    /// Stops asking.
    pub(super) fn close(&mut self, id: ProbeId) {
        if let Some(probe) = self.open.remove(&id) {
            probe.stop.store(true, Ordering::Release);
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for probe in self.open.values() {
            probe.stop.store(true, Ordering::Release);
        }
    }
}

impl Probe {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Its number on the wire: probes of one place share what arrives there.
    fn wire_id(&self) -> [u8; 2] {
        let [_, _, a, b] = self.id.0.to_be_bytes();
        [a, b]
    }

    /// Asks at its pace; what cannot be sent is not answered either.
    fn ask(&self) {
        let mut due_ns = mono_ns();
        for number in 1u64.. {
            if self.stopped() {
                return;
            }
            let request = request(self.wire_id(), number);
            let _ = socket::send(self.socket.as_raw_fd(), &request, MsgFlags::MSG_DONTWAIT);
            due_ns += self.interval_ns;
            sleep_until(due_ns);
            // After a stall the pace goes on from here, not in a burst.
            due_ns = due_ns.max(mono_ns().saturating_sub(self.interval_ns));
        }
    }

    fn hear(&self, out: &BlockingSender) {
        let mut buffer = [0u8; 256];
        let mut space = cmsg_space!(TimeSpec);
        while !self.stopped() {
            if let Some((at_ns, length)) = self.receive(&mut buffer, &mut space)
                && let Some((number, ttl)) = reply(&buffer[..length], self.wire_id())
            {
                let second_side = ttl > HOP_LIMITS[0];
                self.seen().take(Answer {
                    at_ns,
                    number,
                    second_side,
                });
            }
            let due = self.seen().due(mono_ns(), self.interval_ns);
            if let Some((migration, seen)) = due {
                let probe = self.id;
                // Without a manager nobody is left to be told.
                let _ = out.send(&FromAgent::Probed {
                    migration,
                    probe,
                    seen,
                });
            }
        }
    }

    /// One packet and when the kernel received it, on the monotonic clock.
    fn receive(&self, buffer: &mut [u8], space: &mut [u8]) -> Option<(u64, usize)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let message =
            socket::recvmsg::<SockaddrIn>(fd, &mut parts, Some(space), MsgFlags::empty()).ok()?;
        let now = (mono_ns(), realtime_ns());
        let stamp = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
            _ => None,
        })?;
        let stamp_ns = u64::try_from(stamp.as_nanos()).ok()?;
        // The stamp is of the other clock: what has passed since is the same on both.
        let at_ns = now.0.saturating_sub(now.1.saturating_sub(stamp_ns));
        Some((at_ns, message.bytes))
    }
}

/// A socket for ICMP to and from one address, its arrivals stamped by the kernel.
fn echo_socket(to: Ipv4Addr) -> io::Result<OwnedFd> {
    let kind = (AddressFamily::Inet, SockType::Raw);
    let fd = socket::socket(
        kind.0,
        kind.1,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::Icmp),
    )?;
    setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(
        &fd,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(LOOK_MS),
    )?;
    let peer = SockaddrIn::from(SocketAddrV4::new(to, 0));
    socket::connect(fd.as_raw_fd(), &peer)?;
    Ok(fd)
}

/// An echo request; its number is in the data, since the header has 16 bits for it.
fn request([a, b]: [u8; 2], number: u64) -> [u8; ICMP_HEADER + DATA] {
    let mut packet = [0; ICMP_HEADER + DATA];
    packet[0] = REQUEST;
    packet[4..6].copy_from_slice(&[a, b]);
    let number = number.to_be_bytes();
    packet[6..8].copy_from_slice(&number[6..]);
    packet[8..16].copy_from_slice(&number);
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks_exact(2).map(|two| [two[0], two[1]]);
    let mut sum: u32 = words.map(|two| u32::from(u16::from_be_bytes(two))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Number and time to live of an answer to one of our requests.
fn reply(packet: &[u8], id: [u8; 2]) -> Option<(u64, u8)> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let ttl = *packet.get(8)?;
    let icmp = packet.get(header..)?;
    if *icmp.first()? != REPLY || icmp.get(4..6)? != id {
        return None;
    }
    let number = icmp.get(8..)?.first_chunk()?;
    Some((u64::from_be_bytes(*number), ttl))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(at_ns: u64, number: u64, second_side: bool) -> Answer {
        Answer {
            at_ns,
            number,
            second_side,
        }
    }

    #[test]
    fn a_move_shows_between_the_last_answer_of_one_side_and_the_first_of_the_other() {
        let mut seen = Seen::default();
        let migration = MigrationId(3);
        seen.asked = Some((migration, 1000));
        for (at_ns, number, side) in [(10, 1, false), (20, 2, false), (170, 9, true)] {
            assert_eq!(seen.due(at_ns, 10), None);
            seen.take(answer(at_ns, number, side));
        }
        // Late, from the old side: it was overtaken.
        seen.take(answer(171, 3, false));
        seen.take(answer(180, 10, true));
        let expected = ProbeSeen {
            last_source_ns: 20,
            first_destination_ns: 170,
            lost: 6,
            interval_ns: 10,
        };
        assert_eq!(seen.due(200, 10), Some((migration, Some(expected))));
        assert_eq!(seen.due(200, 10), None, "told once");
        // A move that nobody sees the other side of.
        seen.asked = Some((migration, 1000));
        assert_eq!(seen.due(999, 10), None);
        assert_eq!(seen.due(1000, 10), Some((migration, None)));
    }

    #[test]
    fn a_request_has_the_checksum_of_rfc_1071() {
        let packet = request([0x12, 0x34], 1);
        assert_eq!(checksum(&packet), 0, "a right checksum sums up to nothing");
        // 0x0800 + 0x1234 + 1 (header) + 1 (data) = 0x1a36.
        assert_eq!(packet[2..4], (!0x1a36_u16).to_be_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(packet: Vec<u8>, id: [u8; 2]) {
            let _ = reply(&packet, id);
        }

        #[test]
        fn an_answer_is_known_by_its_number(number: u64, id: [u8; 2], ttl: u8) {
            let mut packet = vec![0x45, 0, 0, 84, 0, 0, 0, 0, ttl, 1, 0, 0, 10, 96, 0, 1, 10, 64, 0, 1];
            let mut echo = request(id, number);
            echo[0] = REPLY;
            packet.extend(echo);
            prop_assert_eq!(reply(&packet, id), Some((number, ttl)));
        }
    }
}
