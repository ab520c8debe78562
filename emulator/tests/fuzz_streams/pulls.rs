//! Post-copy into a destination, whose guest runs before its pages are there.
//!
//! Never inside: the source's half (`requests`).

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use migbed::clock::mono_ns;
use migbed::migration::channels::Channel;
use migbed::migration::destination::{DestinationOutcome, run_destination};
use migbed::migration::guest::GuestMemory;
use migbed::migration::params::{EngineKind, MigrationParams, PostcopyParams};
use migbed::migration::wire::postcopy::{self, Command};
use migbed::migration::wire::{Decoder, Encoder, Event, Format, Header};
use replay::VmState;

use crate::damage::mutated;
use crate::destinations::boundaries;
use crate::draw::Draw;
use crate::ends::{PATIENT_MS, Taped, destination_job, fed, of_engine, pair, recorded};
use crate::expect::{Holds, Possible, is_own, wrong};
use crate::guest::{Guest, RAM_PAGES, memory, random};
use crate::{HANG_NS, tries};

/// Slow enough that the guest touches pages before they come.
pub(crate) fn post_copy(preempt: bool) -> MigrationParams {
    MigrationParams {
        postcopy: PostcopyParams {
            ram: true,
            preempt,
            max_bandwidth: 2_000_000,
            stall_timeout: 2_000,
            recover_tries: 2,
            recover_interval: 10,
            recover_timeout: 2_000,
            ..PostcopyParams::default()
        },
        ..of_engine(EngineKind::PostCopy)
    }
}

/// A pre-copy that switches after its first pass.
fn hybrid() -> MigrationParams {
    MigrationParams {
        engine: EngineKind::Qemu,
        max_bandwidth: 1_000_000,
        downtime_limit: 1,
        postcopy: PostcopyParams {
            after_precopy: true,
            ..post_copy(false).postcopy
        },
        ..post_copy(false)
    }
}

/// What the connections, one after the other, lead to.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// Of the guest that was let go, if it was.
    pub(crate) state: Option<VmState>,
    pub(crate) pages: Vec<Holds>,
    /// Nothing is missing.
    whole: bool,
}

/// Reads as a destination would, of which the guest is lost if pages are missing after the last connection.
pub(crate) fn pulled(
    memory: &GuestMemory,
    params: &MigrationParams,
    connections: &[Vec<u8>],
) -> Pulled {
    let mut all = Pulled {
        state: None,
        pages: vec![Holds::Nothing; RAM_PAGES as usize],
        whole: false,
    };
    let mut state = None;
    'connections: for (of, stream) in connections.iter().enumerate() {
        let (mut decoder, mut at, mut resumed) = (Decoder::default(), 0, of == 0);
        while let Ok(Some((taken, event))) = decoder.decode(&stream[at..]) {
            at += taken;
            let runs = all.state.is_some();
            match event {
                Event::Header(header) if !is_own(memory, params.streams(), &header) => break,
                Event::Header(_) => {}
                Event::Postcopy(Command::RecvBitmap) if !resumed => {}
                Event::Postcopy(Command::Resume) if !resumed => resumed = true,
                _ if !resumed => break,
                Event::Page { page, bytes } => {
                    let (held, came) = (
                        &mut all.pages[page as usize],
                        Holds::of(memory, page, bytes),
                    );
                    match (runs, *held, came) {
                        (true, Holds::Nothing, Holds::Nothing) => break,
                        (true, Holds::Nothing, _) | (false, ..) => *held = came,
                        (true, ..) => {}
                    }
                }
                Event::ZeroPage { page } => {
                    let held = &mut all.pages[page as usize];
                    if !runs || *held == Holds::Nothing {
                        *held = Holds::Zero;
                    }
                }
                Event::Postcopy(Command::Discard(gone)) => {
                    for page in gone.ranges().flatten() {
                        all.pages[page as usize] = Holds::Nothing;
                    }
                }
                Event::State(bytes) => state = postcard::from_bytes::<VmState>(bytes).ok(),
                Event::Postcopy(Command::Run) => all.state = state.clone(),
                Event::End if !runs => {
                    all.whole = !all.pages.contains(&Holds::Nothing);
                    all.state = state.clone().filter(|_| all.whole);
                    return all;
                }
                Event::End => {
                    all.whole = !all.pages.contains(&Holds::Nothing);
                    return all; // what is missing then never comes
                }
                _ => {}
            }
            if state.is_none() && matches!(event, Event::State(_)) {
                break;
            }
        }
        all.whole = all.state.is_some() && !all.pages.contains(&Holds::Nothing);
        if all.state.is_none() || all.whole {
            break 'connections;
        }
    }
    all
}

/// A connection that takes the migration up again and brings every page, in some order.
pub(crate) fn recovery(
    draw: &mut Draw,
    memory: &GuestMemory,
    params: &MigrationParams,
    state: &VmState,
) -> Vec<u8> {
    let header = Header {
        migration: 1,
        vm_key: memory.vm_key(),
        memory_check: memory.check(),
        ram_pages: memory.pages(),
        return_path: true,
        postcopy: true,
        format: Format::Qemu,
        streams: params.streams(),
    };
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.recovery(&header, &mut out);
    postcopy::ask_bitmap(&mut out);
    postcopy::resume(&mut out);
    let mut pages: Vec<u32> = (0..RAM_PAGES).collect();
    for from in (1..pages.len()).rev() {
        pages.swap(from, draw.below(from + 1));
    }
    for some in pages.chunks(64) {
        encoder.section(false, &mut out);
        for &page in some {
            let version = memory.version_at(page, state.guest_time());
            if memory.is_zero(page, version) {
                encoder.zero_page(page, &mut out);
                continue;
            }
            encoder.page_header(page, &mut out);
            let (stamp, body) = memory.page(page, version);
            out.extend_from_slice(&stamp.encode());
            out.extend_from_slice(body);
        }
        encoder.end_of_section(&mut out);
    }
    encoder.section(true, &mut out);
    encoder.end_of_section(&mut out);
    encoder.end(&mut out);
    out
}

/// Dials so often at once, says on each what there is to say, and tells the destination when nobody will call again.
pub(crate) fn feed(
    memory: &GuestMemory,
    params: &MigrationParams,
    connections: &[Vec<u8>],
    beside: Option<(&Taped, &[u8], bool)>,
) -> (DestinationOutcome, Option<VmState>, Arc<Guest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    let again = connections[1..]
        .iter()
        .map(|_| TcpStream::connect(address).unwrap());
    let clients: Vec<_> = std::iter::once(first).chain(again).collect();
    let (near, far) = pair();
    let channels = beside.iter().filter_map(|(taped, ..)| taped.id).map(|id| {
        let socket = far.try_clone().unwrap();
        Channel { id, socket }
    });
    let (mut job, guest) = destination_job(params, memory, server, channels.collect());
    drop(far);
    job.recover = Some(listener);
    job.silence_limit_ms = PATIENT_MS;
    let control = Arc::clone(&job.control);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::scope(|scope| {
                if let Some((_, bytes, closes)) = beside {
                    let near = &near;
                    scope.spawn(move || fed(near, bytes, closes));
                }
                for (client, bytes) in clients.iter().zip(connections) {
                    scope.spawn(move || fed(client, bytes, true));
                }
            });
            let _ = control.abandon();
        });
        run_destination(job)
    });
    let committed = guest.committed.lock().unwrap().take();
    (outcome, committed, guest)
}

/// What must hold of every end. Whether the guest runs.
pub(crate) fn check(
    what: &str,
    memory: &GuestMemory,
    pages: &Possible,
    (outcome, committed, guest): (&DestinationOutcome, Option<&VmState>, &Guest),
) -> bool {
    let report = &outcome.report;
    assert_eq!(report.resumed_ns.is_some(), committed.is_some(), "{what}");
    let Some(state) = committed else {
        assert!(outcome.error.is_some() && !guest.running(), "{what}");
        return false;
    };
    let never_came = report
        .postcopy
        .as_ref()
        .map_or(0, |postcopy| postcopy.never_came);
    let runs = guest.running();
    assert_eq!(
        runs,
        outcome.error.is_none() || never_came == 0,
        "{what}: {:?}",
        report.error
    );
    if !runs {
        assert!(report.is_lost() && outcome.error.is_some(), "{what}");
        return false;
    }
    assert!(!report.is_lost(), "{what}");
    let overrun = report
        .postcopy
        .as_ref()
        .map_or(0, |postcopy| postcopy.overrun.unwrap_or(0));
    assert_eq!(overrun, 0, "{what}: pages were touched before they came");
    let may = wrong(memory, pages, state);
    let (least, most) = may.unwrap_or_else(|| panic!("{what}: a page is missing"));
    let bad = report.verification.as_ref().expect("compared").bad;
    assert!(
        (least..=most).contains(&bad),
        "{what}: {bad}, {least} to {most}"
    );
    true
}

#[test]
fn no_post_copy_brings_a_guest_that_is_none() {
    let memory = memory(5.0, random());
    let ways: Vec<_> = [("post-copy", post_copy(false)), ("a switch", hybrid())]
        .into_iter()
        .map(|(name, params)| {
            let bytes = recorded(&params, &memory).remove(0).there;
            let marks = boundaries(&bytes);
            assert_eq!(marks.last(), Some(&bytes.len()), "{name}");
            let whole = pulled(&memory, &params, std::slice::from_ref(&bytes));
            assert!(whole.whole, "{name}");
            (name, params, bytes, marks, whole.state.unwrap())
        })
        .collect();
    let (mut refused, mut lost, mut whole, mut recovered) = (0, 0, 0, 0);
    let tries = tries() * 2 / 10;
    for seed in 0..tries {
        let mut draw = Draw(seed ^ 0x9057);
        let of = draw.below(ways.len());
        let (name, params, bytes, marks, state) = &ways[of];
        let other = &ways[1 - of].2;
        let (damage, damaged) = mutated(&mut draw, bytes, marks, other);
        let mut connections = vec![damaged];
        let mut what = format!("seed {seed}, {name}: {damage}");
        // Recoveries: some damaged, then perhaps one that is not.
        for _ in 0..draw.below(3) {
            let again = recovery(&mut draw, &memory, params, state);
            let (damage, damaged) = mutated(&mut draw, &again, &boundaries(&again), bytes);
            connections.push(damaged);
            what = format!("{what}, again {damage}");
        }
        if draw.below(2) == 0 {
            connections.push(recovery(&mut draw, &memory, params, state));
            what = format!("{what}, again whole");
        }
        let began_ns = mono_ns();
        let (outcome, committed, guest) = feed(&memory, params, &connections, None);
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        let told = pulled(&memory, params, &connections);
        if let Some(committed) = &committed {
            assert_eq!(
                told.state.as_ref(),
                Some(committed),
                "{what}: took what is no guest"
            );
        }
        let pages = told
            .pages
            .iter()
            .map(|held| BTreeSet::from([*held]))
            .collect();
        let runs = check(
            &what,
            &memory,
            &pages,
            (&outcome, committed.as_ref(), &guest),
        );
        assert!(told.whole || !runs, "{what}: it runs without pages");
        // More bytes after the end are met before it or not; without its stream the guest may not be let go any more.
        let after = [
            "more after the end",
            "said twice",
            "the rest of another format",
        ];
        let refusable = after.contains(&damage) && outcome.report.postcopy.is_none();
        assert!(
            runs || !told.whole || refusable,
            "{what}: {:?}",
            outcome.report.error
        );
        let again = connections.len() > 1 && !pulled(&memory, params, &connections[..1]).whole;
        match (committed.is_some(), runs) {
            (false, _) => refused += 1,
            (true, false) => lost += 1,
            (true, true) if again => recovered += 1,
            (true, true) => whole += 1,
        }
    }
    assert!(recovered > 0, "no recovery was of use");
    println!(
        "{tries} post-copies into a destination: {refused} refused, {lost} lost and given up, {whole} whole, {recovered} whole after a recovery"
    );
}
