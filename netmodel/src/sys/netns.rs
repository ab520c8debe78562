//! Namespaces, held by descriptors and gone with them.
//!
//! A user namespace can be entered only while the process has one thread, and a network namespace belongs to a thread,
//! not to a process: so `enter_machine` comes first in main, and everything in another namespace runs on a thread made for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid};

/// Why a namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The kernel refused new namespaces.
    #[error(
        "cannot create {what} namespaces: {source}; `migbed doctor` shows which setting forbids it"
    )]
    Unshare {
        /// Which kinds.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The first process of the new namespaces could not be made.
    #[error("cannot start the first process of the new namespaces: {source}")]
    Fork {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The mapping of users could not be written.
    #[error("cannot write {path}: {source}")]
    Map {
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace of a process or thread cannot be opened.
    #[error("cannot open the network namespace {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace could not be entered.
    #[error("cannot enter a network namespace: {source}")]
    Enter {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Puts the caller into new user, network and PID namespaces, as root and as process 1 there.
///
/// The process must have one thread. It forks: the child returns and goes on as process 1, whose end is the end of every
/// process in the namespace; the parent only waits for it and exits with its status. (Without the fork the kernel would
/// refuse threads.) The child is killed when the parent is. /proc still shows the outer PIDs, so use `/proc/self` and
/// `/proc/thread-self` in there, and pass descriptors rather than PIDs.
///
/// # Errors
/// [`NetnsError`]; the process should then exit.
pub fn enter_machine() -> Result<(), NetnsError> {
    let (uid, gid) = (geteuid(), getegid());
    let kinds = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    unshare(kinds).map_err(|e| NetnsError::Unshare {
        what: "user, network and PID",
        source: e.into(),
    })?;
    // An ordinary user may map its own group only after giving up setgroups.
    write_map("/proc/self/setgroups", "deny")?;
    write_map("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write_map("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    // SAFETY: the process has one thread (unshare would have refused otherwise), so the child inherits no lock that
    // another thread holds.
    match unsafe { fork() }.map_err(|e| NetnsError::Fork { source: e.into() })? {
        ForkResult::Child => nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|e| NetnsError::Fork { source: e.into() }),
        ForkResult::Parent { child } => std::process::exit(status_of(child)),
    }
}

/// Waits for the end of a child; its exit code, or 128 + the signal that ended it, as shells report it.
fn status_of(child: Pid) -> i32 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

fn write_map(path: &'static str, text: &str) -> Result<(), NetnsError> {
    std::fs::write(path, text).map_err(|source| NetnsError::Map { path, source })
}

/// Puts the calling thread (the whole process, while it has one thread) into a new network namespace.
///
/// # Errors
/// [`NetnsError::Unshare`].
pub fn unshare_net() -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Unshare {
        what: "network",
        source: e.into(),
    })
}

/// A new network namespace that lives as long as its descriptor, for a process to enter later.
///
/// # Errors
/// [`NetnsError`].
pub fn create_netns() -> Result<OwnedFd, NetnsError> {
    on_own_thread(|| {
        unshare_net()?;
        current_netns()
    })
}

/// The network namespace of the calling thread.
///
/// # Errors
/// [`NetnsError::Open`].
pub fn current_netns() -> Result<OwnedFd, NetnsError> {
    open("/proc/thread-self/ns/net".to_owned())
}

/// The network namespace of a process, by its PID as /proc shows it here.
///
/// # Errors
/// [`NetnsError::Open`].
pub fn open_netns_of(pid: Pid) -> Result<OwnedFd, NetnsError> {
    open(format!("/proc/{pid}/ns/net"))
}

fn open(path: String) -> Result<OwnedFd, NetnsError> {
    File::open(&path)
        .map(OwnedFd::from)
        .map_err(|source| NetnsError::Open { path, source })
}

/// Puts the calling thread into a network namespace for good.
///
/// # Errors
/// [`NetnsError::Enter`].
pub fn enter_netns(netns: impl AsFd) -> Result<(), NetnsError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Enter { source: e.into() })
}

/// Runs `f` in a network namespace, on a thread of its own that ends with it. Sockets made in there stay in there.
///
/// # Errors
/// [`NetnsError::Enter`].
pub fn with_netns<T: Send>(
    netns: impl AsFd + Send,
    f: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    on_own_thread(|| {
        enter_netns(netns)?;
        Ok(f())
    })
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
