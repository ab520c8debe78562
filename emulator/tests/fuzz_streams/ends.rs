//! The two ends of a migration, and what they said to each other, recorded between them.
//!
//! Never inside: damage.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use migbed::clock::mono_ns;
use migbed::migration::channels::Channel;
use migbed::migration::destination::{DestinationControl, DestinationJob, run_destination};
use migbed::migration::engine::EngineUnits;
use migbed::migration::guest::{DestinationGuest, GuestMemory, SourceGuest};
use migbed::migration::params::{EngineKind, MigrationParams};
use migbed::migration::source::{NoObserver, SourceEnd, SourceJob, run_source};
use migbed::migration::wire::hello::ChannelId;

use crate::guest::Guest;

/// Pages of a multifd packet here: so that there are many.
pub(crate) const PACKET_PAGES: usize = 8;

/// Longer than a busy computer keeps any thread waiting.
pub(crate) const PATIENT_MS: u64 = 10_000;

/// A few slices and a few passes.
pub(crate) fn of_engine(engine: EngineKind) -> MigrationParams {
    MigrationParams {
        engine,
        device_state_bytes: 3000,
        max_bandwidth: 4_000_000,
        downtime_limit: 30,
        ..MigrationParams::default()
    }
}

pub(crate) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

pub(crate) fn source_job(
    params: &MigrationParams,
    memory: &GuestMemory,
    socket: TcpStream,
    channels: Vec<Channel>,
) -> (SourceJob, Arc<Guest>) {
    let guest = Arc::new(Guest::default());
    guest.resume();
    let job = SourceJob {
        redial: None,
        migration: 1,
        params: params.clone(),
        guest: Arc::clone(&guest) as Arc<dyn SourceGuest>,
        memory: memory.clone(),
        ram: None,
        socket,
        channels,
        congestion: None,
        control: Arc::default(),
        chunk_pages: 64,
        units: EngineUnits {
            check_pages: 64,
            stop_pages: 10,
            rounds_stop_pages: 10,
        },
        xen_batch_pages: 32,
        packet_pages: PACKET_PAGES,
        data_chunk_pages: 16,
        batch_pages: 32,
        acknowledge_limit_ms: 60,
        deadline_ns: Some(mono_ns() + 10_000_000_000),
        faults: Vec::new(),
    };
    (job, guest)
}

pub(crate) fn destination_job(
    params: &MigrationParams,
    memory: &GuestMemory,
    socket: TcpStream,
    channels: Vec<Channel>,
) -> (DestinationJob, Arc<Guest>) {
    let guest = Arc::new(Guest::default());
    let job = DestinationJob {
        postcopy: params.postcopy,
        recover: None,
        migration: 1,
        memory: memory.clone(),
        ram: None,
        load_time_ms: 0,
        guest: Arc::clone(&guest) as Arc<dyn DestinationGuest>,
        socket,
        channels,
        streams: params.streams(),
        packet_pages: PACKET_PAGES,
        congestion: None,
        control: Arc::<DestinationControl>::default(),
        silence_limit_ms: 200,
    };
    (job, guest)
}

/// One connection, as it was.
#[derive(Debug, Clone)]
pub(crate) struct Taped {
    /// `None`: the main one.
    pub(crate) id: Option<ChannelId>,
    pub(crate) there: Vec<u8>,
    pub(crate) back: Vec<u8>,
}

/// Passes on what comes until it ends, and keeps it.
fn tap(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    let (mut taken, mut piece) = (Vec::new(), vec![0; 65_536]);
    while let Ok(bytes @ 1..) = from.read(&mut piece) {
        taken.extend_from_slice(&piece[..bytes]);
        if to.write_all(&piece[..bytes]).is_err() {
            break;
        }
    }
    // The peer may have closed first.
    let _ = to.shutdown(Shutdown::Write);
    taken
}

/// A whole migration, verified: the main connection, then the channels.
pub(crate) fn recorded(params: &MigrationParams, memory: &GuestMemory) -> Vec<Taped> {
    let ids: Vec<_> = std::iter::once(None)
        .chain(params.channels().into_iter().map(Some))
        .collect();
    let (mut here, mut there, mut taps) = (Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        let ((client, near), (far, server)) = (pair(), pair());
        let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        taps.push((
            id,
            std::thread::spawn(move || tap(near, far)),
            std::thread::spawn(move || tap(far_back, near_back)),
        ));
        here.push((id, client));
        there.push((id, server));
    }
    let split = |sockets: Vec<(Option<ChannelId>, TcpStream)>| {
        let mut sockets = sockets.into_iter();
        let (_, main) = sockets.next().unwrap();
        let channels = sockets.filter_map(|(id, socket)| id.map(|id| Channel { id, socket }));
        (main, channels.collect::<Vec<_>>())
    };
    let (main, channels) = split(here);
    let (mut source, _) = source_job(params, memory, main, channels);
    // Nobody is damaged here, and everybody is waited for.
    source.acknowledge_limit_ms = PATIENT_MS;
    let (main, channels) = split(there);
    let (mut destination, _) = destination_job(params, memory, main, channels);
    destination.silence_limit_ms = PATIENT_MS;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || run_destination(destination));
        let sent = run_source(&source, &NoObserver);
        drop(source);
        let received = receiving.join().unwrap();
        assert_eq!(sent.end, SourceEnd::Completed, "{:?}", sent.report.error);
        assert_eq!(received.report.verification.unwrap().bad, 0);
    });
    taps.into_iter()
        .map(|(id, there, back)| Taped {
            id,
            there: there.join().unwrap(),
            back: back.join().unwrap(),
        })
        .collect()
}

/// Says `bytes`, and then closes or says no more; hears until the peer closes.
pub(crate) fn fed(socket: &TcpStream, bytes: &[u8], closes: bool) {
    let mut stream = socket;
    // A destination that has seen enough closes.
    let _ = stream.write_all(bytes);
    if closes {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
}
