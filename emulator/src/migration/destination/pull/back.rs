//! The way back to the source of a destination whose guest runs. Never inside: what is said, and when.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The connection, while there is one, and whether RAM has been named on it: a request says whose pages it means once.
#[derive(Default)]
pub(super) struct Back(Mutex<(Option<TcpStream>, bool)>);

impl Back {
    fn lock(&self) -> MutexGuard<'_, (Option<TcpStream>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect(&self, socket: &TcpStream) -> std::io::Result<()> {
        *self.lock() = (Some(socket.try_clone()?), false);
        Ok(())
    }

    pub(super) fn disconnect(&self) {
        self.lock().0 = None;
    }

    /// Best effort: a connection that does not take it is broken, which whoever reads it finds out.
    pub(super) fn say(&self, put: impl FnOnce(&mut Vec<u8>, &mut bool)) {
        let mut guard = self.lock();
        let (connection, named) = &mut *guard;
        let Some(socket) = connection else {
            return;
        };
        let mut bytes = Vec::with_capacity(32);
        put(&mut bytes, named);
        if socket.write_all(&bytes).is_err() {
            *connection = None;
        }
    }
}
