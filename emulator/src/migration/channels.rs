//! A migration's connections: the main one and those beside it, on one listening port.
//!
//! Inside: making and accepting them, bounded in time, and refusing whatever else calls. The main one
//! begins with the stream's header, each other one with a hello (`wire::hello`). Never inside: what
//! they carry.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::wire::MAGIC;
use super::wire::hello::{ChannelId, HELLO_BYTES, HELLO_MAGIC, Hello};
use crate::clock::{mono_ns, sleep_until};

/// How long the others may take once the first has come; twice what connecting may.
pub const GATHER_LIMIT: Duration = Duration::from_secs(20);
/// How often a wait looks whether it should go on.
const LOOK: u16 = 100;
/// Callers that have not said who they are, beyond those expected.
const STRANGERS_MAX: usize = 8;

/// One of the connections beside the main one.
#[derive(Debug)]
pub struct Channel {
    /// Which.
    pub id: ChannelId,
    /// The connection, its hello said or read.
    pub socket: TcpStream,
}

/// Those a destination has accepted; channels in the order of what was expected.
#[derive(Debug)]
pub struct Connections {
    /// The main stream, nothing read of it.
    pub main: TcpStream,
    /// The others.
    pub channels: Vec<Channel>,
}

/// A channel could not be opened.
#[derive(Debug, Error)]
#[error("{channel}")]
pub struct OpenError {
    channel: ChannelId,
    #[source]
    source: io::Error,
}

/// Connections that did not come.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The listening socket's.
    #[error("accept")]
    Io(#[source] io::Error),
    /// Told to stop waiting.
    #[error("abandoned before the source came")]
    Stopped,
    /// Not all in time.
    #[error("{ms} ms after the first connection these had not come: {missing}")]
    Missing {
        /// The limit.
        ms: u64,
        /// Which.
        missing: String,
    },
    /// One that was to come later.
    #[error("within {ms} ms there was no {channel}")]
    Late {
        /// The limit.
        ms: u64,
        /// Which.
        channel: ChannelId,
    },
}

/// Opens the channels `ids`, all at once, and says the hello on each. `connect` gives a connection to
/// the destination.
///
/// # Errors
/// Of the first that cannot be had; those opened are closed again.
pub fn open_all(
    migration: u32,
    vm_key: u64,
    ids: &[ChannelId],
    connect: impl Fn() -> io::Result<TcpStream> + Sync,
) -> Result<Vec<Channel>, OpenError> {
    let open = |channel: ChannelId| {
        let attempt = || {
            let mut socket = connect()?;
            let hello = Hello {
                migration,
                vm_key,
                channel,
            };
            socket.set_nodelay(true)?;
            socket.write_all(&hello.encode())?;
            Ok(socket)
        };
        match attempt() {
            Ok(socket) => Ok(Channel {
                id: channel,
                socket,
            }),
            Err(source) => Err(OpenError { channel, source }),
        }
    };
    std::thread::scope(|scope| {
        let opening: Vec<_> = ids
            .iter()
            .map(|&id| scope.spawn(move || open(id)))
            .collect();
        opening
            .into_iter()
            .map(|thread| thread.join().expect("connecting does not panic"))
            .collect()
    })
}

/// What a caller turned out to be.
enum Caller {
    /// Has not said enough yet.
    Silent,
    Main,
    Channel(ChannelId),
    Stranger,
}

/// Those come so far.
struct Gathering<'a> {
    migration: u32,
    vm_key: u64,
    ids: &'a [ChannelId],
    waiting: Vec<TcpStream>,
    main: Option<TcpStream>,
    channels: BTreeMap<ChannelId, TcpStream>,
}

/// Accepts the main connection of a migration and its channels `ids`, in whatever order they come, and
/// closes all others. Waits for the first until `stopped` says otherwise, for the rest at most `limit`.
///
/// # Errors
/// When it was stopped, or some did not come.
pub fn accept_all(
    listener: &TcpListener,
    migration: u32,
    vm_key: u64,
    ids: &[ChannelId],
    limit: Duration,
    stopped: impl Fn() -> bool,
) -> Result<Connections, AcceptError> {
    listener.set_nonblocking(true).map_err(AcceptError::Io)?;
    let mut gathering = Gathering {
        migration,
        vm_key,
        ids,
        waiting: Vec::new(),
        main: None,
        channels: BTreeMap::new(),
    };
    let mut first_ns = None;
    loop {
        gathering.wait(listener)?;
        if stopped() {
            return Err(AcceptError::Stopped);
        }
        gathering.accept(listener)?;
        if !gathering.sort() {
            // Some have said a part of it: what wakes `wait` is there already.
            sleep_until(mono_ns() + 1_000_000);
        }
        if gathering.missing().next().is_none()
            && let Some(main) = gathering.main.take()
        {
            return gathering.whole(main).map_err(AcceptError::Io);
        }
        // A stranger is no beginning: the source may still be preparing.
        let begun = gathering.main.is_some() || !gathering.channels.is_empty();
        if begun {
            let began_ns = *first_ns.get_or_insert_with(mono_ns);
            if mono_ns().saturating_sub(began_ns)
                >= u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)
            {
                return Err(gathering.incomplete(limit));
            }
        }
    }
}

/// Accepts one further connection of a migration that is under way, within `limit`, and closes all others.
///
/// # Errors
/// When it was stopped, or did not come.
pub fn accept_one(
    listener: &TcpListener,
    migration: u32,
    vm_key: u64,
    id: ChannelId,
    limit: Duration,
    stopped: impl Fn() -> bool,
) -> Result<Channel, AcceptError> {
    listener.set_nonblocking(true).map_err(AcceptError::Io)?;
    let mut gathering = Gathering {
        migration,
        vm_key,
        ids: &[id],
        waiting: Vec::new(),
        main: None,
        channels: BTreeMap::new(),
    };
    let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    let until_ns = mono_ns().saturating_add(limit_ns);
    loop {
        gathering.wait(listener)?;
        if stopped() {
            return Err(AcceptError::Stopped);
        }
        gathering.accept(listener)?;
        if !gathering.sort() {
            sleep_until(mono_ns() + 1_000_000);
        }
        gathering.main = None; // there is one already
        if let Some(socket) = gathering.channels.remove(&id) {
            socket.set_nonblocking(false).map_err(AcceptError::Io)?;
            return Ok(Channel { id, socket });
        }
        if mono_ns() >= until_ns {
            return Err(AcceptError::Late {
                ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                channel: id,
            });
        }
    }
}

impl Gathering<'_> {
    /// Until somebody calls or speaks, or a while has passed.
    fn wait(&self, listener: &TcpListener) -> Result<(), AcceptError> {
        let mut fds: Vec<_> = std::iter::once(listener.as_fd())
            .chain(self.waiting.iter().map(AsFd::as_fd))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::from(LOOK)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(errno) => Err(AcceptError::Io(errno.into())),
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<(), AcceptError> {
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true).map_err(AcceptError::Io)?;
                    self.waiting.push(socket);
                    // The longest silent one gives way.
                    if self.waiting.len() > self.ids.len() + 1 + STRANGERS_MAX {
                        self.waiting.remove(0);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    // A caller that is gone already, or a signal.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => return Err(AcceptError::Io(error)),
                },
            }
        }
    }

    /// Finds out who the callers are; whether none is left that has said a part of it only.
    fn sort(&mut self) -> bool {
        let mut still = Vec::new();
        let mut partly = false;
        for socket in std::mem::take(&mut self.waiting) {
            let (caller, heard) = self.identify(&socket);
            match caller {
                Caller::Silent => {
                    partly |= heard;
                    still.push(socket);
                }
                Caller::Main => self.main = Some(socket),
                Caller::Channel(id) => {
                    self.channels.insert(id, socket);
                }
                Caller::Stranger => drop(socket),
            }
        }
        self.waiting = still;
        !partly
    }

    /// Who it is, and whether it has said anything. Takes a hello off the socket, and nothing else.
    fn identify(&self, mut socket: &TcpStream) -> (Caller, bool) {
        let mut bytes = [0; HELLO_BYTES];
        let heard = match socket.peek(&mut bytes) {
            Ok(0) => return (Caller::Stranger, true),
            Ok(heard) => heard,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (Caller::Silent, false),
            Err(_) => return (Caller::Stranger, true),
        };
        let Some(magic) = bytes[..heard].first_chunk().map(|m| u32::from_be_bytes(*m)) else {
            return (Caller::Silent, true);
        };
        if magic == MAGIC && self.main.is_none() {
            return (Caller::Main, true);
        }
        if magic != HELLO_MAGIC {
            return (Caller::Stranger, true);
        }
        if heard < HELLO_BYTES {
            return (Caller::Silent, true);
        }
        let own = Hello::decode(&bytes).filter(|hello| {
            (hello.migration, hello.vm_key) == (self.migration, self.vm_key)
                && self.ids.contains(&hello.channel)
                && !self.channels.contains_key(&hello.channel)
        });
        match own {
            Some(hello) if socket.read_exact(&mut bytes).is_ok() => {
                (Caller::Channel(hello.channel), true)
            }
            _ => (Caller::Stranger, true),
        }
    }

    fn missing(&self) -> impl Iterator<Item = &ChannelId> {
        let come = |id: &&ChannelId| !self.channels.contains_key(*id);
        self.ids.iter().filter(come)
    }

    fn incomplete(&self, limit: Duration) -> AcceptError {
        let main = self.main.is_none().then(|| "the main stream".to_owned());
        let channels = self.missing().map(ChannelId::to_string);
        let missing: Vec<_> = main.into_iter().chain(channels).collect();
        AcceptError::Missing {
            ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            missing: missing.join(", "),
        }
    }

    fn whole(mut self, main: TcpStream) -> io::Result<Connections> {
        main.set_nonblocking(false)?;
        let mut channels = Vec::with_capacity(self.ids.len());
        for &id in self.ids {
            if let Some(socket) = self.channels.remove(&id) {
                socket.set_nonblocking(false)?;
                channels.push(Channel { id, socket });
            }
        }
        Ok(Connections { main, channels })
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::hello::ChannelKind;
    use super::*;

    fn ids(count: u8) -> Vec<ChannelId> {
        let id = |number| ChannelId {
            kind: ChannelKind::Multifd,
            number,
        };
        (0..count).map(id).collect()
    }

    fn listener() -> (TcpListener, impl Fn() -> io::Result<TcpStream> + Sync) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, move || TcpStream::connect(address))
    }

    fn accept(
        listener: &TcpListener,
        ids: &[ChannelId],
        ms: u64,
    ) -> Result<Connections, AcceptError> {
        accept_all(listener, 5, 9, ids, Duration::from_millis(ms), || false)
    }

    #[test]
    fn channels_come_in_any_order_and_strangers_are_turned_away() {
        let (listener, connect) = listener();
        let (ids, four) = (ids(3), ids(4));
        let mut stranger = connect().unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let silent = connect().unwrap();
        // Of another migration, of another guest, a number too many, the same one again.
        let others = [
            open_all(6, 9, &ids[..1], &connect).unwrap(),
            open_all(5, 8, &ids[..1], &connect).unwrap(),
            open_all(5, 9, &four[3..], &connect).unwrap(),
        ];
        let mut own = open_all(5, 9, &ids, &connect).unwrap();
        let again = open_all(5, 9, &ids[1..2], &connect).unwrap();
        let mut main = connect().unwrap();
        main.write_all(&MAGIC.to_be_bytes()).unwrap();
        let mut accepted = accept(&listener, &ids, 5000).unwrap();
        drop((silent, others, again));
        let numbers: Vec<_> = accepted.channels.iter().map(|c| c.id.number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        // Each is the one it says it is; the hello is off it.
        for (source, destination) in own.iter_mut().zip(&mut accepted.channels) {
            source.socket.write_all(&[source.id.number]).unwrap();
            let mut byte = [9];
            destination.socket.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], destination.id.number);
        }
        let mut magic = [0; 4];
        accepted.main.read_exact(&mut magic).unwrap();
        assert_eq!(u32::from_be_bytes(magic), MAGIC);
        // The stranger's connection is closed: what it sent was not read, so it may be a reset.
        assert!(matches!(stranger.read(&mut magic), Ok(0) | Err(_)));
    }

    #[test]
    fn what_does_not_come_is_named_and_not_waited_for_for_ever() {
        let (listener, connect) = listener();
        let ids = ids(2);
        let own = open_all(5, 9, &ids[..1], &connect).unwrap();
        let error = accept(&listener, &ids, 200).unwrap_err().to_string();
        drop(own);
        assert!(
            error.contains("the main stream, multifd channel 1") && !error.contains("channel 0"),
            "{error}"
        );
    }

    #[test]
    fn a_later_connection_is_told_from_strangers_and_not_waited_for_for_ever() {
        let (listener, connect) = listener();
        let (own, other) = (ids(1)[0], ids(2)[1]);
        let accept = |ms| accept_one(&listener, 5, 9, own, Duration::from_millis(ms), || false);
        // Another one, one of another migration, and a second main stream.
        let others = [
            open_all(5, 9, &[other], &connect).unwrap(),
            open_all(6, 9, &[own], &connect).unwrap(),
        ];
        let mut main = connect().unwrap();
        main.write_all(&MAGIC.to_be_bytes()).unwrap();
        let error = accept(100).unwrap_err().to_string();
        assert!(error.contains("no multifd channel 0"), "{error}");
        let mut source = open_all(5, 9, &[own], &connect).unwrap();
        let mut accepted = accept(10_000).unwrap();
        drop((others, main));
        source[0].socket.write_all(b"x").unwrap();
        let mut byte = [0];
        accepted.socket.read_exact(&mut byte).unwrap();
        assert_eq!((accepted.id, byte), (own, *b"x"));
    }

    #[test]
    fn nobody_comes_until_it_is_stopped() {
        let (listener, _) = listener();
        let began_ns = mono_ns();
        let stopped = || mono_ns() > began_ns + 150_000_000;
        let error = accept_all(&listener, 5, 9, &[], Duration::from_millis(1), stopped);
        assert!(matches!(error, Err(AcceptError::Stopped)));
    }

    #[test]
    fn all_channels_that_qemu_allows_fit_in_the_backlog_at_once() {
        let (listener, connect) = listener();
        let ids = ids(255);
        let accepted = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| accept(&listener, &ids, 10_000));
            let own = open_all(5, 9, &ids, &connect).unwrap();
            let mut main = connect().unwrap();
            main.write_all(&MAGIC.to_be_bytes()).unwrap();
            drop(own);
            accepting.join().unwrap().unwrap()
        });
        assert_eq!(accepted.channels.len(), 255);
    }
}
