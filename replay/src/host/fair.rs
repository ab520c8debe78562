//! Weighted max-min fair shares by water-filling.

/// What one VM asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Most it can use.
    pub(super) want: u64,
    /// Its weight, at least 1.
    pub(super) weight: u32,
}

/// Shares of `capacity`: nobody gets more than it wants, and who gets less gets as much per weight
/// as anybody. Rounded down to the unit, so less than one unit a claim may stay unused; that
/// depends on nothing but the set of claims, not on how far unmet ones exceed their share.
pub(super) fn shares(capacity: u64, claims: &[Claim]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    // By want per weight, compared crosswise to stay in integers.
    order.sort_by(|&a, &b| {
        let (a, b) = (claims[a], claims[b]);
        let left = u128::from(a.want) * u128::from(b.weight);
        left.cmp(&(u128::from(b.want) * u128::from(a.weight)))
    });
    let mut granted = vec![0; claims.len()];
    let mut room = u128::from(capacity);
    let mut weights: u128 = claims.iter().map(|claim| u128::from(claim.weight)).sum();
    for (done, &index) in order.iter().enumerate() {
        let claim = claims[index];
        let weight = u128::from(claim.weight);
        if u128::from(claim.want) * weights > room * weight {
            for &rest in &order[done..] {
                let share = room * u128::from(claims[rest].weight) / weights;
                granted[rest] = u64::try_from(share).expect("a share of a 64-bit capacity");
            }
            return granted;
        }
        granted[index] = claim.want;
        room -= u128::from(claim.want);
        weights -= weight;
    }
    granted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(want: u64, weight: u32) -> Claim {
        Claim { want, weight }
    }

    #[test]
    fn small_claims_are_met_and_the_rest_is_shared_by_weight() {
        let found = shares(1000, &[claim(100, 1), claim(900, 1), claim(900, 2)]);
        assert_eq!(found, [100, 300, 600]);
        assert_eq!(
            shares(10, &[claim(9, 1), claim(9, 1), claim(9, 1)]),
            [3, 3, 3]
        );
        assert_eq!(shares(10, &[]), Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn shares_are_max_min_fair(
            capacity in 0u64..5000,
            claims in prop::collection::vec((0u64..2000, 1u32..8), 1..12),
        ) {
            let claims: Vec<Claim> = claims.into_iter().map(|(w, x)| claim(w, x)).collect();
            let found = shares(capacity, &claims);
            let wanted: u64 = claims.iter().map(|claim| claim.want).sum();
            let total: u64 = found.iter().sum();
            prop_assert!(total <= capacity.min(wanted));
            prop_assert!(total + claims.len() as u64 > capacity.min(wanted), "work conserving");
            for (i, a) in claims.iter().enumerate() {
                prop_assert!(found[i] <= a.want);
                for (j, b) in claims.iter().enumerate() {
                    // Who is short has no less per weight than anybody else (but for rounding).
                    if found[i] < a.want {
                        prop_assert!(
                            (found[i] + 1) * u64::from(b.weight) >= found[j] * u64::from(a.weight)
                        );
                    }
                }
            }
        }

        #[test]
        fn asking_for_more_than_a_share_changes_nothing(
            capacity in 0u64..5000,
            claims in prop::collection::vec((0u64..2000, 1u32..8), 1..12),
            extra in 1u64..5000,
        ) {
            let mut claims: Vec<Claim> = claims.into_iter().map(|(w, x)| claim(w, x)).collect();
            let before = shares(capacity, &claims);
            for (claim, &granted) in claims.iter_mut().zip(&before) {
                if granted < claim.want {
                    claim.want += extra;
                }
            }
            prop_assert_eq!(shares(capacity, &claims), before);
        }
    }
}
