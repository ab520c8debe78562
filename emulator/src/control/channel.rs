//! Framing: tokio's side for `migbed` and `machine`, a blocking side for agents, whose threads are
//! few and whose commit record must be on the socket before the guest runs.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// The largest control message. The largest one sent is a source's report: rounds, decisions and
/// TCP samples are bounded to a few thousand entries of under 100 bytes.
const MAX_FRAME: usize = 16 << 20;

/// A control message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The message.
    #[error("control message: {0}")]
    Message(#[from] postcard::Error),
    /// The peer speaks another version.
    #[error("control protocol {theirs}, this migbed speaks {ours}; both ends must be one build")]
    Version {
        /// Theirs.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
}

fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME)
        .new_codec()
}

/// Typed messages in length-delimited frames: `S` is sent, `R` received.
#[derive(Debug)]
pub struct MessageCodec<S, R> {
    frames: LengthDelimitedCodec,
    types: PhantomData<fn(&S) -> R>,
}

impl<S, R> Default for MessageCodec<S, R> {
    fn default() -> Self {
        Self {
            frames: framing(),
            types: PhantomData,
        }
    }
}

impl<S: Serialize, R> Encoder<&S> for MessageCodec<S, R> {
    type Error = ControlError;

    fn encode(&mut self, message: &S, to: &mut BytesMut) -> Result<(), ControlError> {
        let body = Bytes::from(postcard::to_stdvec(message)?);
        Ok(self.frames.encode(body, to)?)
    }
}

impl<S, R: DeserializeOwned> Decoder for MessageCodec<S, R> {
    type Item = R;
    type Error = ControlError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<R>, ControlError> {
        match self.frames.decode(from)? {
            Some(frame) => Ok(Some(postcard::from_bytes(&frame)?)),
            None => Ok(None),
        }
    }
}

/// The sending half for threads: every message is on the socket when `send` returns.
#[derive(Debug)]
pub struct BlockingSender {
    socket: Mutex<StdUnixStream>,
}

impl BlockingSender {
    /// Wraps a connected, blocking socket.
    #[must_use]
    pub fn new(socket: StdUnixStream) -> Self {
        Self {
            socket: Mutex::new(socket),
        }
    }

    /// Writes one message.
    ///
    /// # Errors
    /// When the peer has gone, or the message is over the bound.
    pub fn send<S: Serialize>(&self, message: &S) -> Result<(), ControlError> {
        let mut frame = BytesMut::new();
        MessageCodec::<S, ()>::default().encode(message, &mut frame)?;
        let mut socket = self
            .socket
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(socket.write_all(&frame)?)
    }
}

/// The receiving half for threads.
#[derive(Debug)]
pub struct BlockingReceiver<R> {
    socket: StdUnixStream,
    codec: MessageCodec<(), R>,
    buffer: BytesMut,
}

impl<R: DeserializeOwned> BlockingReceiver<R> {
    /// Wraps a connected, blocking socket.
    #[must_use]
    pub fn new(socket: StdUnixStream) -> Self {
        Self {
            socket,
            codec: MessageCodec::default(),
            buffer: BytesMut::new(),
        }
    }

    /// The next message; `None` when the peer has closed.
    ///
    /// # Errors
    /// When the socket fails or the message is not one of ours.
    pub fn recv(&mut self) -> Result<Option<R>, ControlError> {
        let mut chunk = [0u8; 16 << 10];
        loop {
            if let Some(message) = self.codec.decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match self.socket.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The sending half for tasks.
#[derive(Debug)]
pub struct Sender<S> {
    socket: OwnedWriteHalf,
    codec: MessageCodec<S, ()>,
    frame: BytesMut,
}

/// The receiving half for tasks.
#[derive(Debug)]
pub struct Receiver<R> {
    socket: OwnedReadHalf,
    codec: MessageCodec<(), R>,
    buffer: BytesMut,
}

/// Both halves of a connected socket, for tasks of the current runtime.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub fn split<S, R>(socket: StdUnixStream) -> Result<(Sender<S>, Receiver<R>), ControlError> {
    socket.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(socket)?.into_split();
    let sender = Sender {
        socket: write,
        codec: MessageCodec::default(),
        frame: BytesMut::new(),
    };
    let receiver = Receiver {
        socket: read,
        codec: MessageCodec::default(),
        buffer: BytesMut::new(),
    };
    Ok((sender, receiver))
}

impl<S: Serialize> Sender<S> {
    /// Writes one message.
    ///
    /// # Errors
    /// When the peer has gone, or the message is over the bound.
    pub async fn send(&mut self, message: &S) -> Result<(), ControlError> {
        self.frame.clear();
        self.codec.encode(message, &mut self.frame)?;
        Ok(self.socket.write_all(&self.frame).await?)
    }
}

impl<R: DeserializeOwned> Receiver<R> {
    /// The next message; `None` when the peer has closed. Cancel-safe.
    ///
    /// # Errors
    /// When the socket fails or the message is not one of ours.
    pub async fn recv(&mut self) -> Result<Option<R>, ControlError> {
        loop {
            if let Some(message) = self.codec.decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The control socket a hidden subcommand was started with: its standard input.
///
/// # Errors
/// When the program was started by hand.
pub fn inherited() -> Result<StdUnixStream, ControlError> {
    let owned = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = StdUnixStream::from(owned);
    // Fails on anything but a socket.
    socket.peer_addr()?;
    Ok(socket)
}

/// Refuses a peer of another version.
///
/// # Errors
/// When the versions differ.
pub fn check_protocol(theirs: u16) -> Result<(), ControlError> {
    let ours = super::message::PROTOCOL;
    if theirs == ours {
        Ok(())
    } else {
        Err(ControlError::Version { theirs, ours })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{FromAgent, ToAgent};
    use crate::ids::MigrationId;
    use proptest::prelude::*;

    #[test]
    fn messages_cross_a_socketpair_in_order() {
        let (a, b) = StdUnixStream::pair().unwrap();
        let sender = BlockingSender::new(a);
        for n in 0..100 {
            sender
                .send(&ToAgent::CancelMigration(MigrationId(n)))
                .unwrap();
        }
        drop(sender);
        let mut receiver = BlockingReceiver::<ToAgent>::new(b);
        for n in 0..100 {
            match receiver.recv().unwrap() {
                Some(ToAgent::CancelMigration(id)) => assert_eq!(id, MigrationId(n)),
                other => panic!("{other:?}"),
            }
        }
        assert!(receiver.recv().unwrap().is_none());
    }

    #[test]
    fn another_version_is_refused() {
        let error = check_protocol(9).unwrap_err().to_string();
        assert!(error.contains("protocol 9"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut codec = MessageCodec::<(), FromAgent>::default();
            while let Ok(Some(_)) = codec.decode(&mut buffer) {}
        }
    }
}
