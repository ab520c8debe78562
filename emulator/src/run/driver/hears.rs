//! What the machine and its agents say, and whom it concerns.

use super::{Driver, GO_AHEAD_NS};
use crate::clock::mono_ns;
use crate::control::message::{FromAgent, FromMachine};
use crate::event::{Event, EventKind};
use crate::ids::HostId;
use crate::run::RunError;
use replay::clock::{MonoNs, SegmentKind};

impl Driver<'_> {
    pub(super) async fn heard(&mut self, message: FromMachine) -> Result<(), RunError> {
        match message {
            FromMachine::Agent(host, message) => self.heard_agent(host, *message).await,
            FromMachine::AgentLost(host) => self.host_lost(host).await,
            FromMachine::Vm(vm, message) => match *message {
                FromAgent::Warning(message) => {
                    let name = &self.scenario.vms[vm.index()].name;
                    self.warn(format!("VM {name}: {message}"))
                }
                message => self.heard_service(message).await,
            },
            FromMachine::Links(links) => {
                for link in &links {
                    self.write(EventKind::LinkSample(link.clone()))?;
                }
                self.links = links;
                Ok(())
            }
            FromMachine::Watched(migration, seen) => self.watched(migration, seen),
            FromMachine::LinksChanged(changes) => {
                for change in changes {
                    let kind = EventKind::LinkChanged {
                        link: change.link,
                        spec: change.spec,
                        late_us: change.late_ns as f64 / 1e3,
                    };
                    self.log.append(&Event {
                        mono_ns: change.due_ns,
                        trace_ns: change.trace_ns,
                        kind,
                    })?;
                }
                Ok(())
            }
            FromMachine::Struck { .. } => self.heard_struck(&message).await,
            FromMachine::Drained => {
                let hold_at_ns = mono_ns() + GO_AHEAD_NS;
                self.segment(SegmentKind::Hold, hold_at_ns, true).await?;
                self.hold_at_ns = Some(hold_at_ns);
                Ok(())
            }
            FromMachine::Failed {
                message,
                missing_capability,
            } => Err(RunError::Machine {
                message,
                missing_capability,
            }),
            FromMachine::Hello { .. }
            | FromMachine::Progress(_)
            | FromMachine::Capacity(_)
            | FromMachine::Ready(_)
            | FromMachine::Audited(_) => Ok(()),
        }
    }

    pub(super) async fn heard_agent(
        &mut self,
        host: HostId,
        message: FromAgent,
    ) -> Result<(), RunError> {
        match message {
            FromAgent::Sampled {
                seq,
                trace_ns,
                host: sample,
                vms,
            } => {
                // Nobody asks for the load of what is outside, and no balancer sees it.
                if self.is_outside(host) {
                    return Ok(());
                }
                let mono_ns = mono_ns();
                self.view.add_host_sample(trace_ns, &sample);
                for vm in &vms {
                    self.view.add_vm_sample(trace_ns, vm);
                    if vm.span_ns > 0 {
                        let cores = vm.granted_core_ns as f64 / vm.span_ns as f64;
                        self.cores.insert(vm.vm, cores);
                    }
                }
                let samples = vms.into_iter().map(EventKind::VmSample);
                for kind in std::iter::once(EventKind::HostSample(sample)).chain(samples) {
                    self.log.append(&Event {
                        mono_ns,
                        trace_ns,
                        kind,
                    })?;
                }
                self.sampled(seq, host);
                Ok(())
            }
            FromAgent::Warning(message) => {
                let message = format!("host {}: {message}", self.host_name(host));
                self.warn(message)
            }
            FromAgent::SinkReady { .. }
            | FromAgent::FlowBytes(_)
            | FromAgent::FlowClosed { .. } => self.heard_traffic(message).await,
            FromAgent::ServerReady { .. }
            | FromAgent::Answered { .. }
            | FromAgent::Probed { .. } => self.heard_service(message).await,
            FromAgent::Struck { fault, at_ns } => self.in_effect(fault, at_ns).await,
            FromAgent::FaultDue {
                migration,
                fault,
                at_ns,
            } => self.fault_due(host, migration, fault, at_ns).await,
            FromAgent::Holding(holding) => self.heard_holding(host, *holding).await,
            FromAgent::Runs { vm, runs, at_ns } => {
                let trace_ns = self.clock.trace_at(MonoNs(at_ns)).0;
                let kind = EventKind::GuestRuns { vm, host, runs };
                Ok(self.log.append(&Event {
                    mono_ns: at_ns,
                    trace_ns,
                    kind,
                })?)
            }
            FromAgent::IncomingReady { .. }
            | FromAgent::Begun { .. }
            | FromAgent::CancelTooLate(_)
            | FromAgent::Phase { .. }
            | FromAgent::VmCrashed { .. }
            | FromAgent::Progress { .. }
            | FromAgent::Committed { .. }
            | FromAgent::SourceDone { .. }
            | FromAgent::DestinationDone { .. } => self.heard_migration(host, message).await,
            FromAgent::Hello { .. } | FromAgent::SetUp(_) | FromAgent::Placed(..) => Ok(()),
        }
    }

    /// A host has gone without being asked: its VMs go with it, its migrations end.
    pub(super) async fn host_lost(&mut self, host: HostId) -> Result<(), RunError> {
        self.lost.insert(host);
        self.write(EventKind::HostLost { host })?;
        let name = self.host_name(host);
        let how = if self.unfenced.contains(&host) {
            "is not heard of any more"
        } else {
            "is lost: its process ended"
        };
        self.warn(format!("host {name} {how}"))?;
        if self.is_outside(host) {
            return self.traffic_host_lost(host).await;
        }
        let (_gone, dropped) = self.mover.host_lost(host);
        for dropped in dropped {
            self.ongoing.remove(&dropped.id);
        }
        self.traffic_host_lost(host).await?;
        if self.controller_is_up() {
            self.migrations_host_lost(host).await?;
        }
        self.not_asked_any_more(host).await?;
        if let Some(sampling) = &mut self.sampling {
            sampling.waiting.remove(&host);
        }
        self.nobody_left()?;
        self.all_sampled();
        Ok(())
    }
}
