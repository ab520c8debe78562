//! Cloud Hypervisor's post-copy: damaged answers to page faults into a destination, damaged requests into a source.
//!
//! Never inside: QEMU's (`pulls`, `requests`).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use migbed::clock::mono_ns;
use migbed::migration::channels::open_all;
use migbed::migration::destination::run_destination;
use migbed::migration::guest::GuestMemory;
use migbed::migration::params::{EngineKind, MemoryMode, MigrationParams};
use migbed::migration::source::{NoObserver, SourceEnd, run_source};
use migbed::migration::wire::cloud_hypervisor::{self as cloud, Request, encode_answer, fault};
use migbed::migration::wire::hello::{ChannelId, ChannelKind, HELLO_BYTES};
use migbed::migration::wire::{Decoder, Encoder, Event, Format, Header, PAGE_BYTES};
use replay::host::CoreWork;
use replay::{GuestTime, VmState};

use crate::answers::{answered, misspoken};
use crate::damage::mutated;
use crate::draw::Draw;
use crate::ends::{destination_job, fed, of_engine, pair, source_job};
use crate::expect::Holds;
use crate::guest::{RAM_PAGES, VM, memory, random};
use crate::pulls::check;
use crate::{HANG_NS, tries};

fn on_demand() -> MigrationParams {
    let mut params = MigrationParams {
        memory_mode: MemoryMode::Postcopy,
        ..of_engine(EngineKind::CloudHypervisor)
    };
    params.postcopy.stall_timeout = 250;
    params.postcopy.recover_timeout = 100;
    params
}

/// A guest that has run for a while.
fn state() -> VmState {
    VmState {
        run_ns: 300_000_000,
        cpu: CoreWork(300_000_000 * 1_000_000_000),
        ..VmState::default()
    }
}

/// The main connection's bytes, and where its records begin.
fn main_stream(memory: &GuestMemory, params: &MigrationParams) -> (Vec<u8>, Vec<usize>) {
    let header = Header {
        migration: 1,
        vm_key: memory.vm_key(),
        memory_check: memory.check(),
        ram_pages: memory.pages(),
        return_path: true,
        postcopy: true,
        format: Format::CloudHypervisor,
        streams: params.streams(),
    };
    let (mut out, mut marks) = (Vec::new(), vec![0]);
    Encoder::default().setup(&header, &mut out);
    marks.push(out.len());
    for request in [Request::Start, Request::Config] {
        cloud::request(request, &mut out);
        marks.push(out.len());
    }
    let bytes = postcard::to_stdvec(&state()).unwrap();
    cloud::state(&bytes, params.device_state_bytes, &mut out);
    marks.push(out.len());
    cloud::request(Request::Complete, &mut out);
    marks.push(out.len());
    (out, marks)
}

/// A whole answer, of the version at a guest time.
fn answer(memory: &GuestMemory, page: u32, at: GuestTime) -> Vec<u8> {
    let mut out = fault::answer().to_vec();
    let version = memory.version_at(page, at);
    if memory.is_zero(page, version) {
        out.extend([0; PAGE_BYTES]);
    } else {
        let (stamp, body) = memory.page(page, version);
        out.extend_from_slice(&stamp.encode());
        out.extend_from_slice(body);
    }
    out
}

/// Answers like a source; the answer `spoilt` comes as `instead`, and after it nothing if it is not of the same length.
/// What each page was said to hold.
fn serve(
    mut socket: &TcpStream,
    memory: &GuestMemory,
    spoilt: usize,
    instead: impl Fn(u32, Vec<u8>) -> Vec<u8>,
) -> Vec<BTreeSet<Holds>> {
    let mut said = vec![BTreeSet::from([Holds::Nothing]); RAM_PAGES as usize];
    let mut request = [0; fault::REQUEST_BYTES];
    let mut number = 0;
    while socket.read_exact(&mut request).is_ok() {
        let page =
            fault::decode_request(&request, RAM_PAGES).expect("a destination asks for its pages");
        let right = answer(memory, page, state().guest_time());
        let whole = right.len();
        let says = if number == spoilt {
            instead(page, right)
        } else {
            right
        };
        let head_holds = says.get(..cloud::RECORD_BYTES) == Some(&fault::answer()[..]);
        if let Some(bytes) = says.get(cloud::RECORD_BYTES..whole).filter(|_| head_holds) {
            said[page as usize] = BTreeSet::from([Holds::of(memory, page, bytes)]);
        }
        if socket.write_all(&says).is_err() || says.len() != whole {
            break;
        }
        number += 1;
    }
    let _ = socket.shutdown(Shutdown::Write);
    said
}

/// Whether the header says that it is one: another may have been made right again.
fn is_postcopy(main: &[u8]) -> bool {
    let first = Decoder::default().decode(main);
    !matches!(first, Ok(Some((_, Event::Header(header)))) if !header.postcopy)
}

#[test]
fn no_answer_to_a_page_fault_is_taken_for_what_it_is_not() {
    let memory = memory(40.0, random());
    let params = on_demand();
    let (right, marks) = main_stream(&memory, &params);
    let (mut refused, mut lost, mut whole, mut old) = (0, 0, 0, 0);
    let tries = tries() / 10;
    for seed in 0..tries {
        let mut draw = Draw(seed ^ 0xFA17);
        let (mut main, mut damage) = (right.clone(), "none");
        if draw.below(4) == 0 {
            (damage, main) = mutated(&mut draw, &right, &marks, &right);
        }
        // Some beyond the last, so that some come whole.
        let spoilt = draw.below(RAM_PAGES as usize * 3 / 2);
        let kind = draw.below(7);
        let (at, bit) = (draw.below(fault::ANSWER_BYTES), draw.below(8));
        let random = draw.bytes(at);
        let instead = |page: u32, mut says: Vec<u8>| {
            match kind {
                0 => says[at] ^= 1 << bit,
                1 => says.truncate(at),
                2 => says[..16].copy_from_slice(&encode_answer(false)),
                3 => says = answer(&memory, (page + 1) % RAM_PAGES, state().guest_time()),
                4 => says = answer(&memory, page, GuestTime::default()),
                5 => says.extend_from_slice(&random),
                _ => says[..at].copy_from_slice(&random),
            }
            says
        };
        let what = format!("seed {seed}: {damage}, answer {spoilt} of kind {kind} at {at}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        let id = ChannelId {
            kind: ChannelKind::Fault,
            number: 0,
        };
        let opened = open_all(1, VM, &[id], || TcpStream::connect(address)).unwrap();
        let (mut job, guest) = destination_job(&params, &memory, server, Vec::new());
        job.recover = Some(listener);
        let began_ns = mono_ns();
        let (outcome, said) = std::thread::scope(|scope| {
            scope.spawn(|| fed(&client, &main, false));
            let serving = scope.spawn(|| serve(&opened[0].socket, &memory, spoilt, instead));
            let outcome = run_destination(job);
            // It hears that nobody asks any more.
            let _ = opened[0].socket.shutdown(Shutdown::Both);
            (outcome, serving.join().unwrap())
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let committed = guest.committed.lock().unwrap().take();
        if let Some(committed) = &committed {
            assert_eq!(*committed, state(), "{what}: took what is no guest");
        }
        let said = match is_postcopy(&main) {
            true => said,
            // Memory is zero then where nothing comes.
            false => vec![BTreeSet::from([Holds::Zero]); RAM_PAGES as usize],
        };
        let missing = said.iter().any(|held| held.contains(&Holds::Nothing));
        let runs = check(
            &what,
            &memory,
            &said,
            (&outcome, committed.as_ref(), &guest),
        );
        assert!(!runs || !missing, "{what}: it runs without pages");
        match (committed.is_some(), runs) {
            (false, _) => refused += 1,
            (true, false) => lost += 1,
            (true, true) => whole += 1,
        }
        let found = outcome.report.verification.filter(|_| runs);
        old += u64::from(found.is_some_and(|found| found.bad > 0));
    }
    assert!(
        refused > 0 && lost > 0 && whole > 0,
        "{refused}, {lost}, {whole}"
    );
    println!(
        "{tries} connections of page faults: {refused} refused, {lost} lost and given up, {whole} whole, {old} of these found old"
    );
}

/// The pages that are asked for until something else is, and whether nothing else is.
fn asked(bytes: &[u8]) -> (BTreeSet<u32>, bool) {
    let mut pages = BTreeSet::new();
    for request in bytes.chunks(fault::REQUEST_BYTES) {
        let whole = request.first_chunk();
        let page = whole.and_then(|whole| fault::decode_request(whole, RAM_PAGES).ok());
        let Some(page) = page else {
            return (pages, false);
        };
        pages.insert(page);
    }
    (pages, true)
}

#[test]
fn no_page_fault_talks_a_source_into_anything() {
    let memory = memory(8.0, random());
    let params = on_demand();
    let yes = encode_answer(true);
    let right = yes.repeat(4);
    let (mut completed, mut failed, mut undecided) = (0, 0, 0);
    let tries = tries() / 10;
    for seed in 0..tries {
        let mut draw = Draw(seed ^ 0x5EEF);
        let words = match draw.below(4) {
            0 => misspoken(&mut draw, &right),
            _ => right.clone(),
        };
        let mut pages: Vec<u32> = (0..RAM_PAGES).collect();
        for from in (1..pages.len()).rev() {
            pages.swap(from, draw.below(from + 1));
        }
        let mut requests: Vec<u8> = pages
            .iter()
            .flat_map(|&page| fault::request(page))
            .flatten()
            .collect();
        let marks: Vec<usize> = (0..=pages.len())
            .map(|of| of * fault::REQUEST_BYTES)
            .collect();
        let mut damage = "none";
        if draw.below(4) > 0 {
            (damage, requests) = mutated(&mut draw, &requests, &marks, &right);
        }
        let closes = draw.below(4) > 0;
        let what = format!("seed {seed}: {damage}, closes {closes}, {words:02x?}");
        let (client, server) = pair();
        let (mut job, guest) = source_job(&params, &memory, client, Vec::new());
        job.acknowledge_limit_ms = 500;
        let (dialled, calls) = sync_channel::<TcpStream>(1);
        let (dialled, held) = (Mutex::new(dialled), Mutex::new(Vec::new()));
        job.redial = Some(Box::new(move || {
            let (client, server) = pair();
            let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            dialled.lock().unwrap().try_send(server).map_err(refused)?;
            Ok(client)
        }));
        let began_ns = mono_ns();
        let (sent, stream) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| answered(&server, &words, 100, true));
            scope.spawn(|| {
                for mut server in calls {
                    if server.read_exact(&mut [0; HELLO_BYTES]).is_ok() {
                        answered(&server, &requests, 100, closes);
                    }
                    held.lock().unwrap().push(server);
                }
            });
            let sent = run_source(&job, &NoObserver);
            drop(job);
            (sent, reading.join().unwrap())
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let (pages, clean) = asked(&requests);
        let said_yes = words.starts_with(&right);
        match sent.end {
            SourceEnd::Completed => {
                let all = clean && closes && pages.len() == RAM_PAGES as usize;
                assert!(said_yes && all, "{what}: nobody has all of it");
                assert!(!guest.running(), "{what}");
                completed += 1;
            }
            SourceEnd::Undecided => {
                assert!(!guest.running(), "{what}: runs what it may have given away");
                undecided += 1;
            }
            SourceEnd::Failed | SourceEnd::Cancelled | SourceEnd::Crashed => {
                let (mut decoder, mut at, mut handed) = (Decoder::default(), 0, false);
                while let Ok(Some((taken, event))) = decoder.decode(&stream[at..]) {
                    at += taken;
                    handed |= event == Event::End;
                }
                let given_back = words.get(48..64) == Some(&encode_answer(false)[..]);
                let error = sent.report.error;
                assert!(guest.running(), "{what}: nobody has it: {error:?}");
                assert!(!handed || given_back, "{what}: two copies: {error:?}");
                failed += 1;
            }
        }
    }
    assert!(completed > 0 && failed > 0 && undecided > 0);
    println!(
        "{tries} sources asked for pages: {failed} failures, {undecided} in doubt, {completed} asked for all of it"
    );
}
