//! What is counted of one thread: pages' contents, codecs, packets, the dirty log, the relay.
//!
//! Inputs are made from fixed seeds; a pass returns how many of what the row is counted by it had. Never inside: sockets, clocks.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use migbed::migration::codec::{self, Packer, Unpacker};
use migbed::migration::params::{Compression, MultifdParams};
use migbed::migration::wire::multifd::{
    PACKET_PAGES, Packet, decode_header, put_header, set_data_bytes,
};
use migbed::resident::Ram;
use netmodel::backend::{Core, Parcel};
use netmodel::link::{Distribution, Jitter, LinkSpec, Loss, PacketSize};
use netmodel::topology::{Cable, HostId, Topology};
use netmodel::units::BitRate;
use replay::content::{PAGE_BYTES, PagePool, Recipe, STAMP_BYTES, xbzrle};
use replay::{Behaviour, Bitmap, DirtyLog, GuestTime, MemoryModel, MemorySpec, Reprotect};
use traces::class::PageClass;
use traces::content::{ContentProfile, is_zero, named};

type Pass = Box<dyn FnMut() -> u64>;

/// Name, what it is counted by, and how it is made ready.
type Row = (&'static str, &'static str, fn() -> Pass);

pub(super) const ALL: &[Row] = &[
    ("zero check of a zero page", "page", zero_pages),
    ("zero check of a page with data", "page", data_pages),
    ("stamp and choose a body", "page", stamps),
    ("verify: stamp, CRC, body", "page", verify),
    ("XBZRLE encode, rewrites of dacapo", "page", || encode(78)),
    ("XBZRLE encode, unchanged", "page", || encode(77)),
    ("XBZRLE decode, rewrites of dacapo", "page", decode),
    ("packet built, none", "page", || build(Compression::None)),
    ("packet built, zlib 1", "page", || build(Compression::Zlib)),
    ("packet built, zstd 1", "page", || build(Compression::Zstd)),
    ("packet built, lz4", "page", || build(Compression::Lz4)),
    ("packet parsed, none", "page", || parse(Compression::None)),
    ("packet parsed, zlib", "page", || parse(Compression::Zlib)),
    ("packet parsed, zstd", "page", || parse(Compression::Zstd)),
    ("packet parsed, lz4", "page", || parse(Compression::Lz4)),
    ("dirty-log sync after 1 s, AtSync", "dirty page", || {
        sync(Reprotect::AtSync)
    }),
    ("dirty-log sync after 1 s, Lazy", "dirty page", || {
        sync(Reprotect::QEMU)
    }),
    ("resident: zero check of a zero page", "page", resident_zero),
    ("resident: a page received", "page", resident_receive),
    ("resident: a page read", "page", resident_read),
    ("relay core, 2 links of 1 Gbit/s and 1 ms", "packet", || {
        relay(plain_link())
    }),
    ("relay core, with jitter and losses", "packet", || {
        relay(rough_link())
    }),
];

const PAGES: u32 = 1024;
const VM: u64 = 1;

fn pool() -> PagePool {
    let profile = named("dacapo").expect("a built-in profile");
    PagePool::new(&Recipe::of(&profile).expect("it is met"), 1, 512)
}

/// Pages as they are on the wire, one behind the other.
fn pages(pool: &PagePool, version: u64, count: u32) -> Vec<u8> {
    let mut all = Vec::new();
    for page in 0..count {
        let (stamp, body) = pool.page(VM, page, version);
        all.extend_from_slice(&stamp.encode());
        all.extend_from_slice(body);
    }
    all
}

/// Each page of `all` given to `each`.
fn over(all: Vec<u8>, mut each: impl FnMut(&[u8]) -> bool + 'static) -> Pass {
    Box::new(move || {
        let mut count = 0;
        for page in black_box(&all).chunks_exact(PAGE_BYTES) {
            black_box(each(page));
            count += 1;
        }
        count
    })
}

fn zero_pages() -> Pass {
    over(vec![0; PAGES as usize * PAGE_BYTES], is_zero)
}

fn data_pages() -> Pass {
    over(pages(&pool(), 77, PAGES), is_zero)
}

fn stamps() -> Pass {
    let pool = pool();
    let mut version = 77;
    Box::new(move || {
        for page in 0..PAGES {
            let (stamp, body) = pool.page(VM, page, black_box(version));
            black_box((stamp.encode(), body));
        }
        version += 1;
        u64::from(PAGES)
    })
}

fn verify() -> Pass {
    let pool = pool();
    let all = pages(&pool, 77, PAGES);
    Box::new(move || {
        for (page, bytes) in (0..).zip(all.chunks_exact(PAGE_BYTES)) {
            black_box(pool.verify(bytes, VM, page)).expect("just made");
        }
        u64::from(PAGES)
    })
}

fn encode(version: u64) -> Pass {
    let pool = pool();
    let (before, now) = (pages(&pool, 77, PAGES), pages(&pool, version, PAGES));
    let mut out = Vec::with_capacity(2 * PAGE_BYTES);
    Box::new(move || {
        let pairs = before
            .chunks_exact(PAGE_BYTES)
            .zip(now.chunks_exact(PAGE_BYTES));
        for (before, now) in pairs {
            black_box(xbzrle::encode(black_box(before), now, &mut out));
        }
        u64::from(PAGES)
    })
}

/// Of the pages that have an encoding; others are sent whole.
fn decode() -> Pass {
    let pool = pool();
    let (before, now) = (pages(&pool, 77, PAGES), pages(&pool, 78, PAGES));
    let mut encoded = Vec::new();
    let pairs = before
        .chunks_exact(PAGE_BYTES)
        .zip(now.chunks_exact(PAGE_BYTES));
    for (before, now) in pairs {
        let mut out = Vec::new();
        if xbzrle::encode(before, now, &mut out).is_some() {
            encoded.push((before.to_vec(), out));
        }
    }
    Box::new(move || {
        for (page, encoding) in &mut encoded {
            xbzrle::decode(black_box(encoding), page).expect("just encoded");
        }
        encoded.len() as u64
    })
}

fn packer(compression: Compression) -> Option<Packer> {
    let params = MultifdParams {
        compression,
        ..MultifdParams::default()
    };
    Packer::new(&params).expect("there is room")
}

/// A packet of 128 pages: its header, and the pages stamped, chosen and packed.
fn put_packet(pool: &PagePool, packer: Option<&mut Packer>, flags: u32, out: &mut Vec<u8>) {
    let count = u32::try_from(PACKET_PAGES).expect("128");
    let packet = Packet {
        flags,
        normal: count,
        data_bytes: count * u32::try_from(PAGE_BYTES).expect("4096"),
        ..Packet::default()
    };
    out.clear();
    put_header(&packet, PACKET_PAGES, 0..count, out);
    let Some(packer) = packer else {
        // Bodies go to `writev` where they lie.
        for page in 0..count {
            let (stamp, body) = pool.page(VM, page, 77);
            out.extend_from_slice(&stamp.encode());
            black_box(body);
        }
        return;
    };
    let start = out.len();
    let mut copied = [0; PAGE_BYTES];
    for page in 0..count {
        let (stamp, body) = pool.page(VM, page, 77);
        copied[..STAMP_BYTES].copy_from_slice(&stamp.encode());
        copied[STAMP_BYTES..].copy_from_slice(body);
        let last = page + 1 == count;
        packer.page(&copied, last, out).expect("it packs");
    }
    let packed = u32::try_from(out.len() - start).expect("less than 1 MiB");
    set_data_bytes(packed, 0, out);
}

fn build(compression: Compression) -> Pass {
    let (pool, mut packer, mut out) = (pool(), packer(compression), Vec::new());
    Box::new(move || {
        put_packet(&pool, packer.as_mut(), codec::flag(compression), &mut out);
        black_box(&out);
        PACKET_PAGES as u64
    })
}

/// Packets of one stream, a pass each; pages are unpacked and not looked at.
fn parse(compression: Compression) -> Pass {
    let (pool, mut packer) = (pool(), packer(compression));
    let flags = codec::flag(compression);
    let mut packets = Vec::new();
    for _ in 0..3 {
        let mut out = Vec::new();
        put_packet(&pool, packer.as_mut(), flags, &mut out);
        packets.push(out);
    }
    let mut packets = packets.into_iter();
    let mut unpacker = Unpacker::new(compression).expect("there is room");
    let (mut numbers, mut page) = (Vec::with_capacity(PACKET_PAGES), [0; PAGE_BYTES]);
    Box::new(move || {
        let packet = packets.next().expect("no more passes than packets");
        let length = migbed::migration::wire::multifd::header_bytes(PACKET_PAGES);
        let (header, mut data) = packet.split_at(length);
        decode_header(header, PACKET_PAGES, flags, PAGES, 0, &mut numbers).expect("just built");
        if let Some(unpacker) = &mut unpacker {
            for _ in &numbers {
                unpacker.page(&mut data, &mut page).expect("just packed");
                black_box(&page);
            }
            unpacker.end(data).expect("just packed");
        }
        numbers.len() as u64
    })
}

/// A guest of 1 GiB: 32 MiB written once a second, 256 MiB twice a minute.
fn sync(policy: Reprotect) -> Pass {
    let spec = MemorySpec {
        ram_pages: 1 << 18,
        resident_pages: 1 << 17,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![
            PageClass::new(1 << 13, 1.0),
            PageClass::new(1 << 16, 1.0 / 30.0),
        ])],
        fresh: false,
        content: ContentProfile::RANDOM,
    };
    let model = MemoryModel::new(&spec, 1, VM).expect("it fits");
    let at = |second: u64| GuestTime {
        cpu_ns: second * 1_000_000_000,
        run_ns: second * 1_000_000_000,
    };
    let mut log = DirtyLog::start(spec.ram_pages, policy, at(100));
    let mut migration = Bitmap::full(spec.ram_pages);
    let mut second = 100;
    Box::new(move || {
        // Everything was sent, half a second after the last sync.
        let sent_at = GuestTime {
            cpu_ns: at(second).cpu_ns + 500_000_000,
            run_ns: at(second).run_ns + 500_000_000,
        };
        log.before_send(0, sent_at);
        migration.clear_all();
        second += 1;
        log.sync(&model, at(second), &mut migration)
    })
}

fn ram() -> Arc<Ram> {
    Arc::new(Ram::new(PAGES).expect("there is memory"))
}

fn each_page(mut each: impl FnMut(u32) + 'static) -> Pass {
    Box::new(move || {
        (0..PAGES).for_each(&mut each);
        u64::from(PAGES)
    })
}

fn resident_zero() -> Pass {
    let ram = ram();
    each_page(move |page| {
        black_box(ram.is_zero(black_box(page)));
    })
}

fn resident_receive() -> Pass {
    let (ram, all) = (ram(), pages(&pool(), 77, PAGES));
    each_page(move |page| ram.receive(page, &all[page as usize * PAGE_BYTES..][..PAGE_BYTES]))
}

fn resident_read() -> Pass {
    let (ram, mut into) = (ram(), [0; PAGE_BYTES]);
    each_page(move |page| {
        ram.read(page, &mut into);
        black_box(&into);
    })
}

fn plain_link() -> LinkSpec {
    LinkSpec {
        delay: Duration::from_millis(1),
        ..LinkSpec::with_rate(BitRate::from_bps(1_000_000_000).expect("a rate"))
    }
}

fn rough_link() -> LinkSpec {
    LinkSpec {
        jitter: Jitter {
            spread: Duration::from_micros(300),
            distribution: Distribution::Normal,
            reorder: true,
        },
        loss: Loss::Independent("1%".parse().expect("a probability")),
        ..plain_link()
    }
}

/// Super-frames of 21 segments, as a host sends them at 1 Gbit/s, one every 260 µs, over a link up and a link down.
fn relay(link: LinkSpec) -> Pass {
    const PACKETS: u64 = 2000;
    const SEGMENTS: u32 = 21;
    let hosts = ["a", "b"].map(|name| (name.to_owned(), Cable::symmetric(link)));
    let mut core = Core::new(&Topology::star(hosts).expect("it is one"), 1, 0);
    let parcel = Parcel {
        size: PacketSize {
            ip_bytes: 52 + SEGMENTS * 1448,
            segments: SEGMENTS,
            header_bytes: 52,
        },
        segment_payload: 1448,
        ecn_capable: false,
    };
    let mut now_ns = 0;
    Box::new(move || {
        for packet in 0..PACKETS {
            now_ns += 260_000;
            let way = (HostId(0), HostId(1));
            core.enter(now_ns, way, (packet, parcel), &mut |outcome| {
                black_box(outcome);
            });
        }
        PACKETS
    })
}
