//! The end that answers. Connections last as long as the service: they move with their VM.

use super::{CHUNK, HEADER, MakeWork, ServiceError, THREAD_STACK, Work};
use crate::agent::net;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// An answering VM's listener and connections. Dropping it closes all.
pub(in crate::agent) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    work: MakeWork,
    gone: AtomicBool,
    /// To be shut down from outside.
    connections: Mutex<Vec<TcpStream>>,
}

impl Server {
    pub(super) fn open(
        work: MakeWork,
        at: SocketAddr,
        congestion: &str,
    ) -> Result<Self, ServiceError> {
        let listener = net::listen(at, congestion)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            work,
            gone: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("serve".to_owned())
            .stack_size(THREAD_STACK)
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self {
            shared,
            address,
            acceptor: Some(acceptor),
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
        // The acceptor waits for a connection: give it one, and let it end before connections are
        // shut, so that none is missed.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let connections = &self.shared.connections;
        for stream in connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.gone.load(Ordering::Acquire) {
            return;
        }
        let Ok(held) = stream.try_clone() else {
            continue;
        };
        let work = (shared.work)();
        let thread = std::thread::Builder::new()
            .name("answer".to_owned())
            .stack_size(THREAD_STACK)
            // A connection ends when the client closes it, or the service does; both show at the client.
            .spawn(move || drop(serve(stream, work)));
        if thread.is_ok() {
            let mut connections = shared.connections.lock();
            let connections = connections.as_mut();
            if let Ok(connections) = connections {
                connections.push(held);
            }
        }
    }
}

fn serve(mut stream: TcpStream, mut work: Work) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let mut header = [0u8; HEADER];
        stream.read_exact(&mut header)?;
        let [a, b, c, d, e, f, g, h, cpu @ ..] = header;
        let length = |bytes| u32::from_be_bytes(bytes) as usize;
        let (asked, answer) = (length([a, b, c, d]), length([e, f, g, h]));
        pass(asked, |part| stream.read_exact(&mut buffer[..part]))?;
        if !work(u64::from_be_bytes(cpu)) {
            return Ok(());
        }
        pass(answer, |part| stream.write_all(&buffer[..part]))?;
    }
}

/// Does something of `length` bytes, a chunk at a time.
pub(super) fn pass(length: usize, mut part: impl FnMut(usize) -> io::Result<()>) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let now = left.min(CHUNK);
        part(now)?;
        left -= now;
    }
    Ok(())
}
