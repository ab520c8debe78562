//! Links that change while they carry something.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netmodel::backend::BackendKind;
use netmodel::counters::LinkCounters;
use netmodel::link::{LinkSpec, Loss};
use netmodel::sys::clock::{now_ns, wait_until};
use netmodel::units::{ByteSize, Probability};

use super::Net;
use super::net::mbit;

/// A reading of the link's wire bytes: it was taken after `before_ns` and before `after_ns`.
#[derive(Debug, Clone, Copy)]
struct Read1 {
    before_ns: u64,
    after_ns: u64,
    wire_bytes: u64,
}

const RATES: [u64; 5] = [40, 10, 80, 20, 60];

/// Whatever the computer does, between two readings no more can have left than the bucket and the highest rate of that
/// time: buckets are 0.5 ms or two frames deep, and a class may be a frame in debt. (The relay is late on a busy computer
/// and then catches up, which its own tests in virtual time bound.)
pub(crate) fn a_change_leaves_no_unshaped_instant(backend: BackendKind) {
    if !backend.is_kernel() {
        return;
    }
    let net = Net::star(backend, [mbit(RATES[0]), mbit(1000)]);
    let up = net.link("h1-up");
    let (sender, mut receiver) = net.tcp(1);
    let done = AtomicBool::new(false);
    let mut readings = Vec::new();
    let mut changes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = &sender;
            let data = vec![1; 1 << 16];
            let sending = || !done.load(Ordering::Relaxed) && sender.write_all(&data).is_ok();
            std::iter::repeat_with(sending).take_while(|on| *on).count();
            sender.shutdown(std::net::Shutdown::Both).ok();
        });
        scope.spawn(|| while receiver.read(&mut [0; 1 << 16]).is_ok_and(|n| n > 0) {});
        for (n, rate) in RATES.into_iter().enumerate() {
            changes.push((now_ns(), rate));
            if n > 0 {
                net.fabric.set_link(up, mbit(rate)).unwrap();
            }
            for _ in 0..40 {
                let before_ns = now_ns();
                let wire_bytes = net.fabric.sample(&[up]).unwrap().links[0].sent.wire_bytes;
                readings.push(Read1 {
                    before_ns,
                    after_ns: now_ns(),
                    wire_bytes,
                });
                wait_until(now_ns() + 10_000_000).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(
        readings[readings.len() - 1].wire_bytes > 500_000,
        "{readings:?}"
    );
    within_the_rates(&readings, &changes);
    net.lost_nothing();
}

fn within_the_rates(readings: &[Read1], changes: &[(u64, u64)]) {
    // The largest super-frame at 40 Mbit/s is two segments and room for headers.
    let frames = 2 * 3 * 1538;
    for (n, from) in readings.iter().enumerate() {
        for to in &readings[n + 1..] {
            // A rate held from its change until the next change had been made, at the latest the reading after it.
            let held = |(n, _): &(usize, &(u64, u64))| {
                let until = changes.get(n + 1).map_or(u64::MAX, |(at, _)| *at);
                let settled = readings.iter().find(|reading| reading.before_ns >= until);
                let until = settled.map_or(u64::MAX, |reading| reading.before_ns);
                changes[*n].0 <= to.after_ns && until >= from.before_ns
            };
            let rates = changes.iter().enumerate().filter(held);
            let mbit = rates.map(|(_, (_, rate))| *rate).max().unwrap_or(0);
            // One Mbit/s is 125 bytes per ms.
            let span_us = (to.after_ns - from.before_ns) / 1000;
            let allowed = mbit * 125 * (span_us + 500) / 1000 + frames;
            let sent = to.wire_bytes - from.wire_bytes;
            assert!(
                sent <= allowed,
                "{sent} > {allowed} from {from:?} to {to:?}"
            );
        }
    }
}

pub(crate) fn a_link_that_is_down_drops(backend: BackendKind) {
    let net = Net::star(backend, [mbit(50); 2]);
    let (sender, receiver) = (net.udp(0, 8), net.udp(1, 7));
    let up = net.link("h1-up");
    let address = receiver.local_addr().unwrap();
    let down = LinkSpec {
        up: false,
        ..mbit(50)
    };
    for round in 0..3_u64 {
        sender.send_to(b"up", address).unwrap();
        receiver.recv(&mut [0; 2]).unwrap();
        net.fabric.set_link(up, down).unwrap();
        for _ in 0..5 {
            sender.send_to(b"down", address).unwrap();
        }
        let offered = (round + 1) * 6;
        let counters = net.until(|counters| counters.links[&up].received.packets == offered);
        assert_eq!(counters.links[&up].dropped.packets, (round + 1) * 5);
        assert_eq!(counters.links[&up].lost.packets, 0);
        net.fabric.set_link(up, mbit(50)).unwrap();
    }
    net.lost_nothing();
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv(&mut [0; 4]).is_err());
}

pub(crate) fn what_is_on_a_link_arrives(backend: BackendKind) {
    // Twenty datagrams at 1 Mbit/s take a quarter of a second: most of them wait.
    let slow = LinkSpec {
        queue: ByteSize::from_bytes(1 << 20),
        ..mbit(1)
    };
    let long = LinkSpec {
        delay: Duration::from_millis(100),
        ..slow
    };
    let spec = if backend.check("h1-up", &long).is_ok() {
        long
    } else {
        slow
    };
    let net = Net::star(backend, [spec, mbit(100)]);
    let (sender, receiver) = (net.udp(0, 8), net.udp(1, 7));
    for _ in 0..20 {
        sender
            .send_to(&[1; 1400], receiver.local_addr().unwrap())
            .unwrap();
    }
    let up = net.link("h1-up");
    let entered = |it: &LinkCounters| it.held.packets + it.sent.packets == 20;
    net.until(|counters| entered(&counters.links[&up]));
    net.fabric
        .set_link(up, LinkSpec { up: false, ..spec })
        .unwrap();
    for n in 0..20 {
        let got = receiver.recv(&mut [0; 1400]);
        let counters = net.fabric.counters().unwrap();
        assert!(got.is_ok(), "{n}: {:?}", counters.links[&up]);
    }
    let counters = net.lost_nothing();
    assert_eq!(counters.links[&up].sent.packets, 20);
}

pub(crate) fn what_it_cannot_do_is_refused(backend: BackendKind) {
    let net = Net::star(backend, [mbit(50); 2]);
    let up = net.link("h1-up");
    let lossy = LinkSpec {
        loss: Loss::Independent(Probability::ONE),
        ..mbit(50)
    };
    let marked = LinkSpec {
        ecn_threshold: Some(ByteSize::from_bytes(30_000)),
        ..mbit(50)
    };
    if backend.is_kernel() {
        for spec in [lossy, marked] {
            let refused = net.fabric.set_link(up, spec).unwrap_err().to_string();
            assert!(refused.contains("h1-up"), "{refused}");
        }
    }
    // What was refused changed nothing.
    let (sender, receiver) = (net.udp(0, 8), net.udp(1, 7));
    sender
        .send_to(b"x", receiver.local_addr().unwrap())
        .unwrap();
    receiver.recv(&mut [0; 1]).unwrap();
    net.lost_nothing();
}
