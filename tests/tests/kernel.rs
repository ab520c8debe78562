//! What the design believes of the kernel. A failure here explains every other failure.

use migbed_tests::{
    Process, Running, Sandbox, Tree, helper, missing, skip, tree_of, turn, wait_for,
};
use netmodel::sys::netns::{create_netns, with_netns};
use netmodel::sys::probe::probe;
use netmodel::sys::tcpinfo::set_congestion_control;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

/// A process like `migbed`, above the machine's two, above two agents; the harness' helper starts
/// them as `migbed` does.
fn tower(sandbox: &Sandbox) -> (Running, Tree) {
    let running = sandbox.start_command(sandbox.command(&helper(), &["parent"]));
    let tree = running.tree(2);
    (running, tree)
}

fn all_gone(processes: &BTreeSet<Process>, but: &Process) {
    let left = || processes.iter().filter(|p| p.lives() && *p != but).count();
    let gone = wait_for(Duration::from_secs(5), || (left() == 0).then_some(()));
    assert!(gone.is_some(), "{} of {processes:#?} live", left());
}

#[test]
fn a_parents_death_takes_the_machine_and_everything_in_it() {
    let Some(_turn) = turn("a_parents_death_takes_the_machine_and_everything_in_it") else {
        return;
    };
    let sandbox = Sandbox::new();
    let (_running, tree) = tower(&sandbox);
    tree.migbed.kill();
    let others = tree
        .all()
        .into_iter()
        .filter(|p| *p != tree.migbed)
        .collect();
    all_gone(&others, &tree.migbed);
}

#[test]
fn the_launchers_death_takes_process_1_and_everything_below() {
    let Some(_turn) = turn("the_launchers_death_takes_process_1_and_everything_below") else {
        return;
    };
    let sandbox = Sandbox::new();
    let (_running, tree) = tower(&sandbox);
    tree.launcher.as_ref().unwrap().kill();
    all_gone(&tree.all(), &tree.migbed);
}

#[test]
fn the_end_of_process_1_is_the_end_of_its_namespace() {
    let Some(_turn) = turn("the_end_of_process_1_is_the_end_of_its_namespace") else {
        return;
    };
    let sandbox = Sandbox::new();
    let (_running, tree) = tower(&sandbox);
    tree.init.as_ref().unwrap().kill();
    all_gone(&tree.all(), &tree.migbed);
}

#[test]
fn an_agents_death_is_its_own() {
    let Some(_turn) = turn("an_agents_death_is_its_own") else {
        return;
    };
    let sandbox = Sandbox::new();
    let (running, tree) = tower(&sandbox);
    tree.agents[0].signal(Signal::SIGKILL);
    assert!(
        wait_for(Duration::from_secs(5), || (!tree.agents[0].lives())
            .then_some(()))
        .is_some()
    );
    let left = tree_of(running.pid()).unwrap();
    assert_eq!(left.agents, tree.agents[1..]);
    assert_eq!((left.launcher, left.init), (tree.launcher, tree.init));
}

#[test]
fn ports_carry_super_frames() {
    // AF_PACKET with PACKET_VNET_HDR on a veth, tried in namespaces of its own by the probe.
    if missing().iter().any(|name| name != "packet-vnet-header") {
        skip("ports_carry_super_frames", &missing()[0]);
        return;
    }
    let doctor = Sandbox::new().run(&["doctor", "--json"]).json();
    let found = doctor.as_array().unwrap().iter();
    let header = found
        .clone()
        .find(|c| c["name"] == "packet-vnet-header")
        .unwrap();
    assert_eq!(header["present"], true, "{header}");
}

#[test]
fn congestion_control_can_be_chosen_per_socket_in_a_namespace_of_our_own() {
    let test = "congestion_control_can_be_chosen_per_socket_in_a_namespace_of_our_own";
    // Only root can make a network namespace from a process with several threads, as this one is;
    // that an ordinary user's runs choose it too is seen by every migration of the other tests.
    let Ok(own) = create_netns() else {
        skip(test, "root, to make a network namespace of a thread");
        return;
    };
    if !probe().has("tcp-cubic") {
        skip(test, "tcp-cubic");
        return;
    }
    let chosen = with_netns(own.as_fd(), || {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        set_congestion_control(&socket, &["cubic"]).unwrap()
    });
    assert_eq!(chosen.unwrap(), "cubic");
}
