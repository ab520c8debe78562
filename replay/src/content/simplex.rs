//! The simplex search of Nelder and Mead (The Computer Journal 7, 1965), their coefficients.

/// Where `cost` is least near `start`, with that cost: at most `trials` evaluations, fewer once the
/// cost is below `good`.
pub(super) fn least<const N: usize>(
    start: [f64; N],
    step: [f64; N],
    trials: usize,
    good: f64,
    cost: impl Fn(&[f64; N]) -> f64,
) -> (f64, [f64; N]) {
    let mut points = vec![(cost(&start), start)];
    for axis in 0..N {
        let mut at = start;
        at[axis] += step[axis];
        points.push((cost(&at), at));
    }
    let mut used = N + 1;
    loop {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if used >= trials || points[0].0 < good {
            return points[0];
        }
        let centre: [f64; N] = std::array::from_fn(|axis| {
            points[..N].iter().map(|p| p.1[axis]).sum::<f64>() / N as f64
        });
        let worst = points[N];
        let along = |factor: f64| -> [f64; N] {
            std::array::from_fn(|axis| centre[axis] + factor * (worst.1[axis] - centre[axis]))
        };
        let mut tried = |factor: f64| {
            used += 1;
            let at = along(factor);
            (cost(&at), at)
        };
        let reflected = tried(-1.0);
        points[N] = if reflected.0 < points[0].0 {
            let expanded = tried(-2.0);
            if expanded.0 < reflected.0 {
                expanded
            } else {
                reflected
            }
        } else if reflected.0 < points[N - 1].0 {
            reflected
        } else {
            let contracted = tried(if reflected.0 < worst.0 { -0.5 } else { 0.5 });
            if contracted.0 < worst.0.min(reflected.0) {
                contracted
            } else {
                let best = points[0].1;
                for point in &mut points[1..] {
                    let at = std::array::from_fn(|axis| (point.1[axis] + best[axis]) / 2.0);
                    *point = (cost(&at), at);
                }
                used += N;
                continue;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valley_is_followed_to_its_end() {
        // Rosenbrock's.
        let cost = |at: &[f64; 2]| (1.0 - at[0]).powi(2) + 100.0 * (at[1] - at[0] * at[0]).powi(2);
        let (least, at) = least([-1.2, 1.0], [0.5, 0.5], 400, 1e-10, cost);
        assert!(least < 1e-6, "{least} at {at:?}");
    }
}
