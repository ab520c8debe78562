//! Probes that need namespaces of their own or raw system calls.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe};

use super::{Capability, tried};
use crate::plan::VethPair;
use crate::qdisc::{Handle, Object, Qdisc, Redirect};
use crate::sys::netlink::{Netlink, device_index};
use crate::sys::netns::{create_netns, enter_machine};
use crate::sys::packet::PacketSocket;
use crate::sys::tun::TunDevice;
use crate::sys::userfault;
use crate::topology::HostId;

/// Probes in the order they are reported: name, whether required, remedy.
const PROBES: [(&str, bool, &str); 10] = [
    (
        "namespaces",
        true,
        "allow unprivileged user namespaces (see the sysctls), or run as root",
    ),
    ("veth", true, "modprobe veth"),
    ("packet-vnet-header", true, "modprobe af_packet"),
    (
        "packet-buffer",
        false,
        "sysctl net.core.rmem_max=33554432; without it fast, long links may lose bursts (audited)",
    ),
    (
        "netem",
        false,
        "modprobe sch_netem (on RHEL and its kin from kernel-modules-extra); without it links are emulated by the \
         relay",
    ),
    (
        "htb",
        false,
        "modprobe sch_htb; only the htb and netem backends need it",
    ),
    (
        "redirect",
        false,
        "modprobe -a ifb sch_ingress act_mirred, and cls_u32 or cls_matchall; only the htb and netem backends need it",
    ),
    (
        "tbf",
        false,
        "modprobe sch_tbf; only measurements shaped at the source need it",
    ),
    (
        "tun",
        false,
        "not needed: ports fall back to veth and AF_PACKET (chmod a+rw /dev/net/tun lets users try `ports = tun`)",
    ),
    (
        "pid-namespace",
        true,
        "allow unprivileged user namespaces, or run as root",
    ),
];

/// Runs all probes in a child with namespaces of its own; it reports over a pipe and is gone.
pub(super) fn namespaces() -> Vec<Capability> {
    let lines = in_child().unwrap_or_else(|e| format!("namespaces\terr\t{e}\n"));
    let report = |&(name, required, remedy): &(&str, bool, &str)| {
        let line = lines.lines().find_map(|line| {
            let (probe, rest) = line.split_once('\t')?;
            (probe == name).then(|| rest.split_once('\t'))?
        });
        let outcome = match line {
            Some(("ok", detail)) => Ok(detail.to_owned()),
            Some((_, detail)) => Err(detail.to_owned()),
            None => Err("could not be tried without namespaces".to_owned()),
        };
        Capability {
            required,
            ..tried(name, outcome, remedy)
        }
    };
    PROBES.iter().map(report).collect()
}

fn in_child() -> io::Result<String> {
    let (reader, writer) = pipe()?;
    // SAFETY: callers of `probe` have one thread, so the child inherits no lock that another thread holds.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(reader);
            let mut out = File::from(writer);
            try_all(&mut out);
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut lines = String::new();
            // Ends when the child and its own child have ended.
            File::from(reader).read_to_string(&mut lines)?;
            waitpid(child, None)?;
            Ok(lines)
        }
    }
}

fn try_all(out: &mut File) {
    let mut say = |name: &str, outcome: Result<String, String>| {
        let (word, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("err", detail),
        };
        // A pipe nobody reads any more needs no report.
        out.write_fmt(format_args!(
            "{name}\t{word}\t{}\n",
            detail.replace('\n', " ")
        ))
        .is_ok()
    };
    if let Err(error) = enter_machine() {
        say("namespaces", Err(error.to_string()));
        return;
    }
    say("namespaces", Ok("user and network namespaces".to_owned()));
    let pid = std::process::id();
    let first = if pid == 1 {
        Ok("process 1".to_owned())
    } else {
        Err(format!("process {pid}"))
    };
    say("pid-namespace", first);
    // In here, where ports are made: root of a user namespace is not root for a node that only root may open.
    let tun = TunDevice::create("tun0").map(|_| "TUN with IFF_VNET_HDR".to_owned());
    say("tun", tun.map_err(|e| e.to_string()));
    let veth = veth();
    let made = veth.is_ok();
    say("veth", veth);
    if made {
        let socket = packet();
        let buffer = socket.as_ref().map_err(Clone::clone).and_then(buffer);
        say(
            "packet-vnet-header",
            socket.map(|_| "AF_PACKET with PACKET_VNET_HDR".to_owned()),
        );
        say("packet-buffer", buffer);
        for kind in ["netem", "htb", "tbf"] {
            say(kind, qdisc(kind));
        }
        say("redirect", redirect());
    }
}

const PORT: &str = "p0";

fn veth() -> Result<String, String> {
    let host = create_netns().map_err(|e| e.to_string())?;
    let pair = VethPair {
        at: crate::plan::Scope::Fabric,
        host: HostId(0),
        port: PORT.to_owned(),
        port_mac: [2, 0, 0, 0, 0, 0],
        host_mac: [2, 1, 0, 0, 0, 0],
        mtu: 1500,
        txqueuelen: 1000,
    };
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    netlink
        .create_veth(&pair, host.as_fd())
        .map_err(|e| e.to_string())?;
    // Without its peer the port would go: keep that namespace for the probes that follow, until the child ends.
    std::mem::forget(host);
    Ok("pair across two namespaces".to_owned())
}

fn packet() -> Result<PacketSocket, String> {
    let index = device_index(PORT).map_err(|e| e.to_string())?;
    PacketSocket::open(index).map_err(|e| e.to_string())
}

/// 10 ms of 2 Gbit/s, doubled for what the kernel counts beside the bytes: what a relay that waits for a CPU can owe.
const BUFFER_WANTED: usize = 5 << 20;

fn buffer(socket: &PacketSocket) -> Result<String, String> {
    let bytes = socket.receive_buffer().map_err(|e| e.to_string())?;
    let text = format!("{bytes} bytes per port");
    if bytes >= BUFFER_WANTED {
        Ok(text)
    } else {
        Err(text)
    }
}

/// Sends what the port receives through an IFB device, as the kernel's backends do, copies and all.
fn redirect() -> Result<String, String> {
    const DEVICE: &str = "i0";
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    let ingress = Object::Qdisc {
        parent: Handle::INGRESS,
        handle: Handle::new(0xFFFF, 0),
        kind: Qdisc::Ingress,
    };
    let redirect = Object::Redirect(Redirect {
        to: DEVICE.to_owned(),
        sink: Some(DEVICE.to_owned()),
    });
    netlink
        .create_ifb(DEVICE)
        .and_then(|()| netlink.add_queue(PORT, &ingress))
        .and_then(|()| netlink.add_queue(PORT, &redirect))
        .map_err(|e| e.to_string())?;
    Ok("what a device receives can be shaped by an ifb device".to_owned())
}

/// Asks for a qdisc with options that mean something to it; ENOENT says the kernel does not have it.
fn qdisc(kind: &str) -> Result<String, String> {
    let index = device_index(PORT).map_err(|e| e.to_string())?;
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).map_err(|e| e.to_string())?;
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    /// TCA_OPTIONS; an empty one is refused with EINVAL by those that exist, which is answer enough.
    const OPTIONS: u16 = 2;
    message
        .attributes
        .push(TcAttribute::Other(DefaultNla::new(OPTIONS, Vec::new())));
    let request = RouteNetlinkMessage::NewQueueDiscipline(message);
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    match netlink.exchange(
        &format!("add qdisc {kind}"),
        request,
        NLM_F_ACK | NLM_F_CREATE,
        |_| {},
    ) {
        Ok(()) => Ok(format!("sch_{kind}")),
        Err(crate::sys::netlink::NetlinkError::Refused { source, .. })
            if source.raw_os_error() == Some(libc::EINVAL) =>
        {
            Ok(format!("sch_{kind}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// What can be done with pages of memory without privileges, as `migbed doctor` names it.
pub(super) fn userfault() -> [Capability; 2] {
    let tried = |name, features, found: &str, remedy| {
        let outcome = userfault::open(features).map(|_| found.to_owned());
        tried(name, outcome.map_err(|e| e.to_string()), remedy)
    };
    [
        tried(
            super::USERFAULTFD,
            userfault::FEATURE_THREAD_ID,
            "threads are stopped at pages that are missing",
            "Linux 5.11 or newer with CONFIG_USERFAULTFD, and no seccomp filter that forbids userfaultfd; only post-copy \
             of memory = \"resident\" needs it",
        ),
        tried(
            "userfaultfd-wp-async",
            userfault::FEATURE_WP_ASYNC,
            "userfaultfd with WP_ASYNC; PAGEMAP_SCAN came with the same release",
            "Linux 6.7 or newer; only recording real memory needs it",
        ),
    ]
}
