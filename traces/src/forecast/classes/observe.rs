//! Classes watched over a recording, window by window.

use super::{CLASSES, ClassWindow, ClassWindows, EDGES};
use crate::dirty::{PageWriteTrace, Tick};
use crate::units::round_usize;

/// What a window's writes weigh after one more: half after eight.
const KEPT: f64 = 0.917_004_043_204_671_2;
/// Class of a page that was never written.
const UNSEEN: u8 = u8::MAX;

/// Watches the classes over the recording in windows of `step_ms`, the first of which (it holds what
/// was touched before) is left out: window i is cell i of
/// [`Sampled::page_writes`](crate::stats::Sampled::page_writes) of that step.
///
/// `None` when the step is no whole number of ticks, or less than two windows are there.
#[must_use]
pub fn class_windows(trace: &PageWriteTrace, step_ms: u32) -> Option<ClassWindows> {
    let step_ns = u64::from(step_ms) * 1_000_000;
    let step_s = f64::from(step_ms) / 1000.0;
    crate::stats::ticks_of(trace.interval_ns, step_s)?;
    let count = usize::try_from(trace.duration_ns() / step_ns).ok()?;
    if count < 2 {
        return None;
    }
    let mut pages = Pages::new(usize::try_from(trace.pages).ok()?, step_s);
    let mut windows = Vec::with_capacity(count - 1);
    let mut ticks = trace.ticks.as_slice();
    for window in 0..count {
        let end_ns = (window as u64 + 1) * step_ns;
        let (inside, rest) = ticks.split_at(ticks.partition_point(|tick| tick.t_ns <= end_ns));
        ticks = rest;
        if window == 0 {
            pages.touch(inside);
        } else {
            windows.push(pages.watch(inside));
        }
    }
    Some(ClassWindows { step_s, windows })
}

/// What is known of each page.
struct Pages {
    step_s: f64,
    /// Class by the windows before.
    class: Vec<u8>,
    /// Ticks of the windows before that wrote the page, older ones less.
    marks: Vec<f32>,
    /// Ticks of this window that wrote it.
    now: Vec<u32>,
    /// 1 + the stretch in which the page was last counted, over all windows.
    counted: Vec<u32>,
    /// Stretches of the windows before.
    stretches: u32,
    /// Ticks of the windows before, older ones less.
    ticks: f64,
    sizes: [u32; CLASSES],
    /// What the windows before showed of each class, and of pages never written before.
    seen: [Seen; CLASSES],
    fresh: Seen,
}

/// Looks for first writes in a window: more than pages, so that their share is small.
const FRESH_LOOKS: f64 = 4_294_967_296.0;

/// Looks at pages, and how many showed a write.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    hits: f64,
    looks: f64,
}

impl Seen {
    /// The share of written ones in a window, never none and never all, so that it has a logarithm: half a
    /// write is added, and as many looks as it took for half a write before. So a window too short
    /// for a write of a cold class says what the windows before said.
    fn take(&mut self, hits: f64, looks: f64) -> f64 {
        let before = (self.hits + 0.5) / (self.looks + 1.0);
        self.hits += hits;
        self.looks += looks;
        (hits + 0.5) / (looks + 0.5 / before)
    }
}

impl Pages {
    fn new(pages: usize, step_s: f64) -> Self {
        Self {
            step_s,
            class: vec![UNSEEN; pages],
            marks: vec![0.0; pages],
            now: vec![0; pages],
            counted: vec![0; pages],
            stretches: 0,
            ticks: 0.0,
            sizes: [0; CLASSES],
            seen: [Seen::default(); CLASSES],
            fresh: Seen::default(),
        }
    }

    /// Pages touched before the first window: known, and written at no rate.
    fn touch(&mut self, ticks: &[Tick]) {
        let coldest = CLASSES - 1;
        for page in ticks.iter().flat_map(Tick::pages) {
            if let Some(class) = self.class.get_mut(page as usize).filter(|c| **c == UNSEEN) {
                *class = u8::try_from(coldest).unwrap_or(UNSEEN);
                self.sizes[coldest] += 1;
            }
        }
    }

    fn watch(&mut self, ticks: &[Tick]) -> ClassWindow {
        // A class is looked at over the whole window, so that D of its length is what was seen; but classes
        // of which nearly every page is written in it in stretches of one to three writes.
        let stretch = std::array::from_fn::<usize, CLASSES, _>(|class| {
            let least = EDGES.get(class).map_or(1.0, |edge| edge.max(1.0));
            round_usize((ticks.len() as f64 / least).floor()).max(1)
        });
        let mut hits = [0u64; CLASSES];
        for (index, tick) in ticks.iter().enumerate() {
            for page in tick.pages().map(|page| page as usize) {
                let Some(&class) = self.class.get(page) else {
                    continue;
                };
                self.now[page] += 1;
                let class = usize::from(class);
                if class >= CLASSES {
                    continue;
                }
                let at = index / stretch[class];
                // What is left after the last whole stretch does not count.
                let whole = (at + 1) * stretch[class] <= ticks.len();
                let mark = self.stretches + u32::try_from(at).unwrap_or(u32::MAX - 1) + 1;
                if whole && self.counted[page] != mark {
                    self.counted[page] = mark;
                    hits[class] += 1;
                }
            }
        }
        self.stretches += u32::try_from(ticks.len()).unwrap_or(0);
        let log_rates = std::array::from_fn(|class| {
            let stretches = ticks.len() / stretch[class];
            let looks = stretches as f64 * f64::from(self.sizes[class]);
            let written = self.seen[class].take(hits[class] as f64, looks);
            let stretch_s = self.step_s * stretch[class] as f64 / ticks.len().max(1) as f64;
            (looks > 0.0).then(|| (-(-written).ln_1p() / stretch_s).ln())
        });
        let (distinct, fresh) = self.close(ticks.len());
        let looked = if ticks.is_empty() { 0.0 } else { FRESH_LOOKS };
        let share = self.fresh.take(fresh, looked);
        ClassWindow {
            distinct,
            log_rates,
            log_fresh: (looked > 0.0).then(|| (share * FRESH_LOOKS / self.step_s).ln()),
            sizes: self.sizes,
        }
    }

    /// Takes the window's writes as seen and puts every known page into its class again. Pages written
    /// in the window, and those of them for the first time.
    fn close(&mut self, ticks: usize) -> (f64, f64) {
        self.ticks = self.ticks * KEPT + ticks as f64;
        let (mut distinct, mut fresh) = (0u32, 0u32);
        self.sizes = [0; CLASSES];
        let pages = self
            .class
            .iter_mut()
            .zip(&mut self.marks)
            .zip(&mut self.now);
        for ((class, marks), now) in pages {
            if *now > 0 {
                distinct += 1;
                fresh += u32::from(*class == UNSEEN);
            } else if *class == UNSEEN {
                continue;
            }
            let seen = f64::from(*marks) * KEPT + f64::from(std::mem::take(now));
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a decaying count, to seven digits"
            )]
            let kept = seen as f32;
            *marks = kept;
            // Writes a window, by the share of ticks that wrote the page.
            let share = (seen / self.ticks.max(1.0)).min(1.0);
            let writes = -(-share).ln_1p() * ticks.max(1) as f64;
            let found = EDGES.iter().take_while(|&&edge| writes < edge).count();
            *class = u8::try_from(found).unwrap_or(UNSEEN);
            self.sizes[found] += 1;
        }
        (f64::from(distinct), f64::from(fresh))
    }
}
