//! What the data path costs a byte: `cargo bench -p replay --bench datapath [-- FILTER]`, under a minute. Input
//! bytes a second of one core; docs/performance.md has the figures beside those of hypervisors.
//!
//! Pages are of the profile `dacapo`, 1,024 of them (4 MiB: beyond the caches closest to the core), unless
//! a name says otherwise. Never inside: a judgement, a socket.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use flate2::{Compress, Compression, FlushCompress};
use replay::Bitmap;
use replay::content::{PAGE_BYTES, PagePool, Recipe, STAMP_BYTES, Stamp, xbzrle};
use traces::content::{Codecs, is_zero, named};

/// Pages of one pass.
const PAGES: u32 = 1024;
/// Pages that multifd sends together.
const PACKET: usize = 128 * PAGE_BYTES;
const VM: u64 = 1;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    let profile = named("dacapo").expect("a built-in profile");
    let pool = PagePool::new(&Recipe::of(&profile).expect("it is met"), 1, PAGES);
    zero(&mut criterion);
    contents(&mut criterion, &pool);
    deltas(&mut criterion, &pool);
    codecs(&mut criterion, &pages(&pool, 77));
    walk(&mut criterion);
    criterion.final_summary();
}

/// Pages as they are on the wire, one behind the other.
fn pages(pool: &PagePool, version: u64) -> Vec<u8> {
    let mut all = vec![0; PAGES as usize * PAGE_BYTES];
    fill(pool, version, &mut all);
    all
}

fn fill(pool: &PagePool, version: u64, all: &mut [u8]) {
    for (page, bytes) in (0..).zip(all.chunks_exact_mut(PAGE_BYTES)) {
        let (stamp, body) = pool.page(VM, page, version);
        let (head, rest) = bytes.split_at_mut(STAMP_BYTES);
        head.copy_from_slice(&stamp.encode());
        rest.copy_from_slice(body);
    }
}

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    bytes: usize,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64));
    group
}

/// Is a page zero? Beside what the standard library and a scan by SIMD make of the same bytes.
fn zero(criterion: &mut Criterion) {
    let zeros = vec![0u8; PAGES as usize * PAGE_BYTES];
    let zero_page = [0u8; PAGE_BYTES];
    let mut group = group(criterion, "zero-check", zeros.len());
    let mut of = |name: &str, check: &dyn Fn(&[u8]) -> bool| {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let pages = black_box(&zeros).chunks_exact(PAGE_BYTES);
                pages.filter(|page| check(page)).count()
            });
        });
    };
    of("is_zero", &is_zero);
    of("iter-all", &|page| page.iter().all(|&byte| byte == 0));
    of("compared-with-a-zero-page", &|page| page == zero_page);
    of("memchr-of-a-one", &|page| memchr::memchr(1, page).is_none());
    group.finish();
}

fn contents(criterion: &mut Criterion, pool: &PagePool) {
    let mut wire = pages(pool, 77);
    let mut group = group(criterion, "content", wire.len());
    group.bench_function("copy", |bench| {
        let from = wire.clone();
        bench.iter(|| black_box(&mut wire).copy_from_slice(black_box(&from)));
    });
    group.bench_function("stamp-choose-copy", |bench| {
        bench.iter(|| fill(pool, black_box(77), &mut wire));
    });
    group.bench_function("stamp-choose", |bench| {
        bench.iter(|| {
            for page in 0..PAGES {
                let (stamp, body) = pool.page(VM, page, black_box(77));
                black_box((stamp.encode(), body));
            }
        });
    });
    group.bench_function("verify", |bench| {
        bench.iter(|| {
            for (page, bytes) in (0..).zip(wire.chunks_exact(PAGE_BYTES)) {
                black_box(pool.verify(bytes, VM, page)).expect("just written");
            }
        });
    });
    group.bench_function("crc32-of-bodies", |bench| {
        bench.iter(|| {
            let bodies = wire
                .chunks_exact(PAGE_BYTES)
                .map(|page| &page[STAMP_BYTES..]);
            bodies.fold(0, |sum, body| sum ^ crc32fast::hash(body))
        });
    });
    group.bench_function("stamps-read", |bench| {
        bench.iter(|| {
            let heads = wire
                .chunks_exact(PAGE_BYTES)
                .filter_map(|page| page.first_chunk());
            heads.filter_map(Stamp::decode).count()
        });
    });
    group.finish();
    // Bodies made from nothing: what the pool saves.
    let mut criterion = self::group(criterion, "content-made", 256 * PAGE_BYTES);
    let recipe = Recipe::of(&named("dacapo").expect("a built-in profile")).expect("it is met");
    criterion.sample_size(10);
    criterion.bench_function("pool-of-256", |bench| {
        bench.iter(|| PagePool::new(black_box(&recipe), 1, 256));
    });
    criterion.finish();
}

/// XBZRLE of rewrites, and of the two extremes.
fn deltas(criterion: &mut Criterion, pool: &PagePool) {
    let (before, now) = (pages(pool, 77), pages(pool, 78));
    let mut sparse = before.clone();
    let mut words = before.clone();
    let mut alternate = before.clone();
    for page in 0..PAGES as usize {
        let page = page * PAGE_BYTES;
        sparse[page + 1000] ^= 1;
        for word in words[page..][..PAGE_BYTES].chunks_exact_mut(512) {
            word[..64].iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        let bytes = alternate[page..][..PAGE_BYTES / 8].iter_mut().step_by(2);
        bytes.for_each(|byte| *byte ^= 0x55);
    }
    let mut group = group(criterion, "xbzrle", before.len());
    let mut out = Vec::new();
    let cases: [(&str, &[u8]); 5] = [
        ("encode-rewrites", &now),
        ("encode-unchanged", &before),
        ("encode-one-byte", &sparse),
        ("encode-64-bytes-in-512", &words),
        ("encode-every-other-of-512-bytes", &alternate),
    ];
    for (name, now) in cases {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let pairs = before
                    .chunks_exact(PAGE_BYTES)
                    .zip(now.chunks_exact(PAGE_BYTES));
                pairs.fold(0, |sum, (before, now)| {
                    sum + xbzrle::encode(before, now, &mut out).unwrap_or(PAGE_BYTES)
                })
            });
        });
    }
    let encoded: Vec<Vec<u8>> = before
        .chunks_exact(PAGE_BYTES)
        .zip(words.chunks_exact(PAGE_BYTES))
        .map(|(before, now)| {
            let mut out = Vec::new();
            xbzrle::encode(before, now, &mut out).expect("an eighth of the page");
            out
        })
        .collect();
    group.bench_function("decode-64-bytes-in-512", |bench| {
        let mut pages = before.clone();
        bench.iter(|| {
            for (page, encoding) in pages.chunks_exact_mut(PAGE_BYTES).zip(&encoded) {
                xbzrle::decode(encoding, page).expect("just encoded");
            }
        });
    });
    group.finish();
}

/// Codecs page by page as the profiles measure them, a packet of 128 pages as multifd sends it (one
/// stream, each page flushed into it), and the codec alone on the bytes of the packet.
fn codecs(criterion: &mut Criterion, all: &[u8]) {
    let mut group = group(criterion, "codec", all.len());
    let mut codecs = Codecs::default();
    let mut per_page = |name: &str, size: &mut dyn FnMut(&mut Codecs, &[u8]) -> usize| {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let pages = all.chunks_exact(PAGE_BYTES);
                pages.fold(0, |sum, page| sum + size(&mut codecs, page))
            });
        });
    };
    per_page("zstd-1-page", &mut |codecs, page| codecs.zstd_len(page));
    per_page("zlib-1-page", &mut |codecs, page| codecs.zlib_len(page));
    per_page("lz4-page", &mut |_, page| Codecs::lz4_len(page));
    let mut out = Vec::with_capacity(2 * PACKET);
    let mut zstd = zstd::stream::raw::Encoder::new(1).expect("level 1");
    group.bench_function("zstd-1-packet", |bench| {
        bench.iter(|| {
            packets(all, &mut out, &mut |packet, out| {
                zstd_packet(&mut zstd, packet, out);
            })
        });
    });
    let mut zlib = Compress::new(Compression::new(1), true);
    let mut room = vec![0; PACKET];
    group.bench_function("zlib-1-packet", |bench| {
        bench.iter(|| {
            packets(all, &mut out, &mut |packet, out| {
                zlib_packet(&mut zlib, packet, &mut room, out);
            })
        });
    });
    let mut alone = zstd::bulk::Compressor::new(1).expect("level 1");
    group.bench_function("zstd-1-alone", |bench| {
        bench.iter(|| {
            packets(all, &mut out, &mut |packet, out| {
                alone.compress_to_buffer(packet, out).expect("room enough");
            })
        });
    });
    group.bench_function("zlib-1-alone", |bench| {
        bench.iter(|| {
            packets(all, &mut out, &mut |packet, out| {
                zlib.reset();
                let done = zlib.compress_vec(packet, out, FlushCompress::Finish);
                done.expect("room enough");
            })
        });
    });
    group.bench_function("lz4-alone", |bench| {
        bench.iter(|| {
            packets(all, &mut out, &mut |packet, out| {
                out.extend(lz4_flex::block::compress(packet));
            })
        });
    });
    group.finish();
}

fn packets(all: &[u8], out: &mut Vec<u8>, pack: &mut dyn FnMut(&[u8], &mut Vec<u8>)) -> usize {
    all.chunks_exact(PACKET).fold(0, |sum, packet| {
        out.clear();
        pack(packet, out);
        sum + out.len()
    })
}

/// As in QEMU: every page is given to one stream, which is flushed at the end of the packet.
fn zstd_packet(zstd: &mut zstd::stream::raw::Encoder<'_>, packet: &[u8], out: &mut Vec<u8>) {
    use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
    let mut sink = OutBuffer::around(out);
    for page in packet.chunks_exact(PAGE_BYTES) {
        let mut input = InBuffer::around(page);
        while input.pos < page.len() {
            zstd.run(&mut input, &mut sink).expect("room enough");
        }
    }
    while zstd.flush(&mut sink).expect("room enough") > 0 {}
}

/// Into room that is not made anew for each page: `compress_vec` sets all of a vector's to zero.
fn zlib_packet(zlib: &mut Compress, packet: &[u8], room: &mut [u8], out: &mut Vec<u8>) {
    let last = packet.len() / PAGE_BYTES - 1;
    for (index, page) in packet.chunks_exact(PAGE_BYTES).enumerate() {
        let flush = if index == last {
            FlushCompress::Sync
        } else {
            FlushCompress::None
        };
        let before = zlib.total_out();
        zlib.compress(page, room, flush).expect("room enough");
        let made = usize::try_from(zlib.total_out() - before).expect("less than a packet");
        out.extend_from_slice(&room[..made]);
    }
}

/// Walks of a dirty bitmap of 1 GiB; bytes are those of the guest.
fn walk(criterion: &mut Criterion) {
    const GUEST: u32 = 1 << 18;
    let mut group = group(criterion, "bitmap-walk", GUEST as usize * PAGE_BYTES);
    for every in [1u32, 16, 1024] {
        let mut bitmap = Bitmap::new(GUEST);
        (0..GUEST).step_by(every as usize).for_each(|page| {
            bitmap.set(page);
        });
        group.bench_function(format!("every-{every}"), |bench| {
            bench.iter(|| {
                let mut next = black_box(&bitmap).next_set(0);
                let mut sum = 0u32;
                while let Some(page) = next {
                    sum ^= page;
                    next = bitmap.next_set(page + 1);
                }
                sum
            });
        });
    }
    group.finish();
}
