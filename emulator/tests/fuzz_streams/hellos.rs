//! What opens channels: damaged hellos, strangers, and callers that say nothing.
//!
//! Never inside: what channels carry.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use migbed::clock::mono_ns;
use migbed::migration::channels::accept_all;
use migbed::migration::destination::run_destination;
use migbed::migration::params::{Compression, EngineKind, MigrationParams, MultifdParams};
use migbed::migration::wire::hello::{HELLO_BYTES, Hello};

use crate::draw::Draw;
use crate::ends::{PATIENT_MS, destination_job, fed, of_engine, recorded};
use crate::guest::{VM, memory, random};
use crate::{HANG_NS, tries};

/// What is done to the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    Bit,
    Cut,
    Twice,
    Swapped,
    Strangers,
}

const TRICKS: [Trick; 5] = [
    Trick::Bit,
    Trick::Cut,
    Trick::Twice,
    Trick::Swapped,
    Trick::Strangers,
];

#[test]
fn only_the_channels_that_were_agreed_are_taken() {
    let memory = memory(5.0, random());
    let params = MigrationParams {
        multifd: MultifdParams {
            enabled: true,
            channels: 3,
            compression: Compression::Lz4,
            ..MultifdParams::default()
        },
        ..of_engine(EngineKind::Qemu)
    };
    let taped = recorded(&params, &memory);
    let ids = params.channels();
    let (mut missing, mut refused, mut taken) = (0, 0, 0);
    for seed in 0..tries() / 20 {
        let mut draw = Draw(seed ^ 0x4E110);
        let trick = TRICKS[draw.below(TRICKS.len())];
        let what = format!("seed {seed}, {trick:?}");
        let hello = |channel| {
            let (migration, vm_key) = (1, VM);
            Hello {
                migration,
                vm_key,
                channel,
            }
            .encode()
            .to_vec()
        };
        // Every caller, in the order of the calls: what it says first, and then.
        let mut callers: Vec<(Vec<u8>, &[u8])> = vec![(Vec::new(), &taped[0].there)];
        for (id, tape) in ids.iter().zip(&taped[1..]) {
            callers.push((hello(*id), &tape.there));
        }
        let at = 1 + draw.below(3);
        match trick {
            Trick::Bit => {
                let byte = draw.below(HELLO_BYTES);
                callers[at].0[byte] ^= 1 << draw.below(8);
            }
            Trick::Cut => {
                callers[at].0.truncate(draw.below(HELLO_BYTES));
                callers[at].1 = &[];
            }
            Trick::Twice => callers.push((callers[at].0.clone(), &[])),
            Trick::Swapped => {
                let other = 1 + draw.below(3);
                let first = std::mem::take(&mut callers[at].0);
                let second = std::mem::replace(&mut callers[other].0, first.clone());
                callers[at].0 = if other == at { first } else { second };
            }
            Trick::Strangers => {
                for _ in 0..3 {
                    let count = 4 + draw.below(100);
                    callers.push((draw.bytes(count), &[]));
                }
            }
        }
        for from in (1..callers.len()).rev() {
            callers.swap(from, draw.below(from + 1));
        }
        let began_ns = mono_ns();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets: Vec<_> = callers
            .iter()
            .map(|(first, _)| {
                let mut socket = TcpStream::connect(address).unwrap();
                // One that was turned away already has closed.
                let _ = socket.write_all(first);
                if first.len() < HELLO_BYTES && !first.is_empty() {
                    let _ = socket.shutdown(Shutdown::Write);
                }
                socket
            })
            .collect();
        let outcome = std::thread::scope(|scope| {
            for (socket, (_, then)) in sockets.iter().zip(&callers) {
                scope.spawn(move || fed(socket, then, !then.is_empty()));
            }
            // Whoever waits for these gives up when all are gone.
            let limit = Duration::from_millis(60);
            let accepted = accept_all(&listener, 1, VM, &ids, limit, || false);
            drop(listener);
            let Ok(connections) = accepted else {
                for socket in &sockets {
                    let _ = socket.shutdown(Shutdown::Both);
                }
                return None;
            };
            let (main, channels) = (connections.main, connections.channels);
            let (mut job, guest) = destination_job(&params, &memory, main, channels);
            if trick != Trick::Twice {
                job.silence_limit_ms = PATIENT_MS;
            }
            let outcome = run_destination(job);
            for socket in &sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
            assert_eq!(guest.running(), outcome.error.is_none(), "{what}");
            Some(outcome)
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let whole = matches!(trick, Trick::Swapped | Trick::Strangers);
        match outcome {
            None => missing += 1,
            Some(outcome) if outcome.error.is_some() => {
                assert!(trick == Trick::Twice, "{what}: {:?}", outcome.report.error);
                refused += 1;
            }
            Some(outcome) => {
                assert!(whole || trick == Trick::Twice, "{what}: taken");
                let verification = outcome.report.verification.expect("compared");
                assert_eq!(verification.bad, 0, "{what}");
                taken += 1;
            }
        }
    }
    println!(
        "{} gatherings of channels: {missing} incomplete, {refused} refused, {taken} taken whole",
        tries() / 20
    );
}
