//! The return path of a post-copy, damaged: requests, the bitmap of a recovery, the last word.
//!
//! Never inside: the destination's half (`pulls`).

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use migbed::clock::mono_ns;
use migbed::migration::channels::Channel;
use migbed::migration::source::{NoObserver, SourceEnd, run_source};
use migbed::migration::wire::postcopy::{self, Command, PACKAGE_PING, Return, decode_return};
use migbed::migration::wire::{Decoder, Event, encode_shut};
use replay::Bitmap;

use crate::answers::{answered, misspoken};
use crate::draw::Draw;
use crate::ends::{pair, source_job};
use crate::guest::{RAM_PAGES, memory, random};
use crate::pulls::post_copy;
use crate::{HANG_NS, tries};

/// Nobody dials more often.
const DIALS_MAX: usize = 64;

/// What a return path says until it says something else.
fn words(mut says: &[u8]) -> Vec<Return> {
    let mut words = Vec::new();
    while let Ok(Some((taken, word))) = decode_return(says, RAM_PAGES) {
        says = &says[taken..];
        words.push(word);
    }
    words
}

/// What a destination says that takes a post-copy up again and then has everything.
fn taken_up(draw: &mut Draw) -> Vec<u8> {
    let mut pages = Bitmap::new(RAM_PAGES);
    for page in 0..RAM_PAGES {
        if draw.below(2) == 0 {
            pages.set(page);
        }
    }
    let mut says = Vec::new();
    postcopy::received(&pages, &mut says);
    postcopy::resume_ack(&mut says);
    ask(draw, &mut says);
    says.extend(encode_shut(0));
    says
}

/// What one says that runs the guest, asks for pages, and then has everything.
fn pulled(draw: &mut Draw) -> Vec<u8> {
    let mut says = Vec::new();
    postcopy::pong(2, &mut says);
    postcopy::pong(PACKAGE_PING, &mut says);
    ask(draw, &mut says);
    postcopy::pong(4, &mut says);
    says.extend(encode_shut(0));
    says
}

/// Three requests, the first with the block's name.
fn ask(draw: &mut Draw, says: &mut Vec<u8>) {
    for named in [false, true, true] {
        let page = u32::try_from(draw.below(RAM_PAGES as usize)).unwrap();
        postcopy::request(page, named, says);
    }
}

#[test]
fn no_word_of_a_post_copy_talks_a_source_into_anything() {
    let memory = memory(8.0, random());
    let (mut completed, mut failed, mut undecided, mut recovered) = (0, 0, 0, 0);
    let tries = tries() / 10;
    for seed in 0..tries {
        let mut draw = Draw(seed ^ 0x4E95);
        let preempt = draw.below(2);
        let mut params = post_copy(preempt == 1);
        params.postcopy.stall_timeout = 250;
        params.postcopy.recover_timeout = 600;
        params.postcopy.max_bandwidth = 0;
        let first = match draw.below(3) {
            // Cut, so that it is taken up again.
            0 => {
                let mut says = Vec::new();
                postcopy::pong(2, &mut says);
                postcopy::pong(PACKAGE_PING, &mut says);
                says
            }
            _ => {
                let right = pulled(&mut draw);
                misspoken(&mut draw, &right)
            }
        };
        let again = taken_up(&mut draw);
        let again = match draw.below(3) {
            0 => again,
            _ => misspoken(&mut draw, &again),
        };
        let what = format!("seed {seed}, preempt {preempt}: {first:02x?}, again {again:02x?}");
        let ((client, server), (urgent, urgent_server)) = (pair(), pair());
        let channels = params.channels().into_iter().map(|id| {
            let socket = urgent.try_clone().unwrap();
            Channel { id, socket }
        });
        let (mut job, guest) = source_job(&params, &memory, client, channels.collect());
        drop(urgent);
        job.deadline_ns = Some(mono_ns() + 700_000_000);
        let (dialled, calls) = sync_channel::<TcpStream>(DIALS_MAX);
        let dialled = Mutex::new(dialled);
        job.redial = Some(Box::new(move || {
            let (client, server) = pair();
            let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            dialled.lock().unwrap().try_send(server).map_err(refused)?;
            Ok(client)
        }));
        let began_ns = mono_ns();
        let (sent, stream) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| answered(&server, &first, 40, true));
            scope.spawn(|| answered(&urgent_server, &[], 40, false));
            scope.spawn(|| {
                for server in calls {
                    answered(&server, &again, 40, true);
                }
            });
            let sent = run_source(&job, &NoObserver);
            drop(job);
            (sent, reading.join().unwrap())
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let running = guest.running();
        let has_all = |words: &[Return]| words.contains(&Return::Shut(0));
        let (first, again) = (words(&first), words(&again));
        match sent.end {
            SourceEnd::Completed => {
                assert!(has_all(&first) || has_all(&again), "{what}: nobody said so");
                assert!(!running, "{what}");
                completed += 1;
                let interrupted = sent
                    .report
                    .postcopy
                    .is_some_and(|p| !p.interruptions.is_empty());
                recovered += u64::from(interrupted);
            }
            SourceEnd::Undecided => {
                assert!(!running, "{what}: runs what it may have given away");
                undecided += 1;
            }
            SourceEnd::Failed | SourceEnd::Cancelled | SourceEnd::Crashed => {
                let (mut decoder, mut at, mut handed) = (Decoder::default(), 0, false);
                while let Ok(Some((taken, event))) = decoder.decode(&stream[at..]) {
                    at += taken;
                    handed |= event == Event::Postcopy(Command::Run);
                }
                let refused = first.iter().position(|w| matches!(w, Return::Shut(1..)));
                let started = first.iter().position(|w| *w == Return::Pong(PACKAGE_PING));
                let given_back = refused.is_some_and(|at| started.is_none_or(|run| run > at));
                let error = sent.report.error;
                assert!(
                    !running || !handed || given_back,
                    "{what}: two copies: {error:?}"
                );
                failed += 1;
            }
        }
    }
    println!(
        "{tries} return paths of post-copies: {failed} failures, {undecided} in doubt, {completed} the right word, {recovered} of these after a recovery"
    );
}
