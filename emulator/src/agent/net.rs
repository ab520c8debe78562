//! Data sockets of an agent: real TCP in its own namespace, with the congestion control the
//! scenario names, whatever the kernel's default is.

use crate::migration::params::KeepAlive;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// A connection within an emulated data centre that is not there after this long will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A data socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {address} (congestion control {congestion}): {errno}")]
pub(super) struct SocketError {
    /// What was tried.
    doing: &'static str,
    address: SocketAddr,
    congestion: String,
    #[source]
    pub(super) errno: nix::Error,
}

/// A TCP socket whose congestion control is set before it does anything: one that began as bbr
/// would stay paced after a change.
fn tcp_socket(address: SocketAddr, congestion: &str) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::TcpCongestion, &OsString::from(congestion))?;
    Ok(fd)
}

/// Connects to `to`.
///
/// # Errors
/// When the peer does not answer in 10 s, refuses, or the congestion control is not allowed.
pub(super) fn connect(to: SocketAddr, congestion: &str) -> Result<TcpStream, SocketError> {
    let seconds = i64::try_from(CONNECT_TIMEOUT.as_secs()).unwrap_or(10);
    let attempt = || -> nix::Result<TcpStream> {
        let fd = tcp_socket(to, congestion)?;
        // connect(2) is bounded by the send timeout.
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(seconds))?;
        match to {
            SocketAddr::V4(v4) => socket::connect(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
            SocketAddr::V6(v6) => socket::connect(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
        }
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(0))?;
        Ok(TcpStream::from(fd))
    };
    attempt().map_err(|errno| SocketError {
        doing: "connect to",
        address: to,
        congestion: congestion.to_owned(),
        errno,
    })
}

/// The same for a migration: the kernel is told when to count the connection as dead.
///
/// # Errors
/// As [`connect`]'s, or when the kernel refuses a value.
pub(super) fn dial(
    to: SocketAddr,
    congestion: &str,
    asked: KeepAlive,
) -> Result<TcpStream, SocketError> {
    let socket = connect(to, congestion)?;
    keep_alive(&socket, asked).map_err(|errno| SocketError {
        doing: "set keep-alive of the connection to",
        address: to,
        congestion: congestion.to_owned(),
        errno,
    })?;
    Ok(socket)
}

/// Listens at `at` (port 0: any).
///
/// # Errors
/// When the address is not ours or the congestion control is not allowed.
pub(super) fn listen(at: SocketAddr, congestion: &str) -> Result<TcpListener, SocketError> {
    let attempt = || -> nix::Result<TcpListener> {
        let fd = tcp_socket(at, congestion)?;
        match at {
            SocketAddr::V4(v4) => socket::bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
            SocketAddr::V6(v6) => socket::bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
        }
        // As many as a service may have connections: a SYN that finds no room is sent again after 1 s.
        socket::listen(&fd, Backlog::new(256)?)?;
        Ok(TcpListener::from(fd))
    };
    attempt().map_err(|errno| SocketError {
        doing: "listen at",
        address: at,
        congestion: congestion.to_owned(),
        errno,
    })
}

/// When the kernel is to count a connection as dead. What is accepted has it of its listening socket.
///
/// # Errors
/// When the kernel refuses a value.
pub(super) fn keep_alive(fd: &impl AsFd, asked: KeepAlive) -> nix::Result<()> {
    if asked.on {
        setsockopt(fd, sockopt::KeepAlive, &true)?;
        if let Some(count) = asked.count {
            setsockopt(fd, sockopt::TcpKeepCount, &count)?;
        }
        if let Some(s) = asked.idle_s {
            setsockopt(fd, sockopt::TcpKeepIdle, &s)?;
        }
        if let Some(s) = asked.interval_s {
            setsockopt(fd, sockopt::TcpKeepInterval, &s)?;
        }
    }
    if let Some(ms) = asked.user_timeout_ms {
        setsockopt(fd, sockopt::TcpUserTimeout, &ms)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn both_ends_use_the_congestion_control_asked_for() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), "reno").unwrap();
        let mut client = connect(listener.local_addr().unwrap(), "reno").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        for end in [&client, &server] {
            let name = socket::getsockopt(end, sockopt::TcpCongestion).unwrap();
            assert!(name.to_string_lossy().starts_with("reno"), "{name:?}");
        }
    }

    #[test]
    fn what_is_accepted_is_kept_alive_as_its_listener() {
        let asked = KeepAlive {
            on: true,
            count: Some(3),
            idle_s: Some(7),
            interval_s: Some(2),
            user_timeout_ms: Some(4321),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap(), "reno").unwrap();
        keep_alive(&listener, asked).unwrap();
        let client = connect(listener.local_addr().unwrap(), "reno").unwrap();
        let plain = socket::getsockopt(&client, sockopt::KeepAlive).unwrap();
        assert!(!plain, "the kernel probes nothing by itself");
        keep_alive(&client, asked).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            assert!(socket::getsockopt(end, sockopt::KeepAlive).unwrap());
            assert_eq!(socket::getsockopt(end, sockopt::TcpKeepCount), Ok(3));
            assert_eq!(socket::getsockopt(end, sockopt::TcpKeepIdle), Ok(7));
            assert_eq!(socket::getsockopt(end, sockopt::TcpKeepInterval), Ok(2));
            assert_eq!(socket::getsockopt(end, sockopt::TcpUserTimeout), Ok(4321));
        }
    }

    #[test]
    fn an_unknown_congestion_control_is_named() {
        let error = listen("127.0.0.1:0".parse().unwrap(), "nosuch")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("nosuch") && error.contains("127.0.0.1"),
            "{error}"
        );
    }
}
