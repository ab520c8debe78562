//! Requested pages on a connection of their own, beside a post-copy's main one.
//!
//! Never inside: the main one's damage (`pulls`).

use std::collections::{BTreeMap, BTreeSet};

use migbed::clock::mono_ns;
use migbed::migration::wire::{Decoder, Event};

use crate::damage::mutated;
use crate::draw::Draw;
use crate::ends::recorded;
use crate::expect::{Holds, Possible};
use crate::guest::{RAM_PAGES, memory, random};
use crate::pulls::{check, feed, post_copy, pulled, recovery};
use crate::{HANG_NS, tries};

#[test]
fn no_requested_page_is_taken_for_what_it_is_not() {
    let memory = memory(40.0, random());
    let mut params = post_copy(true);
    params.postcopy.stall_timeout = 300;
    let taped = recorded(&params, &memory);
    let (main, beside) = (&taped[0], &taped[1]);
    let mut marks = vec![0];
    let (mut decoder, mut said) = (Decoder::pages_alone(RAM_PAGES), 0);
    while let Ok(Some((taken, _))) = decoder.decode(&beside.there[marks[said]..]) {
        marks.push(marks[said] + taken);
        said += 1;
    }
    assert_eq!(marks[said], beside.there.len());
    println!("{said} requested pages");
    let (mut lost, mut whole, mut recovered) = (0, 0, 0);
    let tries = tries() / 10;
    for seed in 0..tries {
        let mut draw = Draw(seed ^ 0x93EE);
        let (damage, damaged) = mutated(&mut draw, &beside.there, &marks, &main.there);
        let state = pulled(&memory, &params, std::slice::from_ref(&main.there))
            .state
            .unwrap();
        let mut connections = vec![main.there.clone()];
        let again = draw.below(2) == 0;
        if again {
            connections.push(recovery(&mut draw, &memory, &params, &state));
        }
        let closes = draw.below(2) == 0;
        let what = format!("seed {seed}: {damage}, again {again}, closes {closes}");
        let began_ns = mono_ns();
        let (outcome, committed, guest) = feed(
            &memory,
            &params,
            &connections,
            Some((beside, &damaged, closes)),
        );
        assert!(mono_ns() - began_ns < HANG_NS, "{what}: it hung");
        assert!(
            committed
                .as_ref()
                .is_none_or(|committed| *committed == state),
            "{what}"
        );
        // Each page as any of the connections brought it.
        let mut pages: BTreeMap<u32, BTreeSet<Holds>> = BTreeMap::new();
        let (mut decoder, mut at) = (Decoder::pages_alone(RAM_PAGES), 0);
        while let Ok(Some((taken, event))) = decoder.decode(&damaged[at..]) {
            at += taken;
            let (page, held) = match event {
                Event::Page { page, bytes } => (page, Holds::of(&memory, page, bytes)),
                Event::ZeroPage { page } => (page, Holds::Zero),
                _ => break,
            };
            pages.entry(page).or_default().insert(held);
        }
        let mut on_main = pulled(&memory, &params, &connections).pages;
        if again {
            on_main = pulled(&memory, &params, &connections[1..]).pages;
        }
        for (page, held) in (0..).zip(on_main) {
            pages.entry(page).or_default().insert(held);
        }
        let pages: Possible = pages.into_values().collect();
        let runs = check(
            &what,
            &memory,
            &pages,
            (&outcome, committed.as_ref(), &guest),
        );
        assert!(
            runs || !again || committed.is_none(),
            "{what}: {:?}",
            outcome.report.error
        );
        match (runs, again) {
            (false, _) => lost += 1,
            (true, true) => recovered += 1,
            (true, false) => whole += 1,
        }
    }
    println!(
        "{tries} connections of requested pages: {lost} lost and given up, {whole} whole, {recovered} whole after a recovery"
    );
}
