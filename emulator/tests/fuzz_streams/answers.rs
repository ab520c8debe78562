//! Damaged answers into a source that keeps its guest until the destination's word.
//!
//! Never inside: post-copy (`requests`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use migbed::clock::mono_ns;
use migbed::migration::channels::Channel;
use migbed::migration::params::{Compression, EngineKind, MigrationParams, MultifdParams};
use migbed::migration::source::{NoObserver, SourceEnd, run_source};
use migbed::migration::wire::cloud_hypervisor::encode_answer;
use migbed::migration::wire::hello::ChannelKind;
use migbed::migration::wire::{Decoder, Event, Format, encode_shut};

use crate::draw::Draw;
use crate::ends::{of_engine, pair, recorded, source_job};
use crate::guest::{memory, random};
use crate::packets;
use crate::{HANG_NS, tries};

/// The words of a destination that has said yes to all of this.
fn words_wanted(stream: &[u8]) -> Vec<u8> {
    let (mut decoder, mut at, mut answers) = (Decoder::default(), 0, 0);
    let mut shut = true;
    while let Ok(Some((taken, event))) = decoder.decode(&stream[at..]) {
        at += taken;
        match event {
            Event::AnswerWanted => answers += 1,
            Event::Header(header) => shut = header.format != Format::CloudHypervisor,
            Event::End => break,
            _ => {}
        }
    }
    let yes = encode_answer(true);
    let mut words: Vec<u8> = yes.repeat(answers);
    if shut {
        words.extend(encode_shut(0));
    } else {
        words.extend(yes);
    }
    words
}

/// What a peer says instead of what it should.
pub(crate) fn misspoken(draw: &mut Draw, right: &[u8]) -> Vec<u8> {
    let mut says = right.to_vec();
    if says.is_empty() {
        let count = 1 + draw.below(64);
        return draw.bytes(count);
    }
    match draw.below(6) {
        0 => {
            let count = draw.below(64);
            says = draw.bytes(count);
        }
        1 => says.truncate(draw.below(says.len())),
        2 => says = encode_shut(u32::try_from(draw.below(5)).unwrap()).to_vec(),
        3 => {
            let at = draw.below(says.len());
            says.drain(at..(at + 1 + draw.below(8)).min(says.len()));
        }
        _ => {
            let at = draw.below(says.len());
            says[at] ^= 1 << draw.below(8);
        }
    }
    says
}

/// Says it, reads what comes until nothing does, and closes or holds the connection.
pub(crate) fn answered(server: &TcpStream, says: &[u8], quiet_ms: u64, closes: bool) -> Vec<u8> {
    let mut socket = server;
    // All is read, so that the source never waits for room.
    let _ = socket.write_all(says);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(quiet_ms)));
    let (mut stream, mut piece) = (Vec::new(), vec![0; 65_536]);
    while let Ok(bytes @ 1..) = socket.read(&mut piece) {
        stream.extend_from_slice(&piece[..bytes]);
    }
    if closes {
        let _ = server.shutdown(Shutdown::Both);
    }
    stream
}

/// `tries` migrations by these parameters whose destination misspeaks.
fn nobody_is_talked_into_anything(ways: &[MigrationParams], tries: u64, salt: u64) {
    let memory = memory(5.0, random());
    let right: Vec<_> = ways.iter().map(|way| recorded(way, &memory)).collect();
    let (mut completed, mut failed, mut undecided) = (0, 0, 0);
    for seed in 0..tries {
        let mut draw = Draw(seed ^ salt);
        let of = draw.below(ways.len());
        let mut says: Vec<_> = right[of].iter().map(|taped| taped.back.clone()).collect();
        // Of two passes rather than one as many answers more, so that whole ones suffice.
        for (says, taped) in says.iter_mut().zip(&right[of]).skip(1) {
            if taped.id.is_some_and(|id| id.kind == ChannelKind::Data) {
                says.extend(encode_answer(true).repeat(4));
            }
        }
        let at = draw.below(says.len());
        says[at] = misspoken(&mut draw, &says[at]);
        let what = format!("seed {seed}, {:?} {at}: {:02x?}", ways[of].engine, says[at]);
        let params = MigrationParams {
            max_bandwidth: 0,
            ..ways[of].clone()
        };
        let ((client, server), mut servers, mut channels) = (pair(), Vec::new(), Vec::new());
        servers.push(server);
        for id in ways[of].channels() {
            let (socket, server) = pair();
            channels.push(Channel { id, socket });
            servers.push(server);
        }
        let ids = ways[of].channels();
        let (mut job, guest) = source_job(&params, &memory, client, channels);
        job.deadline_ns = Some(mono_ns() + 700_000_000);
        let closes = draw.below(4) > 0;
        let began_ns = mono_ns();
        let (sent, streams) = std::thread::scope(|scope| {
            let reading = |(server, says): (TcpStream, Vec<u8>)| {
                scope.spawn(move || answered(&server, &says, 120, closes))
            };
            let pairs = servers.into_iter().zip(says.clone());
            let reading: Vec<_> = pairs.map(reading).collect();
            let sent = run_source(&job, &NoObserver);
            drop(job);
            let streams: Vec<_> = reading.into_iter().map(|one| one.join().unwrap()).collect();
            (sent, streams)
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let running = guest.running();
        match sent.end {
            SourceEnd::Completed => {
                let yes = words_wanted(&streams[0]);
                assert!(
                    says[0].starts_with(&yes),
                    "{what}: not the destination's word"
                );
                for ((id, stream), says) in ids.iter().zip(&streams[1..]).zip(&says[1..]) {
                    let compression = params.streams().compression;
                    let sent = packets::channel(&memory, id.kind, compression, stream);
                    let yes = encode_answer(true).repeat(sent.chunks);
                    assert!(says.starts_with(&yes), "{what}: {id} was not acknowledged");
                }
                assert!(!running, "{what}");
                completed += 1;
            }
            SourceEnd::Undecided => {
                assert!(!running, "{what}: runs what it may have given away");
                undecided += 1;
            }
            SourceEnd::Failed | SourceEnd::Cancelled | SourceEnd::Crashed => {
                assert!(running, "{what}: {:?}", sent.report.error);
                failed += 1;
            }
        }
    }
    println!(
        "{tries} return paths: {failed} failures, {undecided} in doubt, {completed} the right word"
    );
}

#[test]
fn no_return_path_talks_a_source_into_anything() {
    let ways = [
        EngineKind::Qemu,
        EngineKind::Xen,
        EngineKind::CloudHypervisor,
    ]
    .map(of_engine);
    nobody_is_talked_into_anything(&ways, tries() / 4, 0x5EED);
}

#[test]
fn no_answer_on_any_channel_talks_a_source_into_anything() {
    let multifd = MigrationParams {
        multifd: MultifdParams {
            enabled: true,
            channels: 2,
            compression: Compression::Lz4,
            ..MultifdParams::default()
        },
        ..of_engine(EngineKind::Qemu)
    };
    let connections = MigrationParams {
        connections: 3,
        ..of_engine(EngineKind::CloudHypervisor)
    };
    nobody_is_talked_into_anything(&[multifd, connections], tries() / 20, 0xA45);
}
