//! Non-negative least squares: Lawson and Hanson's active set, on small dense systems.
//!
//! C. L. Lawson, R. J. Hanson, "Solving Least Squares Problems", 1974, chapter 23. Deterministic.

/// Minimises |A x − b| over x ≥ 0. `columns[k][i]` is A's entry in row i, column k.
pub(super) fn solve(columns: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let count = columns.len();
    let mut x = vec![0.0; count];
    let mut passive = vec![false; count];
    // Each turn of the outer loop lets one column in; theory ends it, rounding might not.
    for _ in 0..3 * count {
        let gradient = gradient(columns, b, &x);
        let Some(best) = (0..count)
            .filter(|&k| !passive[k] && gradient[k] > TOLERANCE * norm(&columns[k]))
            .max_by(|&i, &j| gradient[i].total_cmp(&gradient[j]))
        else {
            break;
        };
        passive[best] = true;
        while let Some(step) = least_squares(columns, b, &passive) {
            if step.iter().zip(&passive).all(|(&s, &p)| !p || s > 0.0) {
                x = step;
                break;
            }
            towards(&mut x, &step, &mut passive);
        }
    }
    x
}

/// Gradients below this (for columns and b of about unit size) are rounding.
const TOLERANCE: f64 = 1e-10;

/// Goes from x towards `step` as far as no weight turns negative; the one that stops it, and any
/// other that reaches 0, leaves. At least one does each time, so this ends.
fn towards(x: &mut [f64], step: &[f64], passive: &mut [bool]) {
    let share = |k: usize| x[k] / (x[k] - step[k]);
    let blocking = (0..x.len()).filter(|&k| passive[k] && step[k] <= 0.0);
    // 0/0 when both are 0: that weight stops at once.
    let blocked = blocking.map(|k| (if x[k] > 0.0 { share(k) } else { 0.0 }, k));
    let Some((share, stop)) = blocked.min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return;
    };
    for k in 0..x.len() {
        if !passive[k] {
            continue;
        }
        x[k] += share * (step[k] - x[k]);
    }
    for k in 0..x.len() {
        if passive[k] && (k == stop || x[k] <= f64::EPSILON) {
            (x[k], passive[k]) = (0.0, false);
        }
    }
}

/// Aᵀ(b − A x).
fn gradient(columns: &[Vec<f64>], b: &[f64], x: &[f64]) -> Vec<f64> {
    let mut residual = b.to_vec();
    for (column, &weight) in columns.iter().zip(x) {
        for (r, &a) in residual.iter_mut().zip(column) {
            *r -= a * weight;
        }
    }
    columns
        .iter()
        .map(|column| dot(column, &residual))
        .collect()
}

/// Least squares over the passive columns by modified Gram-Schmidt; the others are 0.
/// `None` when no column is passive.
fn least_squares(columns: &[Vec<f64>], b: &[f64], passive: &[bool]) -> Option<Vec<f64>> {
    let chosen: Vec<usize> = (0..columns.len()).filter(|&k| passive[k]).collect();
    if chosen.is_empty() {
        return None;
    }
    let mut q: Vec<Vec<f64>> = chosen.iter().map(|&k| columns[k].clone()).collect();
    let count = q.len();
    let mut r = vec![vec![0.0; count]; count];
    let mut rhs = vec![0.0; count];
    let mut residual = b.to_vec();
    for i in 0..count {
        let length = norm(&q[i]);
        r[i][i] = length;
        // A column that the ones before it span gets no weight of its own.
        let scale = if length > TOLERANCE * norm(&columns[chosen[i]]) {
            length.recip()
        } else {
            0.0
        };
        q[i].iter_mut().for_each(|value| *value *= scale);
        let (done, rest) = q.split_at_mut(i + 1);
        for (offset, column) in rest.iter_mut().enumerate() {
            let along = dot(&done[i], column);
            r[i][i + 1 + offset] = along;
            subtract(column, &done[i], along);
        }
        rhs[i] = dot(&done[i], &residual);
        subtract(&mut residual, &done[i], rhs[i]);
    }
    let mut weights = vec![0.0; columns.len()];
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|j| r[i][j] * weights[chosen[j]]).sum();
        let small = r[i][i] <= TOLERANCE * norm(&columns[chosen[i]]);
        weights[chosen[i]] = if small {
            0.0
        } else {
            (rhs[i] - known) / r[i][i]
        };
    }
    Some(weights)
}

fn subtract(from: &mut [f64], direction: &[f64], amount: f64) {
    for (value, along) in from.iter_mut().zip(direction) {
        *value -= amount * along;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unconstrained_optimum_inside_is_found() {
        let x = solve(
            &[vec![1.0, 0.0, 1.0], vec![0.0, 1.0, 1.0]],
            &[1.0, 2.0, 3.0],
        );
        assert!(
            (x[0] - 1.0).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12,
            "{x:?}"
        );
    }

    #[test]
    fn a_negative_weight_becomes_zero() {
        let x = solve(&[vec![1.0, 1.0], vec![1.0, 0.0]], &[0.0, 1.0]);
        assert!((x[0] - 0.5).abs() < 1e-12 && x[1] == 0.0, "{x:?}");
    }

    #[test]
    fn equal_columns_do_not_break_it() {
        let x = solve(&[vec![1.0, 2.0], vec![1.0, 2.0]], &[2.0, 4.0]);
        assert!((x[0] + x[1] - 2.0).abs() < 1e-9, "{x:?}");
    }

    proptest! {
        /// Karush-Kuhn-Tucker: no weight negative, no gradient that would still help.
        #[test]
        fn the_optimality_conditions_hold(
            columns in proptest::collection::vec(proptest::collection::vec(0.01..1.0f64, 6), 1..6),
            b in proptest::collection::vec(-1.0..1.0f64, 6),
        ) {
            let x = solve(&columns, &b);
            for (weight, slope) in x.iter().zip(gradient(&columns, &b, &x)) {
                prop_assert!(*weight >= 0.0);
                prop_assert!(slope < 1e-6, "gradient {slope}");
                prop_assert!(*weight == 0.0 || slope.abs() < 1e-6);
            }
        }
    }
}
