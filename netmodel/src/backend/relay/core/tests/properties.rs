//! What holds of any links and any packets.

use super::*;

fn any_loss() -> impl Strategy<Value = Loss> {
    let share = || {
        let any = 0..=1_000_000_000_u32;
        any.prop_map(|parts| Probability::from_ppb(parts).unwrap())
    };
    let chain = (share(), share(), share(), share());
    prop_oneof![
        2 => Just(Loss::None),
        1 => share().prop_map(Loss::Independent),
        1 => chain.prop_map(|(good_to_bad, bad_to_good, loss_in_bad, loss_in_good)| {
            Loss::GilbertElliott(GilbertElliott { good_to_bad, bad_to_good, loss_in_bad, loss_in_good })
        }),
    ]
}

fn any_jitter() -> impl Strategy<Value = Jitter> {
    let shape = prop_oneof![
        Just(Distribution::Uniform),
        Just(Distribution::Normal),
        Just(Distribution::Pareto),
    ];
    (0_u64..2_000, shape).prop_map(|(spread, distribution)| Jitter {
        spread: Duration::from_micros(spread.saturating_sub(1_000)),
        distribution,
        reorder: false,
    })
}

fn any_spec() -> impl Strategy<Value = LinkSpec> {
    let shape = (prop::option::of(1_u64..5_000), 0_u64..3_000, 1_u64..200_000);
    let rest = (
        any_loss(),
        any_jitter(),
        prop::option::of(0_u64..9_000),
        0_u8..8,
        0_u16..40,
    );
    (shape, rest).prop_map(
        |((mbit, delay, queue), (loss, jitter, ecn, up, overhead_bytes))| {
            let shaped = spec(mbit.unwrap_or(1), delay, queue);
            LinkSpec {
                rate: shaped.rate.filter(|_| mbit.is_some()),
                loss,
                jitter,
                ecn_threshold: ecn.map(ByteSize::from_bytes),
                up: up > 0,
                overhead_bytes,
                ..shaped
            }
        },
    )
}

/// The same links where packets may overtake.
fn reordering(specs: &[LinkSpec]) -> Vec<LinkSpec> {
    let jitter = |spec: &LinkSpec| Jitter {
        reorder: true,
        ..spec.jitter
    };
    specs
        .iter()
        .map(|spec| LinkSpec {
            jitter: jitter(spec),
            ..*spec
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Act {
    Send {
        gap: u64,
        from: u32,
        hop: u32,
        parcel: Parcel,
    },
    Late {
        gap: u64,
    },
    Change {
        link: u32,
        spec: LinkSpec,
    },
}

fn any_parcel() -> impl Strategy<Value = Parcel> {
    (1_u32..65_000, 100_u32..1500, 0_u8..3, any::<bool>()).prop_map(
        |(payload, mut segment_payload, kind, ecn_capable)| {
            let mut size = PacketSize {
                ip_bytes: 52 + payload,
                segments: payload.div_ceil(segment_payload),
                header_bytes: 52,
            };
            if kind == 0 {
                size = PacketSize::plain(52 + payload);
            }
            if kind == 0 || size.segments > 128 {
                segment_payload = 0;
            }
            Parcel {
                size,
                segment_payload,
                ecn_capable,
            }
        },
    )
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0_u64..200_000, 0_u32..3, 1_u32..3, any_parcel())
            .prop_map(|(gap, from, hop, parcel)| Act::Send { gap, from, hop, parcel }),
        2 => (0_u64..5_000_000).prop_map(|gap| Act::Late { gap }),
        1 => (0_u32..6, any_spec()).prop_map(|(link, spec)| Act::Change { link, spec }),
    ]
}

/// Plays acts; `steps` wakes the core at every event on the way, otherwise only when something happens.
fn play(specs: &[LinkSpec], acts: &[Act], steps: bool) -> (Core<u32>, Seen, u64) {
    let pairs: Vec<_> = specs.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    let (mut core, mut seen, mut now) = (star(&pairs), Seen::default(), 0);
    for (n, act) in (0..).zip(acts) {
        let gap = match act {
            Act::Send { gap, .. } | Act::Late { gap } => *gap,
            Act::Change { .. } => 1,
        };
        while let Some(at) = core.next_event().filter(|at| steps && *at <= now + gap) {
            seen.advance(&mut core, at);
        }
        now += gap;
        match act {
            Act::Send {
                from, hop, parcel, ..
            } => {
                let way = (*from, (from + hop) % 3);
                seen.send_parcel(&mut core, now, way, (n, *parcel));
            }
            Act::Late { .. } => seen.advance(&mut core, now),
            Act::Change { link, spec } => {
                core.change(now, LinkId(*link), *spec, &mut |outcome| {
                    seen.take(&outcome);
                });
            }
        }
    }
    (core, seen, now)
}

proptest! {
    #[test]
    fn every_field_is_conserved_at_every_instant(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
        reorder: bool,
    ) {
        let specs = if reorder { reordering(&specs) } else { specs };
        let (mut core, mut seen, now) = play(&specs, &acts, false);
        prop_assert!(core.all_counters(now).all(|c| is_conserved(&c)));
        seen.advance(&mut core, u64::MAX);
        for c in core.all_counters(u64::MAX) {
            prop_assert!(is_conserved(&c));
            prop_assert_eq!(c.held, Tally::default());
        }
        prop_assert!(core.is_idle());
        let sent = acts.iter().filter(|act| matches!(act, Act::Send { .. })).count();
        prop_assert_eq!(seen.delivered.len() + seen.dropped.len() + seen.lost.len(), sent);
        // What arrived is what the last links sent, segment by segment.
        let lost = seen.fates.iter().map(|fate| u64::from(fate.lost.count_ones())).sum::<u64>();
        let arrived = seen.delivered.iter().map(|d| match &acts[d.1 as usize] {
            Act::Send { parcel, .. } => u64::from(parcel.size.segments),
            _ => 0,
        });
        let down = core.all_counters(u64::MAX).skip(1).step_by(2);
        prop_assert_eq!(arrived.sum::<u64>() - lost, down.map(|c| c.sent.segments).sum::<u64>());
    }

    #[test]
    fn busy_time_is_never_ahead_of_the_clock(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let (core, _, now) = play(&specs, &acts, false);
        prop_assert!(core.all_counters(now).all(|c| c.busy_ns <= now));
    }

    #[test]
    fn packets_of_one_pair_never_overtake(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let (mut core, mut seen, _) = play(&specs, &acts, false);
        seen.advance(&mut core, u64::MAX);
        let way = |n: u32| match acts[n as usize] {
            Act::Send { from, hop, .. } => Some((from, hop)),
            _ => None,
        };
        for (i, a) in seen.delivered.iter().enumerate() {
            for b in &seen.delivered[i + 1..] {
                prop_assert!(way(a.1) != way(b.1) || (a.1 < b.1 && a.2 <= b.2));
            }
        }
    }

    #[test]
    fn late_wake_ups_change_no_instant(
        specs in prop::collection::vec(any_spec(), 6),
        acts in prop::collection::vec(any_act(), 1..120),
        reorder: bool,
    ) {
        let specs = if reorder { reordering(&specs) } else { specs };
        let (mut core, mut late, _) = play(&specs, &acts, false);
        late.advance(&mut core, u64::MAX);
        let (mut core, mut prompt, _) = play(&specs, &acts, true);
        prompt.advance(&mut core, u64::MAX);
        prop_assert_eq!(&late.delivered, &prompt.delivered);
        prop_assert_eq!(&late.fates, &prompt.fates);
        prop_assert_eq!(&late.dropped, &prompt.dropped);
        late.lost.sort_unstable();
        prompt.lost.sort_unstable();
        prop_assert_eq!(late.lost, prompt.lost);
    }
}
