//! Curves of readings made by hand.

use super::*;

fn sync(at_s: f64, window_s: f64, pages: f64) -> Sync {
    Sync {
        at_ms: at_s * 1e3,
        window_s,
        pages,
        unsent: 0.0,
        blur_s: 0.0,
        throttled: 0.0,
    }
}

#[test]
fn what_was_known_is_not_found_again() {
    // Everything is known after the first reading, a quarter unsent at the second: of pages written all the time three
    // quarters are found, all are known; half unsent at the third: half.
    let reading = |at_s, unsent| Sync {
        unsent,
        ..sync(at_s, 10.0, 1.0)
    };
    let found = to_be_found(
        &[reading(10.0, 0.25), reading(20.0, 0.5), reading(5.0, 0.0)],
        Coupling::Time,
    );
    let hot = |n: usize| found[n].shares[0];
    assert!((hot(0) - 0.75).abs() < 1e-9 && (hot(1) - 0.5).abs() < 1e-9);
    // Another migration: nothing unsent, all found.
    assert!((hot(2) - 1.0).abs() < 1e-9);
    // Once in 5 s on average: 1 - e^-2 of the three quarters; then of what is not known and unsent.
    let p = 1.0 - (-2.0_f64).exp();
    let first = 0.75 * p;
    let second = (1.0 - 0.5 * (0.25 + first)) * p;
    assert!((found[0].shares[4] - first).abs() < 1e-9);
    assert!((found[1].shares[4] - second).abs() < 1e-9);
}

/// A migration that goes round and round with more than half unsent at every reading, played page class by page class.
#[test]
fn a_guest_that_writes_what_is_still_to_be_sent_is_not_taken_for_a_calm_one() {
    let truth = [PageClass::new(20_000, 5.0), PageClass::new(60_000, 0.2)];
    let mut known: Vec<f64> = truth.iter().map(|class| f64::from(class.pages)).collect();
    let mut syncs = Vec::new();
    let mut at_s = 0.0;
    let windows = [(20.0, 0.0), (4.0, 0.1), (1.5, 0.3), (0.7, 0.45)];
    for (window_s, unsent) in windows.into_iter().chain([(0.25, 0.6); 40]) {
        at_s += window_s;
        let found = truth.iter().zip(&mut known).map(|(class, known)| {
            let left = *known * unsent;
            let new = (f64::from(class.pages) - left) * (1.0 - (-class.rate * window_s).exp());
            *known = left + new;
            new
        });
        let pages = found.sum();
        syncs.push(Sync {
            unsent,
            ..sync(at_s, window_s, pages)
        });
    }
    let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
    for t in [0.25, 1.0, 5.0] {
        let off = unique_pages(&curve.classes, t) / unique_pages(&truth, t) - 1.0;
        assert!(off.abs() < 0.03, "{t}: {off}");
    }
    // What the readings themselves say of 0.25 s is a good deal less.
    let said = syncs[40].pages / unique_pages(&truth, 0.25);
    assert!(said < 0.75, "{said}");
}

#[test]
fn classes_go_through_the_points() {
    // 1,000 pages that are hot and 50,000 written every 20 s.
    let d = |t: f64| 1000.0 * (1.0 - (-10.0 * t).exp()) + 50_000.0 * (1.0 - (-t / 20.0).exp());
    let windows = [0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 12.0, 25.0];
    let syncs: Vec<Sync> = windows.iter().map(|&w| sync(w, w, d(w))).collect();
    let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
    assert!(curve.error < 0.02, "{curve:?}");
    for w in [0.25, 0.7, 3.0, 20.0] {
        let off = unique_pages(&curve.classes, w) / d(w) - 1.0;
        assert!(off.abs() < 0.05, "{w}: {off}");
    }
    assert_eq!(curve.variation, None, "too few short windows");
    assert_eq!(curve.windows_s, (0.2, 25.0));
    assert_eq!(
        curve.behaviour().pages(),
        curve
            .classes
            .iter()
            .map(|c| u64::from(c.pages))
            .sum::<u64>()
    );
}

/// 20,000 pages, each written 5 times a second of CPU time, read under throttles.
#[test]
fn readings_under_a_throttle_say_what_the_guest_writes_without() {
    let throttles = [0.0, 0.2, 0.4, 0.6];
    let windows = [0.1, 0.3, 1.0];
    let mut at_s = 0.0;
    let readings = windows
        .iter()
        .flat_map(|window_s| throttles.map(|taken| (*window_s, taken)));
    let syncs: Vec<Sync> = readings
        .map(|(window_s, throttled)| {
            at_s += window_s;
            let cpu_s: f64 = window_s * (1.0 - throttled);
            let pages = 20_000.0 * (1.0 - (-5.0 * cpu_s).exp());
            Sync {
                throttled,
                ..sync(at_s, window_s, pages)
            }
        })
        .collect();
    let off = |coupling| {
        let curve = Curve::fit("m", &syncs, 1 << 20, coupling).unwrap();
        let found = unique_pages(&curve.classes, 0.1);
        found / (20_000.0 * (1.0 - (-0.5_f64).exp())) - 1.0
    };
    assert!(off(Coupling::Cpu).abs() < 0.01, "{}", off(Coupling::Cpu));
    assert!(off(Coupling::Time) < -0.1, "{}", off(Coupling::Time));
}

#[test]
fn what_differs_from_reading_to_reading_is_a_variation() {
    // Every other window finds twice what the one before did.
    let pages = |n: u32| if n.is_multiple_of(2) { 500.0 } else { 1000.0 };
    let syncs: Vec<Sync> = (1..40).map(|n| sync(f64::from(n), 0.4, pages(n))).collect();
    let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
    let Some(Variation::LogNormal {
        cv,
        correlation,
        step_ns,
    }) = curve.variation
    else {
        panic!("{curve:?}");
    };
    // ± ln(2)/2: a standard deviation of the logarithm of 0.35.
    assert!((cv - 0.36).abs() < 0.02, "{cv}");
    assert_eq!((correlation, step_ns), (0.0, 400_000_000));
}

#[test]
fn many_short_windows_do_not_outvote_a_long_one() {
    // 300 readings of 0.3 s that found a tenth less than one of 10 s lets expect: by themselves they say 8,670 pages in 10 s.
    let mut syncs: Vec<Sync> = (0..300).map(|n| sync(f64::from(n), 0.3, 270.0)).collect();
    syncs.push(sync(400.0, 10.0, 10_000.0));
    let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
    let off = unique_pages(&curve.classes, 10.0) / 10_000.0 - 1.0;
    assert!(off.abs() < 0.1, "{off}");
    assert_eq!(curve.points, 301);
}

#[test]
fn what_polling_blurs_is_no_variation() {
    // Windows of 0.4 s, known to 0.2 s at either end, of which pages differ by as much as that explains.
    let pages = |n: u32| if n.is_multiple_of(2) { 500.0 } else { 650.0 };
    let of = |blur_s: f64| {
        let blurred = |n: u32| Sync {
            blur_s,
            ..sync(f64::from(n), 0.4, pages(n))
        };
        let mut syncs: Vec<Sync> = (1..40).map(blurred).collect();
        syncs.push(sync(60.0, 4.0, 4000.0));
        Curve::fit("m", &syncs, 1 << 20, Coupling::Time)
            .unwrap()
            .variation
    };
    assert!(of(0.0).is_some());
    assert_eq!(of(0.4), None);
}

/// Pages written once a second, read every 0.2 to 0.6 s, and after 1 to 8, at instants that are told to 0.2 s.
#[test]
fn instants_that_are_not_known_make_no_hot_pages() {
    let truth = [PageClass::new(40_000, 1.0)];
    let polled = |at_s: f64| (at_s * 5.0).ceil() / 5.0;
    let mut at_s = 0.0;
    let mut read = |window_s: f64| {
        let began_s = at_s;
        at_s += window_s;
        Sync {
            blur_s: 0.2,
            ..sync(
                at_s,
                polled(at_s) - polled(began_s),
                unique_pages(&truth, window_s),
            )
        }
    };
    let mut syncs: Vec<Sync> = (0..200_u32)
        .map(|n| read(0.2 + f64::from(n * 7 % 41) / 100.0))
        .filter(|sync| sync.window_s > 0.0)
        .collect();
    syncs.extend([1.0, 2.0, 4.0, 8.0].map(read));
    let curve = Curve::fit("m", &syncs, 1 << 20, Coupling::Time).unwrap();
    let hot = curve.classes.iter().filter(|class| class.rate > 10.0);
    let hot: u32 = hot.map(|class| class.pages).sum();
    assert!(hot < 400, "{:?}", curve.classes);
}

#[test]
fn nothing_read_is_no_curve() {
    let error = Curve::fit("m", &[], 10, Coupling::Time).unwrap_err();
    assert!(error.to_string().contains("another migration"), "{error}");
}
