use proptest::prelude::*;

use super::idle::{Watched, path_idle};
use super::*;
use crate::link::{Jitter, Loss};
use crate::sys::tcpinfo::TcpInfo;
use crate::units::{BitRate, Probability};

const MS: u64 = 1_000_000;

fn spec(bps: u64) -> LinkSpec {
    LinkSpec::with_rate(BitRate::from_bps(bps).unwrap())
}

/// A link in virtual time: frames of `frame` wire bytes, one behind the other, each counted `delay` after it has passed.
struct VirtualLink {
    /// What it really does.
    bps: u64,
    frame: u64,
    delay_ns: u64,
    /// It delivers nothing in this span, though it is said to be busy.
    stall: (u64, u64),
}

impl VirtualLink {
    fn ideal(bps: u64, frame: u64) -> Self {
        Self {
            bps,
            frame,
            delay_ns: 0,
            stall: (u64::MAX, u64::MAX),
        }
    }

    fn carried(&self, now_ns: u64) -> u64 {
        let Some(left_ns) = now_ns.checked_sub(self.delay_ns) else {
            return 0;
        };
        let stalled = left_ns.min(self.stall.1).saturating_sub(self.stall.0);
        let fluid = u128::from(left_ns - stalled) * u128::from(self.bps) / 8_000_000_000;
        let fluid = u64::try_from(fluid).unwrap();
        fluid - fluid % self.frame
    }

    fn sample(&self, now_ns: u64) -> Sample {
        let mut link = LinkCounters {
            busy_ns: now_ns,
            ..LinkCounters::default()
        };
        link.sent.wire_bytes = self.carried(now_ns);
        Sample {
            at_ns: now_ns,
            links: vec![link],
        }
    }

    /// Samples 10 ms apart, each up to `jitter_ns` late.
    fn samples(&self, count: u64, jitters: &[u64]) -> Vec<Sample> {
        let at = |n: u64| {
            let jitter = jitters[usize::try_from(n).unwrap() % jitters.len()];
            n * 10 * MS + jitter
        };
        (0..count).map(|n| self.sample(at(n))).collect()
    }
}

fn of(link: &VirtualLink, promised: LinkSpec, jitters: &[u64]) -> Residuals {
    let samples = link.samples(300, jitters);
    residuals(&samples, 0, &History::new(promised), link.frame)
}

proptest! {
    #[test]
    fn an_ideal_link_has_no_error(
        bps in 1_000_000..10_000_000_000_u64,
        frame in 78..70_000_u64,
        delay_ns in 0..100 * MS,
        jitters in prop::collection::vec(0..4 * MS, 1..50),
    ) {
        let link = VirtualLink { delay_ns, ..VirtualLink::ideal(bps, frame) };
        let promised = LinkSpec { delay: Duration::from_nanos(delay_ns), ..spec(bps) };
        let got = of(&link, promised, &jitters);
        prop_assert!(got.windows.iter().all(|w| w.worst <= 1e-9), "{got:?}");
        prop_assert!(got.windows[2].windows > 100, "{got:?}");
        prop_assert!(got.idle_share < 1e-9);
    }

    /// The frame's share of a second is forgiven, nothing else.
    #[test]
    fn a_link_that_delivers_less_is_found_by_as_much(
        bps in 100_000_000..10_000_000_000_u64,
        missing in 1_u64..100,
        jitters in prop::collection::vec(0..3 * MS, 1..50),
    ) {
        let link = VirtualLink::ideal(bps - bps / 1000 * missing, 3076);
        let got = of(&link, spec(bps), &jitters);
        let quantum = 2.0 * 3076.0 * 8.0 / bps as f64;
        let missing = missing as f64 / 1000.0;
        let second = got.windows[2];
        prop_assert!((second.median - missing).abs() <= quantum + 1e-6, "{second:?} {missing}");
    }

    #[test]
    fn a_standstill_shows_in_the_windows_around_it(stall_ms in 3..40_u64, at_ms in 1000..1900_u64) {
        let link = VirtualLink {
            stall: (at_ms * MS, (at_ms + stall_ms) * MS),
            ..VirtualLink::ideal(1_000_000_000, 31_000)
        };
        let got = of(&link, spec(1_000_000_000), &[0]);
        // A frame's 248 µs are forgiven; of a 10 ms window at most all is missing, and half of the stall lies in one.
        let least = (stall_ms as f64 / 2.0).min(10.0) / 10.0 - 0.03;
        prop_assert!(got.windows[0].worst >= least, "{got:?}");
        let in_a_second = stall_ms as f64 / 1000.0;
        prop_assert!((got.windows[2].worst - in_a_second).abs() < 0.001, "{got:?}");
        prop_assert_eq!(got.windows[0].median, 0.0);
    }
}

#[test]
fn three_percent_less_over_a_second_are_three_percent() {
    let link = VirtualLink::ideal(970_000_000, 1538);
    let got = of(&link, spec(1_000_000_000), &[0]);
    assert!((got.windows[2].worst - 0.03).abs() < 0.0001, "{got:?}");
    // From 0 to 1.99 s, and five that end with the samples, less than a twentieth short.
    assert_eq!(got.windows[2].windows, 205);
}

#[test]
fn an_idle_link_has_no_errors_and_is_said_to_be_idle() {
    let link = VirtualLink::ideal(1_000_000_000, 1538);
    let mut samples = link.samples(300, &[0]);
    for sample in &mut samples {
        sample.links[0].busy_ns /= 2;
        sample.links[0].sent.wire_bytes /= 4;
    }
    let got = residuals(&samples, 0, &History::new(spec(1_000_000_000)), 1538);
    assert!((got.idle_share - 0.5).abs() < 1e-6);
    assert_eq!((got.windows[0].windows, got.windows[0].not_busy), (0, 299));
}

#[test]
fn windows_across_a_change_or_while_down_are_left_out() {
    let samples = VirtualLink::ideal(1_000_000_000, 1538).samples(300, &[0]);
    let mut history = History::new(spec(1_000_000_000));
    history.change(1000 * MS, spec(500_000_000));
    history.change(1000 * MS + 1, spec(1_000_000_000));
    let down = LinkSpec {
        up: false,
        ..spec(1_000_000_000)
    };
    history.change(2000 * MS, down);
    assert!(!history.at(2000 * MS).up && history.at(1999 * MS).up);
    let got = residuals(&samples, 0, &history, 1538);
    assert!(got.windows.iter().all(|w| w.worst < 1e-9), "{got:?}");
    // All that begin in the last second, and the one across the change at 1 s.
    assert_eq!(got.windows[0].unsettled, 99 + 1);
}

#[test]
fn what_is_on_the_wire_arrives_under_the_old_promise() {
    let slow = LinkSpec {
        delay: Duration::from_millis(50),
        ..spec(100_000_000)
    };
    let mut history = History::new(slow);
    history.change(1000 * MS, spec(100_000_000));
    assert!(history.unsettled(1049 * MS, 1060 * MS));
    assert!(!history.unsettled(1050 * MS, 1060 * MS));
    assert!(!history.unsettled(900 * MS, 1000 * MS));
}

#[test]
fn samples_too_far_apart_are_not_taken_for_small_windows() {
    let link = VirtualLink::ideal(1_000_000_000, 1538);
    let samples: Vec<_> = (0..40).map(|n| link.sample(n * 50 * MS)).collect();
    let got = residuals(&samples, 0, &History::new(spec(1_000_000_000)), 1538);
    assert_eq!(got.windows[0].windows, 0);
    assert!(got.windows[0].unobserved > 30, "{got:?}");
    assert!(got.windows[1].windows > 30);
    assert_eq!(got.longest_gap_ns, 50 * MS);
}

#[test]
fn losses_on_the_wire_count_as_carried() {
    let link = VirtualLink::ideal(1_000_000_000, 1538);
    let mut samples = link.samples(300, &[0]);
    for sample in &mut samples {
        let link = &mut sample.links[0];
        link.lost.wire_bytes = link.sent.wire_bytes / 10;
        link.sent.wire_bytes -= link.lost.wire_bytes;
    }
    let lossy = LinkSpec {
        loss: Loss::Independent(Probability::from_ppb(100_000_000).unwrap()),
        jitter: Jitter::default(),
        ..spec(1_000_000_000)
    };
    let got = residuals(&samples, 0, &History::new(lossy), 1538);
    assert!(got.windows.iter().all(|w| w.worst < 1e-9), "{got:?}");
}

#[test]
fn a_backend_without_busy_time_is_judged_by_its_backlog() {
    let link = VirtualLink::ideal(970_000_000, 1538);
    let mut samples = link.samples(300, &[0]);
    for sample in &mut samples {
        sample.links[0].busy_ns = 0;
        sample.links[0].held.wire_bytes = 100_000;
    }
    let history = History::new(spec(1_000_000_000));
    let got = residuals(&samples, 0, &history, 1538);
    assert!((got.windows[2].median - 0.03).abs() < 0.0001, "{got:?}");
    // As the kernel's backends do.
    for sample in &mut samples {
        let link = &mut sample.links[0];
        link.busy_ns = link.sent.wire_bytes * 8;
    }
    assert_eq!(residuals(&samples, 0, &history, 1538), got);
    for sample in &mut samples {
        sample.links[0].held.wire_bytes = 0;
    }
    let got = residuals(&samples, 0, &history, 1538);
    assert_eq!(got.windows[2].windows, 0);
    assert!((got.idle_share - 0.03).abs() < 0.001);
}

#[test]
fn super_frames_weigh_what_their_segments_weigh() {
    // Ten full segments: 10 × 1448 + 52 IP bytes, 10 × 1538 on the wire.
    assert_eq!(frame_wire_bytes(14_532, 38), 15_380);
    assert_eq!(frame_wire_bytes(1500, 14), 1514);
    assert_eq!(frame_wire_bytes(60, 38), 98);
}

/// A path of one link that is busy for a share of the time, with a sender whose window is that many segments.
fn idle_of(busy: f64, segments: u32, delay: Duration) -> idle::PathIdle {
    idle_with(busy, segments, delay, 0)
}

/// The same, with a way back that holds as many bytes all the time.
fn idle_with(busy: f64, segments: u32, delay: Duration, held_bytes: u64) -> idle::PathIdle {
    let ns = |share: f64, n: u64| Duration::from_nanos(n * 10 * MS).mul_f64(share);
    let samples: Vec<_> = (0..=100)
        .map(|n| {
            let link = LinkCounters {
                busy_ns: super::ns(ns(busy, n)),
                ..LinkCounters::default()
            };
            let mut back = LinkCounters::default();
            back.held.wire_bytes = held_bytes;
            Sample {
                at_ns: n * 10 * MS,
                links: vec![link, back],
            }
        })
        .collect();
    let info = |n: u64| TcpInfo {
        cwnd_segments: segments,
        busy: ns(0.9, n),
        window_limited: ns(0.25, n),
        ..TcpInfo::default()
    };
    let tcp = [(0, info(0)), (500 * MS, info(50)), (1000 * MS, info(100))];
    let promised = LinkSpec {
        delay,
        ..spec(1_000_000_000)
    };
    let watched = Watched {
        samples: &samples,
        path: &[History::new(promised)],
        back: &[History::new(promised)],
        tcp: &tcp,
    };
    path_idle(&watched).unwrap()
}

#[test]
fn a_wide_window_over_an_idle_path_is_the_emulators_fault() {
    // 1 Gbit/s × 20 ms hold 2.5 MB, 1625 segments of 1538 bytes; 3000 are more than enough.
    let idle = idle_of(0.4, 3000, Duration::from_millis(10));
    assert!((idle.emulator_share - 0.6).abs() < 1e-6, "{idle:?}");
    assert!((idle.receiver_share - 0.25).abs() < 1e-6);
    assert!((idle.sender_share - 0.1).abs() < 1e-6);
}

#[test]
fn a_small_window_over_a_long_path_is_the_networks() {
    // 650 of 1625 segments, and of some 20 more for the frame's own serialisation: 40 % busy is all it allows.
    let idle = idle_of(0.4, 650, Duration::from_millis(10));
    assert!(idle.emulator_share < 0.01, "{idle:?}");
    assert!(idle.window_share > 0.59);
    // With the same window on a path that could be 40 % busy, 30 % are not explained by it.
    let idle = idle_of(0.1, 650, Duration::from_millis(10));
    assert!((idle.emulator_share - 0.3).abs() < 0.02, "{idle:?}");
}

#[test]
fn acknowledgements_that_wait_behind_others_are_the_networks() {
    // 1 Gbit/s × 4.2 ms of 512 KiB on the way back, and a window of 275 segments: it fills 80 % of that.
    let idle = idle_with(0.8, 275, Duration::ZERO, 524_288);
    assert!(idle.emulator_share < 0.03, "{idle:?}");
    // What the link holds while it delays is no queue: 10 ms hold 1.25 MB.
    let idle = idle_with(0.4, 3000, Duration::from_millis(10), 1_250_000);
    assert!((idle.emulator_share - 0.6).abs() < 1e-6, "{idle:?}");
}

#[test]
fn a_full_path_is_never_idle() {
    let idle = idle_of(1.0, 10, Duration::from_millis(10));
    assert!(idle.idle_share < 1e-9 && idle.emulator_share < 1e-9);
}

/// An idle path of 1 Gbit/s, sampled at these milliseconds, whose sender has a wide window; TCP as it was at these
/// milliseconds: segments sent again, whether it answers a loss.
fn idle_while(sampled_ms: &[u64], tcp: &[(u64, u32, bool)]) -> idle::PathIdle {
    let sample = |&ms: &u64| Sample {
        at_ns: ms * MS,
        links: vec![LinkCounters::default()],
    };
    let samples: Vec<_> = sampled_ms.iter().map(sample).collect();
    let look = |&(ms, retransmits, recovering): &(u64, u32, bool)| {
        let info = TcpInfo {
            cwnd_segments: 3000,
            retransmits,
            recovering,
            ..TcpInfo::default()
        };
        (ms * MS, info)
    };
    let tcp: Vec<_> = tcp.iter().map(look).collect();
    let watched = Watched {
        samples: &samples,
        path: &[History::new(spec(1_000_000_000))],
        back: &[],
        tcp: &tcp,
    };
    path_idle(&watched).unwrap()
}

#[test]
fn while_tcp_repairs_a_loss_an_idle_path_is_the_networks() {
    let grid: Vec<u64> = (0..=10).map(|n| n * 10).collect();
    let wide = idle_while(&grid, &[(0, 0, false), (100, 0, false)]);
    assert!((wide.emulator_share - 1.0).abs() < 1e-9, "{wide:?}");
    // In recovery from 30 to 60 ms: the steps from 20 to 70 touch one of these looks.
    let looks = [(0, 0, false), (30, 0, true), (60, 0, true), (65, 0, false)];
    let repaired = idle_while(&grid, &looks);
    assert!((repaired.window_share - 0.7).abs() < 1e-9, "{repaired:?}");
    // Segments were sent again between two looks: what lies between them is explained.
    let looks = [
        (0, 0, false),
        (40, 0, false),
        (50, 9, false),
        (90, 9, false),
    ];
    let again = idle_while(&grid, &looks);
    assert!((again.window_share - 0.1).abs() < 1e-9, "{again:?}");
}

#[test]
fn what_tcp_does_while_this_computer_stands_still_excuses_nothing() {
    // Nobody took samples from 20 to 180 ms; TCP's timer sent again meanwhile.
    let looks = [
        (0, 0, false),
        (15, 0, false),
        (181, 7, true),
        (200, 7, true),
    ];
    let stalled = idle_while(&[0, 10, 20, 180, 190, 200], &looks);
    // The first 10 ms and the 160 without a sample; the other 30 lie between looks that tell of a recovery.
    assert!((stalled.emulator_share - 0.85).abs() < 1e-9, "{stalled:?}");
    // The same where samples are meant to be that far apart.
    let sparse = idle_while(&[0, 160, 320, 480], &[(0, 0, true), (480, 7, true)]);
    assert!(sparse.emulator_share < 1e-9, "{sparse:?}");
}
