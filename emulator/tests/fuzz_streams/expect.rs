//! What a destination that reads these streams must come to, told by decoders beside it.
//!
//! Channels are read by threads of their own, so a page may have come to hold one of several things: all
//! that the order of their bytes allows. Never inside: sockets.

use std::collections::{BTreeMap, BTreeSet};

use migbed::migration::guest::GuestMemory;
use migbed::migration::wire::{Decoder, Event, Format, Header, PAGE_BYTES, Streams};
use replay::VmState;
use replay::content::xbzrle;

use crate::packets::{Channel, Ended};

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holds {
    /// It never came, or came as no page of this guest.
    Nothing,
    Zero,
    Version(u64),
}

impl Holds {
    pub(crate) fn of(memory: &GuestMemory, page: u32, bytes: &[u8]) -> Self {
        if bytes.iter().all(|&byte| byte == 0) {
            return Self::Zero;
        }
        memory
            .verify(bytes, page)
            .map_or(Self::Nothing, Self::Version)
    }

    /// Whether that is what the guest's time says.
    pub(crate) fn is_right(self, memory: &GuestMemory, page: u32, state: &VmState) -> bool {
        let version = memory.version_at(page, state.guest_time());
        let zero = memory.is_zero(page, version);
        match self {
            Self::Nothing => false,
            Self::Zero => zero,
            Self::Version(held) => !zero && memory.content_version(page, version) == held,
        }
    }
}

/// By page: what it may hold.
pub(crate) type Possible = Vec<BTreeSet<Holds>>;

/// How many of the pages are wrong, at least and at most, if the guest runs; `None`: it must not.
pub(crate) fn wrong(memory: &GuestMemory, pages: &Possible, state: &VmState) -> Option<(u64, u64)> {
    let (mut least, mut most) = (0, 0);
    for (page, may) in (0..).zip(pages) {
        let right = |held: &&Holds| held.is_right(memory, page, state);
        let some = may.iter().filter(|held| **held != Holds::Nothing).count();
        if some == 0 {
            return None;
        }
        let rights = may.iter().filter(right).count();
        least += u64::from(rights == 0);
        most += u64::from(rights < some);
    }
    Some((least, most))
}

/// What streams lead to that may be taken.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) pages: Possible,
    pub(crate) state: VmState,
    /// It must be taken.
    pub(crate) certain: bool,
}

/// Whether a header is of this migration.
pub(crate) fn is_own(memory: &GuestMemory, streams: Streams, header: &Header) -> bool {
    header.migration == 1
        && header.vm_key == memory.vm_key()
        && header.memory_check == memory.check()
        && header.ram_pages == memory.pages()
        && header.streams == streams
}

/// A main stream that comes to its end.
struct Main {
    /// What it says of pages, by the meetings before it.
    said: Vec<BTreeMap<u32, Holds>>,
    state: VmState,
    format: Format,
    ends_there: bool,
}

/// The bytes that a page holds, for deltas against it.
fn bytes_of(memory: &GuestMemory, page: u32, held: Holds) -> Option<[u8; PAGE_BYTES]> {
    let mut bytes = [0; PAGE_BYTES];
    match held {
        Holds::Nothing => return None,
        Holds::Zero => {}
        Holds::Version(version) => {
            let (stamp, body) = memory.page(page, version);
            let stamp = stamp.encode();
            bytes[..stamp.len()].copy_from_slice(&stamp);
            bytes[stamp.len()..].copy_from_slice(body);
        }
    }
    Some(bytes)
}

fn main_stream(memory: &GuestMemory, streams: Streams, stream: &[u8]) -> Option<Main> {
    let (mut decoder, mut at) = (Decoder::default(), 0);
    let (mut said, mut held) = (vec![BTreeMap::new()], BTreeMap::new());
    let (mut state, mut format) = (None, Format::Qemu);
    loop {
        let (taken, event) = decoder.decode(&stream[at..]).ok()??;
        at += taken;
        let now = match event {
            Event::Header(header) if !is_own(memory, streams, &header) => return None,
            Event::Header(header) => {
                format = header.format;
                continue;
            }
            Event::RamList | Event::MultifdFlush if streams.multifd > 0 => {
                said.push(BTreeMap::new());
                continue;
            }
            Event::Page { page, bytes } => (page, Holds::of(memory, page, bytes)),
            Event::ZeroPage { page } => (page, Holds::Zero),
            Event::Delta { page, encoding } => {
                let before = held.get(&page).copied().unwrap_or(Holds::Nothing);
                match bytes_of(memory, page, before) {
                    None => (page, Holds::Nothing),
                    Some(mut bytes) => {
                        xbzrle::decode(encoding, &mut bytes).ok()?;
                        (page, Holds::of(memory, page, &bytes))
                    }
                }
            }
            Event::State(bytes) => {
                state = Some(postcard::from_bytes::<VmState>(bytes).ok()?);
                continue;
            }
            Event::End => {
                return Some(Main {
                    said,
                    state: state?,
                    format,
                    ends_there: at == stream.len(),
                });
            }
            _ => continue,
        };
        held.insert(now.0, now.1);
        said.last_mut()?.insert(now.0, now.1);
    }
}

/// What these streams may lead to; `None`: nothing that may be taken.
///
/// QEMU's channels meet at each RAM list and MULTIFD_FLUSH: what is said between two meetings, on whatever
/// connection, comes in any order. Cloud Hypervisor's connections do not meet; here all that they bring is there before
/// the main stream goes on.
pub(crate) fn told(
    memory: &GuestMemory,
    streams: Streams,
    main: &[u8],
    channels: &[Channel],
) -> Option<Told> {
    let main = main_stream(memory, streams, main)?;
    let first = match main.format {
        Format::CloudHypervisor => Holds::Zero,
        Format::Qemu | Format::Xen => Holds::Nothing,
    };
    let mut pages: Possible = vec![BTreeSet::from([first]); memory.pages() as usize];
    let meetings = main.said.len() - 1;
    let mut certain = main.ends_there;
    for (epoch, said) in main.said.iter().enumerate() {
        let past = epoch < meetings || streams.multifd == 0;
        let mut now: BTreeMap<u32, BTreeSet<Holds>> = BTreeMap::new();
        for (&page, &held) in said {
            now.entry(page).or_default().insert(held);
        }
        for channel in channels {
            let here = channel.said.get(epoch).map_or(&[][..], Vec::as_slice);
            let ends_here = channel.said.len() == epoch + 1;
            if past && ends_here && (streams.multifd > 0 || channel.ended == Ended::Damaged) {
                return None; // it never comes to the next meeting, or its failure is known in time
            }
            if past {
                // The last of each page that this channel brings.
                let last: BTreeMap<u32, Holds> = here.iter().copied().collect();
                for (page, held) in last {
                    now.entry(page).or_default().insert(held);
                }
            } else {
                // Whatever of it is read before the end of the main stream is.
                certain &= here.is_empty() && ends_here && channel.ended == Ended::Between;
                for &(page, held) in here {
                    let before = pages[page as usize].clone();
                    let may = now.entry(page).or_insert(before);
                    may.insert(held);
                }
            }
        }
        for (page, may) in now {
            pages[page as usize] = may;
        }
    }
    let state = main.state;
    certain &= pages.iter().all(|may| !may.contains(&Holds::Nothing));
    let may = pages
        .iter()
        .all(|may| *may != BTreeSet::from([Holds::Nothing]));
    may.then_some(Told {
        pages,
        state,
        certain,
    })
}
