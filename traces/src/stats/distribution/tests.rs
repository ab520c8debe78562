use super::*;
use crate::stats::noise::normals;

/// Values at equally spaced probabilities of a known distribution, by bisection.
fn ideal(family: Family, parameters: [f64; 2], bound: Option<f64>) -> Vec<f64> {
    let at = |i: u32| {
        let p = (f64::from(i) + 0.5) / 2000.0;
        let (mut low, mut high) = (0.0, bound.unwrap_or(1e4));
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if cumulative(family, parameters, bound, middle) < p {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    };
    (0..2000).map(at).collect()
}

#[test]
fn each_family_is_told_from_the_others_with_its_parameters() {
    for (family, parameters, bound) in [
        (Family::Normal, [50.0, 5.0], None),
        (Family::LogNormal, [1.0, 0.8], None),
        (Family::Gamma, [2.5, 3.0], None),
        (Family::Weibull, [0.7, 4.0], None),
        (Family::Beta, [2.0, 5.0], Some(100.0)),
    ] {
        let found = fits(&ideal(family, parameters, bound), bound);
        let best = found
            .best()
            .unwrap_or_else(|| panic!("{family:?}: {found:?}"));
        assert_eq!(best.family, family, "{found:?}");
        for (a, b) in best.parameters.iter().zip(parameters) {
            assert!((a - b).abs() < 0.03 * b, "{family:?}: {best:?}");
        }
    }
}

#[test]
fn two_humps_fit_none() {
    let noise = normals(9, 2000);
    let values: Vec<f64> = noise
        .iter()
        .enumerate()
        .map(|(i, n)| if i % 2 == 0 { 10.0 } else { 60.0 } + n)
        .collect();
    assert_eq!(fits(&values, Some(100.0)).best(), None);
}

#[test]
fn zeros_are_told_apart() {
    let mut values = ideal(Family::Gamma, [2.5, 3.0], None);
    values.extend([0.0; 500]);
    let found = fits(&values, None);
    assert!((found.zero_share - 0.2).abs() < 1e-12);
    assert_eq!(found.best().unwrap().family, Family::Gamma);
    assert_eq!(fits(&[3.0; 100], None).fits, []);
    assert_eq!(fits(&[], None).fits, []);
}

#[test]
fn kolmogorov_has_its_table_values() {
    // Critical values at 10, 5 and 1 %.
    for (x, p) in [(1.224, 0.10), (1.358, 0.05), (1.628, 0.01)] {
        assert!((kolmogorov(x) - p).abs() < 5e-4);
    }
}
