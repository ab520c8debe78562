//! Streams into a destination that runs its guest only once everything is there.
//!
//! Never inside: post-copy (`pulls`), what a stream must come to (`expect`).

use std::collections::BTreeMap;
use std::io::{Read, Write};

use migbed::clock::mono_ns;
use migbed::migration::channels::Channel;
use migbed::migration::destination::{DestinationOutcome, run_destination};
use migbed::migration::guest::GuestMemory;
use migbed::migration::ownership::DestinationSide;
use migbed::migration::params::{
    Compression, EngineKind, MigrationParams, MultifdParams, XbzrleParams, ZeroPageDetection,
};
use migbed::migration::wire::hello::{ChannelId, ChannelKind};
use migbed::migration::wire::{Decoder, Event};
use replay::VmState;

use crate::damage::mutated;
use crate::draw::Draw;
use crate::ends::{PATIENT_MS, destination_job, fed, of_engine, pair, recorded};
use crate::expect::{told, wrong};
use crate::guest::{memory, random};
use crate::packets::{self, Ended};
use crate::{HANG_NS, tries};

/// Header, Start and Config of Cloud Hypervisor's: what comes before the first chunk.
const CLOUD_OPENING: usize = 48 + 2 * 16;

/// Where records begin, the first and the end included.
pub(crate) fn boundaries(stream: &[u8]) -> Vec<usize> {
    let (mut decoder, mut at, mut all) = (Decoder::default(), 0, vec![0]);
    while let Ok(Some((taken, _))) = decoder.decode(&stream[at..]) {
        at += taken;
        all.push(at);
        if at == stream.len() {
            break;
        }
    }
    all
}

/// One connection that was recorded.
struct Stream {
    id: Option<ChannelId>,
    bytes: Vec<u8>,
    marks: Vec<usize>,
}

/// One way that pages travel, and a migration by it; the main stream first.
struct Way {
    name: &'static str,
    params: MigrationParams,
    memory: GuestMemory,
    streams: Vec<Stream>,
}

impl Way {
    fn new(name: &'static str, params: MigrationParams, memory: GuestMemory) -> Self {
        let compression = params.multifd.compression;
        let streams = recorded(&params, &memory).into_iter().map(|taped| {
            let marks = match taped.id {
                None => boundaries(&taped.there),
                Some(id) => packets::channel(&memory, id.kind, compression, &taped.there).marks,
            };
            assert_eq!(
                marks.last(),
                Some(&taped.there.len()),
                "{name}: what was recorded is read"
            );
            Stream {
                id: taped.id,
                bytes: taped.there,
                marks,
            }
        });
        let streams: Vec<_> = streams.collect();
        let way = Self {
            name,
            params,
            memory,
            streams,
        };
        let all: Vec<_> = way.streams.iter().map(|s| s.bytes.clone()).collect();
        assert!(way.told(&all).is_some_and(|told| told.certain), "{name}");
        way
    }

    fn ids(&self) -> impl Iterator<Item = ChannelId> + '_ {
        self.streams.iter().filter_map(|stream| stream.id)
    }

    /// What these bytes on its connections must come to.
    fn told(&self, bytes: &[Vec<u8>]) -> Option<crate::expect::Told> {
        let streams = self.params.streams();
        let read = |(id, bytes): (ChannelId, &Vec<u8>)| {
            packets::channel(&self.memory, id.kind, streams.compression, bytes)
        };
        let channels: Vec<_> = self.ids().zip(&bytes[1..]).map(read).collect();
        told(&self.memory, streams, &bytes[0], &channels)
    }

    /// Damage, and the connections that are left open.
    fn damaged(&self, draw: &mut Draw, others: &[Self]) -> (String, Vec<Vec<u8>>, Vec<usize>) {
        let mut bytes: Vec<_> = self.streams.iter().map(|s| s.bytes.clone()).collect();
        let count = bytes.len();
        let mut open = Vec::new();
        let of = if count == 1 { 0 } else { draw.below(count + 2) };
        if let Some(stream) = self.streams.get(of) {
            let foreign = &others[draw.below(others.len())].streams;
            let (name, damaged) = {
                let other = &foreign[of.min(foreign.len() - 1)].bytes;
                mutated(draw, &stream.bytes, &stream.marks, other)
            };
            bytes[of] = damaged;
            return (format!("{name} of {of}"), bytes, open);
        }
        let (a, b) = (1 + draw.below(count - 1), 1 + draw.below(count - 1));
        let name = match draw.below(8) {
            0..3 => {
                // A piece of one channel goes over another.
                let marks = &self.streams[a].marks;
                let (from, to) = (draw.below(marks.len()), draw.below(marks.len()));
                let (from, to) = (marks[from.min(to)], marks[from.max(to)]);
                let piece: Vec<u8> = bytes[a].drain(from..to).collect();
                let marks = &self.streams[b].marks;
                let at = marks[draw.below(marks.len())].min(bytes[b].len());
                bytes[b].splice(at..at, piece);
                "moved between channels"
            }
            3 => {
                bytes.swap(a, b);
                "channels changed places"
            }
            4 | 5 => {
                bytes[a].clear();
                "a channel says nothing"
            }
            6 => {
                let marks = &self.streams[a].marks;
                bytes[a].truncate(marks[draw.below(marks.len())]);
                "a channel ends early"
            }
            _ => {
                let at = draw.below(bytes[a].len() + 1);
                bytes[a].truncate(at);
                open.push(a);
                "a channel falls silent"
            }
        };
        (format!("{name}, {a} {b}"), bytes, open)
    }

    /// Feeds all connections at once; Cloud Hypervisor's main one goes on when its others are through.
    fn feed(&self, bytes: &[Vec<u8>], open: &[usize]) -> (DestinationOutcome, Option<VmState>) {
        let ((main, server), ids) = (pair(), self.ids());
        let pairs: Vec<_> = ids.map(|id| (id, pair())).collect();
        let mut channels = Vec::new();
        let mut clients = Vec::new();
        for (id, (client, socket)) in pairs {
            channels.push(Channel { id, socket });
            clients.push(client);
        }
        let in_turn = self.ids().any(|id| id.kind == ChannelKind::Data);
        let (mut job, guest) = destination_job(&self.params, &self.memory, server, channels);
        job.silence_limit_ms = match (open.is_empty(), in_turn) {
            (false, _) => job.silence_limit_ms,
            // A damaged opening may be half of one, and what feeds it waits for the answer.
            (true, true) => 2_000,
            (true, false) => PATIENT_MS,
        };
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                let opening = if in_turn { CLOUD_OPENING } else { 0 };
                let opening = opening.min(bytes[0].len());
                if opening > 0 {
                    let _ = (&main).write_all(&bytes[0][..opening]);
                    let _ = (&main).read_exact(&mut [0; 2 * 16]);
                }
                let feeders: Vec<_> = (1..)
                    .zip(&clients)
                    .map(|(of, client)| {
                        let closes = !open.contains(&of);
                        let bytes = &bytes[of];
                        scope.spawn(move || fed(client, bytes, closes))
                    })
                    .collect();
                if in_turn {
                    for feeder in feeders {
                        feeder.join().unwrap();
                    }
                }
                fed(&main, &bytes[0][opening..], !open.contains(&0));
            });
            let control = std::sync::Arc::clone(&job.control);
            let outcome = run_destination(job);
            assert_eq!(
                outcome.report.resumed_ns.is_some(),
                control.side() == DestinationSide::Committed
            );
            outcome
        });
        assert_eq!(guest.running(), outcome.error.is_none());
        let committed = guest.committed.lock().unwrap().take();
        (outcome, committed)
    }
}

/// `tries` damaged migrations by these ways, a fixed sequence for each `seed`.
fn none_is_taken_for_a_guest(ways: &[Way], tries: u64, salt: u64) {
    let (mut refused, mut committed, mut old) = (0, 0, 0);
    let mut taken = BTreeMap::<String, u64>::new();
    for seed in 0..tries {
        let mut draw = Draw(seed ^ salt);
        let way = &ways[draw.below(ways.len())];
        let (name, bytes, mut open) = way.damaged(&mut draw, ways);
        let what = format!("seed {seed}, {}: {name}", way.name);
        // Silence is waited for: now and then is enough.
        if seed % 50 == 7 {
            open.push(0);
        }
        let began_ns = mono_ns();
        let (outcome, state) = way.feed(&bytes, &open);
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let expected = way.told(&bytes);
        let Some(state) = state else {
            assert!(outcome.error.is_some(), "{what}");
            // Where somebody falls silent no thread is waited for long.
            let certain = open.is_empty();
            assert!(
                !(certain && expected.is_some_and(|told| told.certain)),
                "{what}: refused what it should take: {:?}",
                outcome.error
            );
            refused += 1;
            continue;
        };
        let told = expected.unwrap_or_else(|| panic!("{what}: took what is no guest"));
        assert_eq!(state, told.state, "{what}");
        let may = wrong(&way.memory, &told.pages, &state);
        let (least, most) = may.unwrap_or_else(|| panic!("{what}: a page is missing"));
        let verification = outcome.report.verification.expect("compared");
        let bad = verification.bad;
        assert!(
            (least..=most).contains(&bad),
            "{what}: {bad}, {least} to {most}"
        );
        committed += 1;
        let name = name.trim_end_matches(|c: char| " 0123456789,".contains(c));
        *taken.entry(name.to_owned()).or_default() += 1;
        old += u64::from(bad > 0);
    }
    println!(
        "{tries} streams into a destination: {refused} refused, {committed} taken whole, {old} of these found to be old and unverified"
    );
    println!("taken whole, by damage: {taken:?}");
}

#[test]
fn no_stream_brings_a_guest_that_is_none() {
    let memory = memory(5.0, random());
    let way = |name, engine| Way::new(name, of_engine(engine), memory.clone());
    let ways = [
        way("QEMU's", EngineKind::Qemu),
        way("Xen's", EngineKind::Xen),
        way("Cloud Hypervisor's", EngineKind::CloudHypervisor),
    ];
    none_is_taken_for_a_guest(&ways, tries(), 0);
}

/// Slow enough that pages are written again and again before it ends.
#[test]
fn no_deltas_bring_a_guest_that_is_none() {
    let oltp = traces::content::named("oltp").unwrap();
    let params = MigrationParams {
        xbzrle: XbzrleParams {
            enabled: true,
            cache_size: 1 << 20,
        },
        max_bandwidth: 1_000_000,
        downtime_limit: 20,
        ..of_engine(EngineKind::Qemu)
    };
    let way = Way::new("deltas", params, memory(8.0, oltp));
    let (mut decoder, mut at, mut deltas) = (Decoder::default(), 0, 0);
    while let Ok(Some((taken, event))) = decoder.decode(&way.streams[0].bytes[at..]) {
        at += taken;
        deltas += u64::from(matches!(event, Event::Delta { .. }));
    }
    assert!(deltas >= 3, "{deltas} deltas");
    println!(
        "a stream of {} bytes with {deltas} deltas",
        way.streams[0].bytes.len()
    );
    none_is_taken_for_a_guest(&[way], tries() / 10, 0xDE17A);
}

#[test]
fn no_channels_bring_a_guest_that_is_none() {
    let memory = memory(5.0, random());
    let multifd = |name, channels, compression, zero_page_detection| {
        let params = MigrationParams {
            multifd: MultifdParams {
                enabled: true,
                channels,
                compression,
                ..MultifdParams::default()
            },
            zero_page_detection,
            ..of_engine(EngineKind::Qemu)
        };
        Way::new(name, params, memory.clone())
    };
    let (own, old) = (ZeroPageDetection::Multifd, ZeroPageDetection::Legacy);
    let ways = [
        multifd("two channels", 2, Compression::None, own),
        multifd(
            "three channels, zeros in the main stream",
            3,
            Compression::None,
            old,
        ),
        multifd("two zlib channels", 2, Compression::Zlib, own),
        multifd("three zstd channels", 3, Compression::Zstd, own),
        multifd("four lz4 channels", 4, Compression::Lz4, own),
    ];
    none_is_taken_for_a_guest(&ways, tries() * 4 / 10, 0xC4A);
}

#[test]
fn no_connections_of_cloud_hypervisors_bring_a_guest_that_is_none() {
    let memory = memory(5.0, random());
    let way = |name, connections| {
        let params = MigrationParams {
            connections,
            ..of_engine(EngineKind::CloudHypervisor)
        };
        Way::new(name, params, memory.clone())
    };
    let ways = [way("two connections", 2), way("four connections", 4)];
    none_is_taken_for_a_guest(&ways, tries() * 2 / 10, 0xC10D);
}

/// What ends where it may is not damaged: so says the reader beside the destination.
#[test]
fn channels_are_read_beside_as_they_were_sent() {
    let memory = memory(5.0, random());
    let read = |kind, bytes: &[u8]| packets::channel(&memory, kind, Compression::None, bytes);
    assert_eq!(read(ChannelKind::Multifd, &[]).ended, Ended::Between);
    assert_eq!(read(ChannelKind::Data, &[4]).ended, Ended::Damaged);
}
