//! Damaged streams into both ends of a migration: no panic, no hang, no garbage accepted.
//!
//! *Accepted garbage*, at a destination: it lets a guest run of which a page is missing, or holds
//! bytes that are not this page of this guest, or whose state is not the one that was sent; or it
//! calls a guest verified whose pages are not all of the version that the guest's own time says. (A
//! page that is genuine and old is nobody's damage on the way; comparing finds it, and the migration
//! is unverified.) At a source: it takes anything but the destination's own word for one.
//!
//! `MIGBED_FUZZ=10000` sets how many streams are tried, a fixed sequence; 600 without it.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "tests: whatever fails fails the test, and its steps are read in order"
)]

use migbed::clock::mono_ns;
use migbed::migration::destination::{
    DestinationControl, DestinationJob, DestinationOutcome, run_destination,
};
use migbed::migration::engine::EngineUnits;
use migbed::migration::guest::{
    CommitRefused, DestinationGuest, GuestMemory, SourceGuest, Standing,
};
use migbed::migration::ownership::DestinationSide;
use migbed::migration::params::{EngineKind, MigrationParams, PostcopyParams};
use migbed::migration::source::{NoObserver, SourceEnd, SourceJob, run_source};
use migbed::migration::upcoming::Limit;
use migbed::migration::wire::{Decoder, Event, Streams, encode_shut};
use replay::content::{ContentProfile, PagePool, Recipe};
use replay::host::CoreWork;
use replay::{Behaviour, GuestTime, MemorySpec, VmState};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use traces::class::PageClass;

const RAM_PAGES: u32 = 192;
/// Nothing here takes longer, but for a computer that is busy with other things.
const HANG_NS: u64 = 20_000_000_000;
const FORMATS: [EngineKind; 3] = [
    EngineKind::Qemu,
    EngineKind::Xen,
    EngineKind::CloudHypervisor,
];

fn tries() -> u64 {
    let asked = std::env::var("MIGBED_FUZZ").ok();
    asked.map_or(600, |text| text.parse().expect("MIGBED_FUZZ is a number"))
}

/// Splitmix64: small, seeded, and the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).expect("below a usize")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A guest that runs by the clock; at most one copy of it.
#[derive(Default)]
struct Guest {
    /// Since when it has run, and how long before; `None`: it does not.
    clock: Mutex<(Option<u64>, u64)>,
    committed: Mutex<Option<VmState>>,
}

impl Guest {
    fn running(&self) -> bool {
        self.clock.lock().unwrap().0.is_some()
    }

    fn ran_ns(&self) -> u64 {
        let (since, before) = *self.clock.lock().unwrap();
        before + since.map_or(0, |since| mono_ns() - since)
    }
}

impl SourceGuest for Guest {
    fn guest_time(&self) -> GuestTime {
        let ns = self.ran_ns();
        GuestTime {
            cpu_ns: ns,
            run_ns: ns,
        }
    }

    fn pause(&self) -> GuestTime {
        let ns = self.ran_ns();
        *self.clock.lock().unwrap() = (None, ns);
        self.guest_time()
    }

    fn resume(&self) {
        let before = self.ran_ns();
        *self.clock.lock().unwrap() = (Some(mono_ns()), before);
    }

    fn throttle(&self, _percent: u8) {}

    fn take_state(&self) -> VmState {
        let run_ns = self.ran_ns();
        VmState {
            run_ns,
            cpu: CoreWork(u128::from(run_ns) * 1_000_000_000),
            ..VmState::default()
        }
    }

    fn crash(&self) {
        let before = self.ran_ns();
        *self.clock.lock().unwrap() = (None, before);
    }
}

impl DestinationGuest for Guest {
    fn run_within(&self, _limit: Limit) {}

    fn standing(&self) -> Standing {
        Standing::Gone
    }

    fn give_up(&self) {}

    fn commit_and_resume(&self, state: VmState) -> Result<u64, CommitRefused> {
        *self.committed.lock().unwrap() = Some(state);
        Ok(mono_ns())
    }
}

/// A quarter of RAM is written as fast as the migration lasts, a third of it is zero.
fn memory() -> GuestMemory {
    let spec = MemorySpec {
        ram_pages: RAM_PAGES,
        resident_pages: 64,
        high_pages: 0,
        behaviours: vec![Behaviour::Classes(vec![PageClass::new(48, 5.0)])],
        fresh: false,
        content: ContentProfile {
            zero_share: 0.05,
            ..ContentProfile::RANDOM
        },
    };
    GuestMemory::new(&spec, 5, 9, |profile| {
        let recipe = Recipe::of(profile)?;
        Ok(Arc::new(PagePool::new(&recipe, 5, 64)))
    })
    .expect("a small guest")
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn source_job(
    engine: EngineKind,
    memory: &GuestMemory,
    socket: TcpStream,
) -> (SourceJob, Arc<Guest>) {
    let guest = Arc::new(Guest::default());
    guest.resume();
    let job = SourceJob {
        redial: None,
        migration: 1,
        params: MigrationParams {
            engine,
            device_state_bytes: 3000,
            // A few slices and a few passes.
            max_bandwidth: 4_000_000,
            downtime_limit: 30,
            ..MigrationParams::default()
        },
        guest: Arc::clone(&guest) as Arc<dyn SourceGuest>,
        memory: memory.clone(),
        ram: None,
        socket,
        channels: Vec::new(),
        congestion: None,
        control: Arc::default(),
        chunk_pages: 64,
        units: EngineUnits {
            check_pages: 64,
            stop_pages: 10,
            rounds_stop_pages: 10,
        },
        xen_batch_pages: 32,
        packet_pages: 128,
        data_chunk_pages: 16_384,
        batch_pages: 32,
        acknowledge_limit_ms: 60,
        deadline_ns: Some(mono_ns() + 10_000_000_000),
        faults: Vec::new(),
    };
    (job, guest)
}

fn destination_job(memory: &GuestMemory, socket: TcpStream) -> (DestinationJob, Arc<Guest>) {
    let guest = Arc::new(Guest::default());
    let job = DestinationJob {
        postcopy: PostcopyParams::default(),
        recover: None,
        migration: 1,
        memory: memory.clone(),
        ram: None,
        load_time_ms: 0,
        guest: Arc::clone(&guest) as Arc<dyn DestinationGuest>,
        socket,
        channels: Vec::new(),
        streams: Streams::default(),
        packet_pages: 128,
        congestion: None,
        control: Arc::<DestinationControl>::default(),
        silence_limit_ms: 200,
    };
    (job, guest)
}

/// What a source sends and a destination answers, recorded between them.
fn recorded(engine: EngineKind, memory: &GuestMemory) -> (Vec<u8>, Vec<u8>) {
    let (client, middle_in) = pair();
    let (middle_out, server) = pair();
    let (source, _) = source_job(engine, memory, client);
    let (destination, _) = destination_job(memory, server);
    let tap = |mut from: TcpStream, mut to: TcpStream| {
        move || {
            let (mut taken, mut piece) = (Vec::new(), vec![0; 65_536]);
            loop {
                match from.read(&mut piece) {
                    Ok(bytes) if bytes > 0 => {
                        taken.extend_from_slice(&piece[..bytes]);
                        to.write_all(&piece[..bytes]).expect("the other end reads");
                    }
                    _ => break,
                }
            }
            // The peer may have closed first.
            let _ = to.shutdown(Shutdown::Write);
            taken
        }
    };
    let there = tap(
        middle_in.try_clone().unwrap(),
        middle_out.try_clone().unwrap(),
    );
    let back = tap(middle_out, middle_in);
    std::thread::scope(|scope| {
        let (there, back) = (scope.spawn(there), scope.spawn(back));
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        drop(source);
        let received = receiving.join().unwrap();
        assert_eq!(received.report.verification.unwrap().bad, 0);
        (there.join().unwrap(), back.join().unwrap())
    })
}

/// Where records begin, the first and the end included.
fn boundaries(stream: &[u8]) -> Vec<usize> {
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

/// The header's checksum made right again, so that what follows it is looked at.
fn sealed(stream: &mut [u8]) {
    if let Some(header) = stream.get_mut(..48) {
        let sum = crc32fast::hash(&header[..44]).to_be_bytes();
        header[44..].copy_from_slice(&sum);
    }
}

/// Two places of a stream, in order.
fn span(draw: &mut Draw, marks: &[usize]) -> (usize, usize) {
    let (a, b) = (
        marks[draw.below(marks.len())],
        marks[draw.below(marks.len())],
    );
    (a.min(b), a.max(b))
}

fn mutated(draw: &mut Draw, stream: &[u8], marks: &[usize], other: &[u8]) -> (String, Vec<u8>) {
    let mut out = stream.to_vec();
    let anywhere: Vec<usize> = (0..8).map(|_| draw.below(stream.len() + 1)).collect();
    let kind = draw.below(16);
    let name = match kind {
        0 => {
            let at = draw.below(out.len());
            out[at] ^= 1 << draw.below(8);
            "one bit"
        }
        1 => {
            for _ in 0..=draw.below(64) {
                let at = draw.below(out.len());
                out[at] ^= 1 << draw.below(8);
            }
            "bits"
        }
        2 => {
            out.truncate(draw.below(out.len()));
            "cut off"
        }
        3 => {
            out.truncate(marks[draw.below(marks.len() - 1)]);
            "cut off between records"
        }
        4 | 5 => {
            let marks = if kind == 4 { &anywhere } else { marks };
            let (from, to) = span(draw, marks);
            let at = marks[draw.below(marks.len())];
            let again = stream[from..to].to_vec();
            out.splice(at..at, again);
            "said twice"
        }
        6 | 7 => {
            let (from, to) = span(draw, if kind == 6 { &anywhere } else { marks });
            out.drain(from..to);
            "left out"
        }
        8 => {
            let (from, to) = span(draw, &anywhere);
            let random = draw.bytes(to - from);
            out[from..to].copy_from_slice(&random);
            "random in the middle"
        }
        9 => {
            let count = draw.below(20_000);
            out = draw.bytes(count);
            "random throughout"
        }
        10 => {
            let count = draw.below(20_000);
            out.truncate(48);
            out.extend(draw.bytes(count));
            "random after the header"
        }
        11 => {
            let at = draw.below(44);
            out[at] = draw.next().to_le_bytes()[0];
            sealed(&mut out);
            "another header"
        }
        12 => {
            // One record in the place of another.
            let (a, b) = (draw.below(marks.len() - 1), draw.below(marks.len() - 1));
            let (a, b) = (a.min(b), a.max(b));
            let (first, second) = (
                stream[marks[a]..marks[a + 1]].to_vec(),
                stream[marks[b]..marks[b + 1]].to_vec(),
            );
            out.splice(marks[b]..marks[b + 1], first);
            out.splice(marks[a]..marks[a + 1], second);
            "two records changed places"
        }
        13 => {
            let count = 1 + draw.below(9000);
            out.extend(draw.bytes(count));
            "more after the end"
        }
        14 => {
            let keep = draw.below(out.len());
            out.truncate(keep);
            out.extend_from_slice(&other[draw.below(other.len())..]);
            "the rest of another format"
        }
        _ => {
            let word: &[u8] =
                [&[0xFF; 8][..], &[0; 8], &[0x7F; 4], &[0x80, 0, 0, 0]][draw.below(4)];
            let at = draw.below(out.len().saturating_sub(word.len()));
            out[at..at + word.len()].copy_from_slice(word);
            "a number at its end"
        }
    };
    (name.to_owned(), out)
}

/// What a destination that reads this must come to: the pages it holds at the end, if it gets there.
fn told(memory: &GuestMemory, stream: &[u8]) -> Option<(BTreeMap<u32, Option<u64>>, VmState)> {
    let (mut decoder, mut at) = (Decoder::default(), 0);
    let (mut pages, mut state, mut raw) = (BTreeMap::new(), None, true);
    loop {
        let (taken, event) = decoder.decode(&stream[at..]).ok()??;
        at += taken;
        match event {
            Event::Header(header) => {
                let own = header.migration == 1
                    && header.vm_key == memory.vm_key()
                    && header.memory_check == memory.check()
                    && header.ram_pages == memory.pages()
                    && header.streams == Streams::default();
                if !own {
                    return None;
                }
                raw = header.format != migbed::migration::wire::Format::Qemu;
                if header.format == migbed::migration::wire::Format::CloudHypervisor {
                    pages = (0..memory.pages()).map(|page| (page, None)).collect();
                }
            }
            Event::Page { page, bytes } if raw && bytes.iter().all(|byte| *byte == 0) => {
                pages.insert(page, None);
            }
            Event::Page { page, bytes } => match memory.verify(bytes, page) {
                Ok(version) => drop(pages.insert(page, Some(version))),
                Err(_) => drop(pages.remove(&page)),
            },
            Event::ZeroPage { page } => drop(pages.insert(page, None)),
            Event::State(bytes) => state = postcard::from_bytes::<VmState>(bytes).ok(),
            Event::End => {
                let whole = pages.len() == memory.pages() as usize;
                return state.filter(|_| whole).map(|state| (pages, state));
            }
            _ => {}
        }
    }
}

/// How many of the pages held are not what the guest's time says.
fn wrong(memory: &GuestMemory, pages: &BTreeMap<u32, Option<u64>>, state: &VmState) -> u64 {
    let at = state.guest_time();
    let stale = |&(page, held): &(&u32, &Option<u64>)| {
        let version = memory.version_at(*page, at);
        match held {
            None => !memory.is_zero(*page, version),
            Some(held) => {
                memory.is_zero(*page, version) || memory.content_version(*page, version) != *held
            }
        }
    };
    pages.iter().filter(stale).count() as u64
}

/// Feeds bytes, reads what comes back, closes; or leaves the connection open and says no more.
fn fed(memory: &GuestMemory, stream: &[u8], closes: bool) -> (DestinationOutcome, Option<VmState>) {
    let (client, server) = pair();
    let (job, guest) = destination_job(memory, server);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A destination that has seen enough closes.
            let _ = (&client).write_all(stream);
            if closes {
                let _ = client.shutdown(Shutdown::Write);
            }
            let mut answers = Vec::new();
            let _ = (&client).read_to_end(&mut answers);
        });
        let control = Arc::clone(&job.control);
        let outcome = run_destination(job);
        assert_eq!(
            outcome.report.resumed_ns.is_some(),
            control.side() == DestinationSide::Committed
        );
        outcome
    });
    let committed = guest.committed.lock().unwrap().take();
    (outcome, committed)
}

#[test]
fn no_stream_brings_a_guest_that_is_none() {
    let memory = memory();
    let streams: Vec<_> = FORMATS.map(|engine| recorded(engine, &memory).0).into();
    let marks: Vec<_> = streams.iter().map(|stream| boundaries(stream)).collect();
    for (stream, marks) in streams.iter().zip(&marks) {
        assert_eq!(
            marks.last(),
            Some(&stream.len()),
            "the decoder reads what was recorded"
        );
        assert!(told(&memory, stream).is_some());
    }
    let (mut refused, mut committed, mut old) = (0, 0, 0);
    let mut taken = BTreeMap::<String, u64>::new();
    for seed in 0..tries() {
        let mut draw = Draw(seed);
        let of = draw.below(3);
        let other = &streams[(of + 1 + draw.below(2)) % 3];
        let (name, stream) = mutated(&mut draw, &streams[of], &marks[of], other);
        let what = format!("seed {seed}, {:?}, {name}", FORMATS[of]);
        // Silence is waited for: now and then is enough.
        let closes = seed % 50 != 7;
        let began_ns = mono_ns();
        let (outcome, state) = fed(&memory, &stream, closes);
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let expected = told(&memory, &stream);
        let Some(state) = state else {
            assert!(outcome.error.is_some(), "{what}");
            // Bytes after the end may be met before it or not, as they come.
            assert!(
                expected.is_none()
                    || name == "more after the end"
                    || name == "said twice"
                    || name == "the rest of another format",
                "{what}: refused what it should take: {:?}",
                outcome.error
            );
            refused += 1;
            continue;
        };
        let (pages, sent) = expected.unwrap_or_else(|| panic!("{what}: took what is no guest"));
        assert_eq!(state, sent, "{what}");
        let bad = wrong(&memory, &pages, &state);
        let verification = outcome
            .report
            .verification
            .expect("compared after the commit");
        assert_eq!(verification.bad, bad, "{what}");
        committed += 1;
        *taken.entry(name).or_default() += 1;
        old += u64::from(bad > 0);
    }
    println!(
        "{} streams into a destination: {refused} refused, {committed} taken whole, {old} of these found to be old and unverified",
        tries()
    );
    println!("taken whole, by damage: {taken:?}");
}

/// The words of a destination that has said yes to all of this.
fn words_wanted(stream: &[u8]) -> Vec<u8> {
    let (mut decoder, mut at, mut answers) = (Decoder::default(), 0, 0);
    let mut shut = true;
    while let Ok(Some((taken, event))) = decoder.decode(&stream[at..]) {
        at += taken;
        match event {
            Event::AnswerWanted => answers += 1,
            Event::Header(header) => {
                shut = header.format != migbed::migration::wire::Format::CloudHypervisor;
            }
            Event::End => break,
            _ => {}
        }
    }
    let yes = migbed::migration::wire::cloud_hypervisor::encode_answer(true);
    let mut words: Vec<u8> = yes.repeat(answers);
    if shut {
        words.extend(encode_shut(0));
    } else {
        words.extend(yes);
    }
    words
}

#[test]
fn no_return_path_talks_a_source_into_anything() {
    let memory = memory();
    let answers: Vec<_> = FORMATS.map(|engine| recorded(engine, &memory).1).into();
    let (mut completed, mut failed, mut undecided) = (0, 0, 0);
    for seed in 0..tries() / 4 {
        let mut draw = Draw(seed ^ 0x5EED);
        let of = draw.below(3);
        let right = &answers[of];
        let mut says = right.clone();
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
        let what = format!("seed {seed}, {:?}: {says:02x?}", FORMATS[of]);
        let (client, server) = pair();
        let (mut job, guest) = source_job(FORMATS[of], &memory, client);
        job.params.max_bandwidth = 0;
        job.deadline_ns = Some(mono_ns() + 700_000_000);
        let closes = draw.below(4) > 0;
        let began_ns = mono_ns();
        let (sent, stream) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                // All is read, so that the source never waits for room.
                let _ = (&server).write_all(&says);
                let _ = server.set_read_timeout(Some(Duration::from_millis(120)));
                let (mut stream, mut piece) = (Vec::new(), vec![0; 65_536]);
                while let Ok(bytes @ 1..) = (&server).read(&mut piece) {
                    stream.extend_from_slice(&piece[..bytes]);
                }
                if closes {
                    let _ = server.shutdown(Shutdown::Both);
                }
                stream
            });
            let sent = run_source(&job, &NoObserver);
            drop(job);
            (sent, reading.join().unwrap())
        });
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let running = guest.running();
        match sent.end {
            SourceEnd::Completed => {
                let yes = words_wanted(&stream);
                assert!(says.starts_with(&yes), "{what}: not the destination's word");
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
        "{} return paths: {failed} failures, {undecided} in doubt, {completed} the right word",
        tries() / 4
    );
}
