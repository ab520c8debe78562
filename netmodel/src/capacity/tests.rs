use proptest::prelude::*;

use super::*;
use crate::units::BitRate;

fn capacity(backend: BackendKind, small: (f64, f64), large: (f64, f64)) -> Capacity {
    let throughput = |(frame_bytes, bytes_per_s): (f64, f64)| Throughput {
        frame_bytes,
        bytes_per_s,
        frames_per_s: bytes_per_s / frame_bytes,
        cpu_share: 1.5,
    };
    Capacity {
        key: CapacityKey {
            kernel: "6.18".to_owned(),
            cpus: 2,
            backend,
            version: "0".to_owned(),
        },
        measured: [throughput(small), throughput(large)],
        timer_late_p99_ns: 100_000,
    }
}

/// 10 µs per frame and 1 ns per byte.
fn known() -> Capacity {
    let rate = |frame: f64| (frame, 1.0 / (10e-6 / frame + 1e-9));
    capacity(BackendKind::Relay, rate(3000.0), rate(60_000.0))
}

fn demand(loads: &[(u64, u32)]) -> Demand {
    let load = |&(rate_bps, frame_bytes): &(u64, u32)| Load {
        rate_bps,
        frame_bytes,
    };
    Demand {
        loads: loads.iter().map(load).collect(),
    }
}

#[test]
fn two_sizes_give_the_cost_of_any() {
    let known = known();
    for frame in [1500.0, 3000.0, 20_000.0, 65_536.0] {
        let expected = 10e-6 / frame + 1e-9;
        let got = known.seconds_per_byte(frame);
        assert!((got / expected - 1.0).abs() < 1e-9, "{frame}: {got}");
    }
    // 1.5 CPUs are busy whatever the size: each second of work costs 1.5 of CPU.
    let (per_frame, per_byte) = known.cpu_ns();
    assert!((per_frame - 15_000.0).abs() < 1e-3 && (per_byte - 1.5).abs() < 1e-9);
}

#[test]
fn what_does_not_fit_is_told_the_smallest_k_that_does() {
    let known = known();
    // 1 Gbit/s in frames of 31 250 bytes: 125 MB × (0.32 + 1) ns = 0.165 s of work; 0.75 s are there.
    let one = demand(&[(1_000_000_000, 31_250)]);
    let admission = known.admits(&one, &[]);
    assert!(admission.fits && admission.smallest_k == Some(1));
    assert!((admission.utilisation - 0.165 / 0.75).abs() < 1e-9);
    let many = demand(&[(1_000_000_000, 31_250); 32]);
    let admission = known.admits(&many, &[]);
    // Each link sends 4,000 frames a second, 0.04 s of work, until k makes frames as small as they get (3000 bytes, from
    // k = 10.4 on): at k the links take 32 × (125 MB / k) × (10 µs / 3000 + 1 ns) = 17.33 s / k, which fits at 24.
    assert_eq!(admission.smallest_k, Some(24));
    assert!(!admission.fits);
}

#[test]
fn a_backend_that_would_carry_it_is_named() {
    let fast = capacity(BackendKind::Htb, (3000.0, 2e9), (60_000.0, 5e9));
    let slow = capacity(BackendKind::Netem, (3000.0, 1e7), (60_000.0, 1e7));
    let asked = demand(&[(1_000_000_000, 31_250); 8]);
    let admission = known().admits(&asked, &[fast, slow, known()]);
    assert!(!admission.fits);
    assert_eq!(admission.others, [BackendKind::Htb]);
}

#[test]
fn nothing_asked_always_fits() {
    let mut none = Demand::default();
    none.add(&LinkSpec::default());
    assert!(none.loads.is_empty());
    let mut one = Demand::default();
    one.add(&LinkSpec::with_rate(
        BitRate::from_bps(1_000_000_000).unwrap(),
    ));
    assert_eq!(one, demand(&[(1_000_000_000, 31_250)]));
    assert!(known().admits(&none, &[]).fits);
}

#[test]
fn a_capacity_is_read_back_as_it_was_written() {
    let text = serde_json::to_string(&known()).unwrap();
    assert_eq!(serde_json::from_str::<Capacity>(&text).unwrap(), known());
}

proptest! {
    #[test]
    fn the_smallest_k_fits_and_the_next_smaller_does_not(
        rates in prop::collection::vec((1_000_000..40_000_000_000_u64, 1500..65_536_u32), 1..40),
        small in 1e7..1e9, gain in 1.0..10.0,
    ) {
        let capacity = capacity(BackendKind::Relay, (3000.0, small), (60_000.0, small * gain));
        let asked = demand(&rates);
        let admission = capacity.admits(&asked, &[]);
        prop_assert_eq!(admission.fits, admission.smallest_k == Some(1));
        let fits = |k| capacity.utilisation(&asked.divided_by(k)) <= 1.0;
        match admission.smallest_k {
            Some(k) => prop_assert!(fits(k) && (k == 1 || !fits(k - 1))),
            None => prop_assert!(!fits(K_MAX)),
        }
    }

    #[test]
    fn any_measurement_gives_a_finite_cost(
        frames in (1.0..1e5, 1.0..1e5), rates in (1.0..1e10, 1.0..1e10), frame in 1.0..1e5,
    ) {
        let capacity = capacity(BackendKind::Relay, (frames.0, rates.0), (frames.1, rates.1));
        let cost = capacity.seconds_per_byte(frame);
        prop_assert!(cost.is_finite() && cost >= 0.0);
    }

    #[test]
    fn both_sizes_are_frames_that_may_be(gso: u32) {
        let [small, large] = sizes(gso);
        prop_assert!((3000..=GSO_LARGEST).contains(&small) && small < large && large <= GSO_LARGEST);
    }
}
