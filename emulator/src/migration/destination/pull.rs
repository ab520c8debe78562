//! Post-copy at the destination: the guest runs while pages are missing.
//!
//! ```text
//! this thread        reads the stream, places each page once, lets the vCPU go that waited for it
//! mig-fault          loads the state, commits, then: a vCPU stands ─► asks for the page (`faults`)
//! ```
//!
//! Each vCPU may only run up to its next access of a page that has not come (`upcoming`), exactly there in
//! its own time, whenever a thread wakes. If its RAM is there the kernel stops its thread instead (`kernel`). A page that comes a second time changes nothing, as under
//! UFFDIO_COPY. A broken connection, and what comes damaged breaks it, stops nobody until a missing page is
//! touched; `recover` is where a new one comes. Cloud Hypervisor's, of which nothing comes unasked, is `on_demand`. Never inside: the source's dirty log; which pages the source thinks it has sent.

use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pages::{Pages, Placed};
use super::{DestinationError, Inbox, Receiver};
use crate::clock::mono_ns;
use crate::migration::channels::Channel;
use crate::migration::transport::prepare_socket;
use crate::migration::upcoming::Limit;
use crate::migration::wire::hello::ChannelKind;
use crate::migration::wire::postcopy::{self, Command};
use crate::migration::wire::{Decoder, Event, MAX_RECORD_BYTES, PAGE_BYTES};
use crate::resident::Lacking;
use faults::{LOOK_NS, NS_PER_MS, Pull};
use replay::{Bitmap, VmState};

mod asked;
mod back;
mod faults;
mod kernel;
mod on_demand;
mod state;
mod urgent;
mod waits;

impl Receiver<'_> {
    /// The commit point of a post-copy, and all that follows. On an error before the commit the guest was
    /// not started and never will be; after it an error means that it is lost.
    pub(super) fn pull(&mut self, state: VmState) -> Result<(), DestinationError> {
        let stopped = state.clone();
        let io = |source| DestinationError::Io { offset: 0, source };
        self.silence_limit_ms = self.job.postcopy.stall_timeout;
        self.job.control.pulls.store(true, Ordering::Release);
        let missing = self.missing();
        let lacking = self.lack(&missing)?;
        let pull = Pull::new(self.job, missing, lacking, &stopped);
        pull.connect(self.socket()).map_err(io)?;
        let (ran, came) = std::thread::scope(|scope| {
            let job = self.job;
            let mut channels = job.channels.iter();
            let channel = channels.find(|channel| channel.id.kind == ChannelKind::Preempt);
            let urgent = channel.map(|channel| {
                let thread = std::thread::Builder::new().name("mig-preempt".to_owned());
                let (pull, pages) = (&pull, self.pages);
                thread.spawn_scoped(scope, move || {
                    urgent::receive(job, pull, pages, &channel.socket)
                })
            });
            let urgent = urgent.transpose().map_err(io)?;
            let thread = std::thread::Builder::new().name("mig-fault".to_owned());
            let runs = thread
                .spawn_scoped(scope, || pull.run(state))
                .inspect_err(|_| pull.end())
                .map_err(io)?;
            let came = self.place_all(&pull);
            pull.end();
            if let Some(thread) = urgent {
                let received = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                self.report.received_bytes += received;
            }
            let ran = runs
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((ran, came))
        })
        .inspect_err(|_: &DestinationError| {
            let committed = self.job.control.gate.abandon();
            assert!(!committed, "without its thread nobody commits");
        })?;
        self.report.cpu_ns += ran.cpu_ns;
        self.report.run_queue_ns += ran.run_queue_ns;
        if let Some(error) = ran.error {
            return Err(error);
        }
        self.report.resumed_ns = ran.resumed_ns;
        self.stopped = Some(stopped);
        let vcpus = pull.vcpus();
        let figures = pull.conclude();
        let pages = figures.never_came;
        self.report.postcopy = Some(figures);
        if pages > 0 {
            self.job.guest.give_up();
            return Err(came
                .err()
                .unwrap_or(DestinationError::PagesMissing { pages }));
        }
        self.let_run(vcpus);
        // If the connection is gone the source asks the control plane.
        let _ = self.tell(0);
        Ok(())
    }

    /// Nothing is missing any more: nothing stops its vCPUs.
    fn let_run(&self, vcpus: Range<usize>) {
        self.job.control.pulls.store(false, Ordering::Release);
        if let Some(ram) = &self.job.ram {
            ram.let_go();
        }
        let freely: Vec<_> = vcpus.map(|vcpu| (vcpu, Limit::NONE)).collect();
        self.job.guest.run_within(&freely);
    }

    /// Takes away what RAM that is there lacks, if it is; the guest is still the source's.
    fn lack(&self, missing: &Bitmap) -> Result<Option<Arc<Lacking>>, DestinationError> {
        self.pages.lack(missing).map_err(|error| {
            let committed = self.job.control.gate.abandon();
            assert!(!committed, "nobody else commits this migration");
            DestinationError::Userfault(error)
        })
    }

    /// What this end holds decides, not what the source says of it.
    fn missing(&self) -> Bitmap {
        self.pages.missing_pages()
    }

    /// Reads to the end of the stream, over as many connections as it takes.
    fn place_all(&mut self, pull: &Pull<'_>) -> Result<(), DestinationError> {
        loop {
            let broken = match self.place_some(pull) {
                // The last requested pages may come behind the end of the main stream.
                Ok(()) if !self.wants_urgent() || pull.wait_for_last(self.stall_ns()) => {
                    return Ok(());
                }
                Ok(()) => DestinationError::PagesMissing { pages: pull.left() },
                Err(error) => error,
            };
            pull.disconnect();
            // Nothing is missing but the source's last word, or the guest never ran.
            let pages = pull.left();
            let crashed = matches!(broken, DestinationError::Crashed);
            if pages == 0 || crashed || pull.is_over() {
                return Err(broken);
            }
            // A source that goes on sending is told so.
            let _ = self.socket().shutdown(Shutdown::Both);
            if let Err(why) = self.wait_for_recovery(pull) {
                let source = Box::new(why.unwrap_or(broken));
                return Err(DestinationError::NotRecovered { pages, source });
            }
        }
    }

    /// Whether pages still come on a connection of their own.
    fn wants_urgent(&self) -> bool {
        let preempt = |channel: &Channel| channel.id.kind == ChannelKind::Preempt;
        self.again.is_none() && self.job.channels.iter().any(preempt)
    }

    fn stall_ns(&self) -> u64 {
        self.silence_limit_ms.saturating_mul(NS_PER_MS)
    }

    /// Over one connection.
    fn place_some(&mut self, pull: &Pull<'_>) -> Result<(), DestinationError> {
        let mut inbox = std::mem::replace(&mut self.inbox, Inbox::empty());
        let result = loop {
            match self.place_next(&mut inbox, pull) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (inbox.start, inbox.end) = (0, 0);
        self.inbox = inbox;
        result
    }

    /// What has been read, then what can be read: whether there may be more.
    fn place_next(&mut self, inbox: &mut Inbox, pull: &Pull<'_>) -> Result<bool, DestinationError> {
        let Inbox { buffer, start, end } = inbox;
        while let Some((taken, event)) = self.decoder.decode(&buffer[*start..*end])? {
            *start += taken;
            match event {
                Event::Page { page, bytes } => place(self.pages, pull, page, Some(bytes))?,
                Event::ZeroPage { page } => place(self.pages, pull, page, None)?,
                Event::Postcopy(Command::Ping(number)) => {
                    pull.say(|bytes, _| postcopy::pong(number, bytes));
                }
                Event::End => return Ok(false),
                _ => {}
            }
        }
        inbox.make_room();
        inbox.end += self.read(&mut inbox.buffer[inbox.end..])?;
        Ok(true)
    }

    /// A new connection whose source has been told what is here. An error says why there will be none;
    /// `None`: nobody came in time.
    fn wait_for_recovery(&mut self, pull: &Pull<'_>) -> Result<(), Option<DestinationError>> {
        let Some(listener) = &self.job.recover else {
            return Err(None);
        };
        let io = |source| Some(DestinationError::Io { offset: 0, source });
        listener.set_nonblocking(true).map_err(io)?;
        let limit_ns = self.job.postcopy.recover_timeout.saturating_mul(NS_PER_MS);
        let until_ns = mono_ns().saturating_add(limit_ns);
        while mono_ns() < until_ns && !self.job.control.is_given_up() {
            self.job.control.may_go_on().map_err(Some)?;
            if let Ok((socket, _)) = listener.accept() {
                // Whoever is not the source, or loses the connection again, is not waited for.
                if self.take_up_again(socket, pull).is_ok() {
                    return Ok(());
                }
                pull.disconnect();
                continue;
            }
            self.job.control.wait_for_change(LOOK_NS);
        }
        Err(None)
    }

    /// QEMU's `postcopy-recover`: the bitmap of what is here, then the pages that vCPUs wait for.
    fn take_up_again(
        &mut self,
        socket: TcpStream,
        pull: &Pull<'_>,
    ) -> Result<(), DestinationError> {
        let io = |source| DestinationError::Io { offset: 0, source };
        prepare_socket(&socket, self.job.congestion.as_deref()).map_err(io)?;
        let clone = socket.try_clone().map_err(io)?;
        self.job.control.attach(vec![clone]);
        self.decoder = Decoder::default();
        self.again = Some(socket);
        let mut buffer = vec![0; super::BUFFER_BYTES];
        let (mut start, mut end) = (0, 0);
        loop {
            while let Some((taken, event)) = self.decoder.decode(&buffer[start..end])? {
                start += taken;
                match event {
                    Event::Header(found) => drop(self.own_guest(found)?),
                    Event::Postcopy(Command::RecvBitmap) => {
                        let mut answer = Vec::new();
                        postcopy::received(&pull.received(), &mut answer);
                        self.say(&answer)?;
                    }
                    Event::Postcopy(Command::Resume) => {
                        pull.connect(self.socket()).map_err(io)?;
                        pull.say(|bytes, _| postcopy::resume_ack(bytes));
                        pull.ask_again();
                        self.inbox = Inbox { buffer, start, end };
                        return Ok(());
                    }
                    _ => {
                        let offset = self.report.received_bytes;
                        return Err(DestinationError::Closed { offset });
                    }
                }
            }
            if buffer.len() - end < MAX_RECORD_BYTES {
                let offset = self.report.received_bytes;
                return Err(DestinationError::Closed { offset });
            }
            end += self.read(&mut buffer[end..])?;
        }
    }
}

/// A page that came, by whatever connection; without bytes it is one of zeros.
fn place(
    pages: &Pages<'_>,
    pull: &Pull<'_>,
    page: u32,
    bytes: Option<&[u8]>,
) -> Result<(), DestinationError> {
    let damaged = DestinationError::Damaged { page };
    let Ok(bytes) = bytes.map(<&[u8; PAGE_BYTES]>::try_from).transpose() else {
        return Err(damaged);
    };
    let placed = match pull.lacks(page) {
        true => pages.place(page, bytes)?,
        false => Placed::Before,
    };
    match placed {
        Placed::Now => pull.placed(page),
        Placed::Before => pull.came_twice(),
        Placed::Damaged => return Err(damaged),
    }
    Ok(())
}

impl Inbox {
    fn empty() -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    /// For a whole record behind what is not decoded yet.
    fn make_room(&mut self) {
        if self.buffer.len() - self.end < MAX_RECORD_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        } else if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}
