//! Cloud Hypervisor's post-copy at the source (`memory_mode=postcopy`): no memory is sent, every page is asked for.
//!
//! ```text
//! state        a connection for faults, served from here on; State, answered
//! switchover   Complete, answered when the guest runs there
//! pull         until the destination, which lacks nothing, closes the connection for faults
//! ```
//!
//! The original takes any end of that connection for a success; here pages that were never asked for make it none. Nothing
//! takes a broken one up again. Never inside: answering (`server`), who owns the guest (`ownership`).

use std::io::ErrorKind;
use std::net::Shutdown;
use std::thread::{Builder, Scope};
use std::time::Duration;

use replay::GuestTime;

use super::{Session, SourceError};
use crate::clock::mono_ns;
use crate::migration::channels::open_all;
use crate::migration::engine::step::PAGE_BYTES;
use crate::migration::ownership::SourceEvent;
use crate::migration::record::{Phase, PostcopySource};
use crate::migration::source::server::Server;
use crate::migration::source::traffic::add;
use crate::migration::transport::prepare_socket;
use crate::migration::wire::cloud_hypervisor::{self as cloud, Request};
use crate::migration::wire::hello::{ChannelId, ChannelKind, HELLO_BYTES};

/// How often its figures and its connections are looked at while pages are served.
const LOOK: Duration = Duration::from_millis(10);

impl Session<'_> {
    /// All that follows the pause. Until Complete is on the socket any failure resumes the guest here; from
    /// then on only a word that the destination will never run it does.
    pub(super) fn serve_on_demand(&mut self, stopped_at: GuestTime) -> Result<(), SourceError> {
        let server = Server::new(self.job, self.traffic, stopped_at);
        std::thread::scope(|scope| {
            let result = self.hand_over_and_serve(scope, &server);
            server.quit();
            if let Some(socket) = self.faults.get()
                && self.job.control.broken().is_none()
            {
                // Its thread is waiting for a request, unless it has ended.
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.count_served(&server);
            result
        })
    }

    fn hand_over_and_serve<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        server: &'scope Server<'scope>,
    ) -> Result<(), SourceError>
    where
        Self: 'env,
    {
        self.phase(Phase::State, |session| {
            session.open_fault_connection()?;
            if let Some(socket) = session.faults.get() {
                let thread = Builder::new().name("mig-serve".to_owned());
                thread
                    .spawn_scoped(scope, move || server.run(socket))
                    .map_err(SourceError::Io)?;
            }
            session.state()
        })?;
        self.phase(Phase::Switchover, Self::complete)?;
        self.phase(Phase::Pull, |session| session.wait_until_served(server))
    }

    /// Within the outage, as the original does.
    fn open_fault_connection(&mut self) -> Result<(), SourceError> {
        let job = self.job;
        let id = ChannelId {
            kind: ChannelKind::Fault,
            number: 0,
        };
        let dial = || match &job.redial {
            Some(redial) => redial(),
            None => Err(ErrorKind::NotConnected.into()),
        };
        let opened = open_all(job.migration, job.memory.vm_key(), &[id], dial)?;
        for channel in opened {
            prepare_socket(&channel.socket, job.congestion.as_deref()).map_err(SourceError::Io)?;
            add(&self.traffic.control_bytes, HELLO_BYTES as u64);
            add(&self.traffic.accepted, HELLO_BYTES as u64);
            let faults = self.faults;
            self.out.watch(faults.get_or_init(|| channel.socket));
        }
        job.control.attach(job.sockets().chain(self.faults.get()))
    }

    /// The commit point: Complete goes alone, so that a failed write of it has not delivered it.
    fn complete(&mut self) -> Result<(), SourceError> {
        self.job.control.enter_postcopy()?;
        let deadline_ns = mono_ns().saturating_add(self.job.acknowledge_limit_ms * 1_000_000);
        self.out.set_deadline(Some(deadline_ns));
        let put = |bytes: &mut Vec<u8>| cloud::request(Request::Complete, bytes);
        self.out.bytes.control += self.out.put(put);
        self.out.flush()?;
        self.out.set_deadline(None);
        self.side_on(SourceEvent::Package);
        self.postcopy = Some(PostcopySource {
            package_ns: mono_ns(),
            ..PostcopySource::default()
        });
        self.answer(Some(deadline_ns)).inspect_err(|error| {
            if matches!(error, SourceError::Refused { .. }) {
                self.side_on(SourceEvent::Refused);
            }
        })?;
        self.side_on(SourceEvent::Started);
        if let Some(postcopy) = &mut self.postcopy {
            // Its downtime ends with the answer.
            postcopy.package_ns = mono_ns();
        }
        Ok(())
    }

    fn wait_until_served(&mut self, server: &Server<'_>) -> Result<(), SourceError> {
        loop {
            self.out.may_go_on()?;
            self.out.sample();
            self.remaining_pages = server.figures().1;
            self.publish("postcopy-active");
            if let Some(ended) = server.wait(LOOK) {
                ended?;
                break;
            }
        }
        self.remaining_pages = 0;
        self.end_ns = mono_ns();
        self.side_on(SourceEvent::Acknowledged);
        self.end_round(self.end_ns);
        Ok(())
    }

    fn count_served(&mut self, server: &Server<'_>) {
        let (requests, left) = server.figures();
        self.remaining_pages = left;
        if let Some(postcopy) = &mut self.postcopy {
            postcopy.requests = requests;
            postcopy.postcopy_bytes = requests * (cloud::RECORD_BYTES as u64 + PAGE_BYTES);
        }
    }
}
