//! A VM's address moves: connections survive, nothing gets through while it is paused, and until a switch has heard of
//! the move it sends to the old host.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use netmodel::backend::BackendKind;
use netmodel::ports::{Announce, Ports};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::sys::netns::with_netns;
use netmodel::topology::{Cable, HostId, Rack, Topology, vm_address};

use crate::net::{Net, PATIENCE, mbit};

const VM: u32 = 4;
const MS: u64 = 1_000_000;

fn inside<T: Send>(netns: &OwnedFd, f: impl FnOnce() -> T + Send) -> T {
    with_netns(netns.as_fd(), f).unwrap()
}

/// A server in the VM and a connection to it from host 0.
fn connection(net: &Net, guest: &OwnedFd) -> (TcpStream, TcpStream) {
    let address = (vm_address(VM).unwrap(), 80);
    let listener = inside(guest, || TcpListener::bind(address)).unwrap();
    let client = net.inside(0, || TcpStream::connect(address)).unwrap();
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_nodelay(true).unwrap();
    }
    (client, server)
}

fn asks(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"question").unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    server.write_all(b"answer").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
}

pub(crate) fn a_connection_survives_the_move_of_its_vm(backend: BackendKind) {
    let net = Net::star(backend, [mbit(100); 3]);
    let ports = Ports::new(Arc::clone(&net.fabric), net.hosts()).unwrap();
    let guest = ports.open(VM, HostId(1)).unwrap();
    let (mut client, mut server) = connection(&net, &guest);
    asks(&mut client, &mut server);
    // There and back, and once it stays: its migration has failed.
    let mut at = 1;
    for host in [2, 1, 1, 2] {
        ports.prepare(VM, HostId(host)).unwrap();
        ports.detach(VM, HostId(at)).unwrap();
        // What is asked meanwhile is lost, and asked again by TCP.
        client.write_all(b"question").unwrap();
        server.set_nonblocking(true).unwrap();
        wait_until(now_ns() + 20 * MS).unwrap();
        assert!(
            server.read(&mut [0; 8]).is_err(),
            "a paused VM hears nothing"
        );
        server.set_nonblocking(false).unwrap();
        ports.attach(VM, HostId(host), Announce::QEMU).unwrap();
        at = host;
        // Late news of the host it has left.
        ports.detach(VM, HostId(3 - host)).unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        asks(&mut client, &mut server);
    }
    // Its frames cross the link of the host it is on, both ways.
    let before = net.settled();
    let bytes = vec![0; 200_000];
    std::thread::scope(|scope| {
        scope.spawn(|| server.write_all(&bytes).unwrap());
        client.read_exact(&mut vec![0; bytes.len()]).unwrap();
    });
    let after = net.lost_nothing();
    let sent = |name: &str| {
        let of = |counters: &netmodel::counters::Counters| {
            counters.links[&net.link(name)].sent.wire_bytes
        };
        of(&after) - of(&before)
    };
    assert!(sent("h3-up") > 200_000, "{}", sent("h3-up"));
    assert!(sent("h2-up") < 10_000, "{}", sent("h2-up"));
}

/// Without an announcement the switch still sends to the host the VM has left, where it is lost.
pub(crate) fn the_network_learns_of_a_move_by_announcements_alone(backend: BackendKind) {
    let rack = |r| Rack {
        name: format!("rack{r}"),
        uplink: Cable::symmetric(mbit(100)),
        hosts: (0..2)
            .map(|h| (format!("h{r}-{h}"), Cable::symmetric(mbit(50))))
            .collect(),
    };
    let net = Net::build(backend, Topology::two_tier((0..3).map(rack)).unwrap());
    let ports = Ports::new(Arc::clone(&net.fabric), net.hosts()).unwrap();
    let guest = ports.open(VM, HostId(1)).unwrap();
    let address = (vm_address(VM).unwrap(), 7);
    let at_vm = inside(&guest, || UdpSocket::bind(address)).unwrap();
    at_vm
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    // From its own rack, from the one it goes to, from a third one, and from the host it leaves.
    let clients = [0, 3, 5, 1].map(|host| net.udp(host, 11));
    let heard = || {
        let gets = |client: &UdpSocket| {
            // The host it was on has no way to it and says so to its own.
            client.send_to(&[7], address).is_ok() && at_vm.recv(&mut [0]).is_ok()
        };
        clients.each_ref().map(gets)
    };
    assert_eq!(heard(), [true; 4]);
    let silent = Announce {
        rounds: 0,
        ..Announce::QEMU
    };
    ports.detach(VM, HostId(1)).unwrap();
    assert_eq!(heard(), [false; 4]);
    ports.attach(VM, HostId(2), silent).unwrap();
    assert_eq!(heard(), [false; 4], "nobody has been told");
    ports.host_gone(HostId(2)).unwrap();
    ports.attach(VM, HostId(1), silent).unwrap();
    ports.attach(VM, HostId(2), Announce::ONCE).unwrap();
    // The announcement crosses the host's link and is on its way to all.
    wait_until(now_ns() + 200 * MS).unwrap();
    assert_eq!(heard(), [true; 4]);
    net.lost_nothing();
}
