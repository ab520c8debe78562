//! Cloud Hypervisor's post-copy at the destination: nothing comes that was not asked for.
//!
//! ```text
//! this thread    answers State, reads Complete, commits, then watches the guest (`faults`)
//! mig-uffd       asks for a page, waits for it, places it, from State on: one that the guest waits for, else
//!                the next in address order that is missing
//! ```
//!
//! One request is under way at a time, as with the original's one handler, so a page costs a round trip. When its
//! connection breaks the guest runs on until it touches a page that is not there; then its VMM exits, and it is lost. Before the
//! commit the original would run it all the same; here it is refused then, and goes on at the source. Never inside: the source's memory.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread::Builder;
use std::time::Duration;

use super::Inbox;
use super::faults::{LOOK_NS, NS_PER_MS, Pull, Ran};
use crate::clock::mono_ns;
use crate::migration::channels::accept_one;
use crate::migration::destination::pages::Pages;
use crate::migration::destination::{
    DestinationError, DestinationJob, GIVEN_UP_SILENCE_MS, Receiver,
};
use crate::migration::ownership::DestinationSide;
use crate::migration::transport::{prepare_socket, read_whole, reset_when_closed, write_whole};
use crate::migration::usage::ThreadMeter;
use crate::migration::wire::Event;
use crate::migration::wire::cloud_hypervisor::fault::{ANSWER_BYTES, decode_answer, request};
use crate::migration::wire::hello::{ChannelId, ChannelKind, HELLO_BYTES};
use replay::VmState;

/// `FAULT_CONNECTION_ACCEPT_TIMEOUT`.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// What became of the thread that asks.
struct Asking {
    error: Option<DestinationError>,
    read_bytes: u64,
    cpu_ns: u64,
    run_queue_ns: u64,
}

impl Receiver<'_> {
    /// The commit point, and all that follows. On an error before the commit the guest was not started and never will
    /// be; after it an error means that it is lost.
    pub(in crate::migration::destination) fn pull_on_demand(
        &mut self,
        state: VmState,
    ) -> Result<(), DestinationError> {
        let result = self.on_demand(state);
        if result.is_err() {
            // The promise first, then the word of it; it changes nothing of a guest that runs.
            let _ = self.job.control.decline();
        }
        result
    }

    fn on_demand(&mut self, state: VmState) -> Result<(), DestinationError> {
        let io = |source| DestinationError::Io { offset: 0, source };
        let stopped = state.clone();
        let (job, pages) = (self.job, self.pages);
        let socket = self.fault_connection()?;
        job.control.pulls.store(true, Ordering::Release);
        let missing = self.missing();
        let lacking = self.lack(&missing)?;
        let pull = Pull::new(job, missing, lacking, &stopped).on_demand();
        pull.connect(self.socket()).map_err(io)?;
        let both: Result<_, DestinationError> = std::thread::scope(|scope| {
            let thread = Builder::new().name("mig-uffd".to_owned());
            let handler = Handler {
                job,
                pages,
                pull: &pull,
                read_bytes: 0,
            };
            let asking = thread
                .spawn_scoped(scope, move || handler.run(socket))
                .map_err(io)?;
            let ran = self.complete(&pull, state);
            pull.end();
            let asking = asking.join();
            Ok((
                ran,
                asking.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            ))
        });
        let (ran, asking) = both?;
        self.report.received_bytes += asking.read_bytes;
        self.report.cpu_ns += asking.cpu_ns;
        self.report.run_queue_ns += asking.run_queue_ns;
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => return Err(asking.error.unwrap_or(error)),
        };
        if let Some(error) = ran.error {
            return Err(asking.error.unwrap_or(error));
        }
        self.report.resumed_ns = ran.resumed_ns;
        self.stopped = Some(stopped);
        let vcpus = pull.vcpus();
        let figures = pull.conclude();
        let pages = figures.never_came;
        self.report.postcopy = Some(figures);
        if pages > 0 {
            job.guest.give_up();
            let source = asking.error.unwrap_or(DestinationError::Abandoned).into();
            return Err(DestinationError::FaultsUnanswered { pages, source });
        }
        self.let_run(vcpus);
        Ok(())
    }

    /// The source opens it before it sends the state.
    fn fault_connection(&mut self) -> Result<TcpStream, DestinationError> {
        let job = self.job;
        let io = |source| DestinationError::Io { offset: 0, source };
        let Some(listener) = &job.recover else {
            let offset = self.report.received_bytes;
            return Err(DestinationError::Closed { offset });
        };
        let id = ChannelId {
            kind: ChannelKind::Fault,
            number: 0,
        };
        let (migration, vm) = (job.migration, job.memory.vm_key());
        let stopped =
            || job.control.side() == DestinationSide::Abandoned || job.control.may_go_on().is_err();
        let channel = accept_one(listener, migration, vm, id, CONNECTION_LIMIT, stopped);
        let socket = channel
            .map_err(|error| match job.control.may_go_on() {
                Err(why) => why,
                Ok(()) => error.into(),
            })?
            .socket;
        self.report.received_bytes += HELLO_BYTES as u64;
        prepare_socket(&socket, job.congestion.as_deref()).map_err(io)?;
        let both = [self.socket(), &socket].map(TcpStream::try_clone);
        let both: Result<Vec<_>, _> = both.into_iter().collect();
        job.control.attach(both.map_err(io)?);
        Ok(socket)
    }

    /// State is answered, Complete read, and the guest runs until every page is there or none comes any more.
    fn complete(&mut self, pull: &Pull<'_>, state: VmState) -> Result<Ran, DestinationError> {
        self.tell(0)?;
        let mut inbox = std::mem::replace(&mut self.inbox, Inbox::empty());
        loop {
            match self.decoder.decode(&inbox.buffer[inbox.start..inbox.end])? {
                Some((_, Event::End)) => break,
                Some((taken, _)) => inbox.start += taken,
                None => {
                    inbox.make_room();
                    let read = self.read(&mut inbox.buffer[inbox.end..])?;
                    inbox.end += read;
                }
            }
        }
        self.report.loaded_ns = Some(mono_ns());
        Ok(pull.run(state))
    }
}

/// The thread that asks.
struct Handler<'a, 'p> {
    job: &'a DestinationJob,
    pages: &'a Pages<'a>,
    pull: &'a Pull<'p>,
    read_bytes: u64,
}

impl Handler<'_, '_> {
    fn run(mut self, socket: TcpStream) -> Asking {
        let meter = ThreadMeter::start();
        let error = self.ask(&socket).err();
        match &error {
            // The source hears that nothing is missing by this alone.
            None => {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            Some(_) => self.break_off(socket),
        }
        self.pull.end();
        let (cpu_ns, run_queue_ns) = meter.used_ns();
        Asking {
            error,
            read_bytes: self.read_bytes,
            cpu_ns,
            run_queue_ns,
        }
    }

    /// Until no page is missing, or nobody wants any more.
    fn ask(&mut self, socket: &TcpStream) -> Result<(), DestinationError> {
        let mut from = 0;
        while let Some((page, unasked)) = self.pull.next(from) {
            if self.pull.is_over() {
                return Ok(());
            }
            self.job.control.may_go_on()?;
            if let Err(error) = self.fetch(socket, page) {
                // Why it waited no longer comes before what it waited for.
                self.job.control.may_go_on()?;
                return if self.pull.is_over() {
                    Ok(())
                } else {
                    Err(error)
                };
            }
            if unasked {
                self.pull.prefaulted();
                from = page + 1;
            }
        }
        Ok(())
    }

    fn fetch(&mut self, socket: &TcpStream, page: u32) -> Result<(), DestinationError> {
        let offset = self.read_bytes;
        let io = |source| DestinationError::Io { offset, source };
        for part in request(page) {
            write_whole(socket, &part, self.patience()).map_err(io)?;
        }
        let mut answer = [0; ANSWER_BYTES];
        let read = read_whole(socket, &mut answer, self.patience()).map_err(io)?;
        self.read_bytes += read as u64;
        if read < ANSWER_BYTES {
            return Err(DestinationError::Closed {
                offset: self.read_bytes,
            });
        }
        super::place(self.pages, self.pull, page, Some(decode_answer(&answer)?))
    }

    /// A silence as long as the connection's limit breaks it; a shorter one of a source that is known to have gone.
    fn patience(&self) -> impl FnMut() -> bool {
        let (control, pull) = (&self.job.control, self.pull);
        let (began_ns, limit_ms) = (mono_ns(), self.job.postcopy.stall_timeout);
        move || {
            let ms = match control.is_given_up() {
                true => GIVEN_UP_SILENCE_MS.min(limit_ms),
                false => limit_ms,
            };
            let waited_ns = mono_ns().saturating_sub(began_ns);
            waited_ns < ms.saturating_mul(NS_PER_MS)
                && !pull.is_over()
                && control.may_go_on().is_ok()
        }
    }

    /// Nothing comes any more. A guest that does not run here yet never will; one that does goes on until it touches a
    /// page that is missing. One that touches none is given up after a while all the same: it will never be whole.
    fn break_off(&self, socket: TcpStream) {
        let control = &self.job.control;
        // The source is to see that this was no end.
        reset_when_closed(&socket);
        drop(socket);
        control.attach(self.job.socket.try_clone().into_iter().collect());
        let runs = control.decline();
        let limit_ns = self.job.postcopy.recover_timeout.saturating_mul(NS_PER_MS);
        let until_ns = mono_ns().saturating_add(limit_ns);
        while runs
            && !self.pull.is_over()
            && !self.pull.is_awaited()
            && !control.is_given_up()
            && control.may_go_on().is_ok()
            && mono_ns() < until_ns
        {
            control.wait_for_change(LOOK_NS);
        }
    }
}
