//! Small dense linear systems: what regressions need.

/// Solves A x = b by elimination with partial pivoting; `None` when A is singular to rounding.
pub(crate) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    let scale = a.iter().flatten().fold(0.0f64, |most, v| most.max(v.abs()));
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs()))?;
        if a[pivot][i].abs() <= scale * 1e-13 {
            return None;
        }
        a.swap(i, pivot);
        b.swap(i, pivot);
        let (done, rest) = a.split_at_mut(i + 1);
        let row = &done[i];
        for (offset, other) in rest.iter_mut().enumerate() {
            let factor = other[i] / row[i];
            if factor != 0.0 {
                for (value, above) in other.iter_mut().zip(row).skip(i) {
                    *value -= factor * above;
                }
                b[i + 1 + offset] -= factor * b[i];
            }
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    Some(b)
}

/// An ordinary least-squares fit.
pub(crate) struct Regression {
    pub(crate) coefficients: Vec<f64>,
    /// Standard errors of the coefficients.
    pub(crate) errors: Vec<f64>,
    /// Sum of squared residuals.
    pub(crate) residual: f64,
}

/// The normal equations of a regression: sums over rows, from which any leading part of the
/// regressors can be fitted.
pub(crate) struct Normal {
    a: Vec<Vec<f64>>,
    b: Vec<f64>,
    square: f64,
    pub(crate) count: usize,
}

impl Normal {
    pub(crate) fn new(width: usize) -> Self {
        Self {
            a: vec![vec![0.0; width]; width],
            b: vec![0.0; width],
            square: 0.0,
            count: 0,
        }
    }

    pub(crate) fn add(&mut self, row: &[f64], y: f64) {
        for (i, value) in row.iter().enumerate() {
            self.b[i] += value * y;
            for (sum, other) in self.a[i].iter_mut().zip(&row[..=i]) {
                *sum += value * other;
            }
        }
        self.square += y * y;
        self.count += 1;
    }

    /// Fits the first `width` regressors; `None` when the equations are singular or there are no
    /// more rows than regressors.
    pub(crate) fn fit(&self, width: usize) -> Option<Regression> {
        if self.count <= width {
            return None;
        }
        // Only the lower triangle was summed.
        let at = |i: usize, k: usize| self.a[i.max(k)][i.min(k)];
        let row = |i: usize| (0..width).map(|k| at(i, k)).collect();
        let a: Vec<Vec<f64>> = (0..width).map(row).collect();
        let coefficients = solve(a.clone(), self.b[..width].to_vec())?;
        let explained: f64 = coefficients.iter().zip(&self.b).map(|(c, b)| c * b).sum();
        let residual = (self.square - explained).max(0.0);
        let noise = residual / (self.count - width) as f64;
        let mut errors = Vec::with_capacity(width);
        for i in 0..width {
            let unit = (0..width).map(|k| f64::from(u8::from(k == i))).collect();
            let inverse = solve(a.clone(), unit)?;
            errors.push((noise * inverse[i]).max(0.0).sqrt());
        }
        Some(Regression {
            coefficients,
            errors,
            residual,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_with_its_errors() {
        let mut sums = Normal::new(2);
        for (i, y) in [1.1, 2.9, 5.1, 6.9, 9.1].into_iter().enumerate() {
            sums.add(&[1.0, i as f64], y);
        }
        let found = sums.fit(2).unwrap();
        // By hand: slope 2.0, intercept 1.02, residual 0.048.
        assert!((found.coefficients[1] - 2.0).abs() < 1e-12);
        assert!((found.coefficients[0] - 1.02).abs() < 1e-12);
        assert!((found.residual - 0.048).abs() < 1e-9);
        assert!((found.errors[1] - (0.048f64 / 3.0 / 10.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn singular_systems_have_no_solution() {
        assert_eq!(
            solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 2.0]),
            None
        );
        assert_eq!(
            solve(vec![vec![0.0, 2.0], vec![4.0, 0.0]], vec![2.0, 4.0]),
            Some(vec![1.0, 1.0])
        );
    }
}
