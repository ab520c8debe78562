//! Figures within bands, on computers that do other things too.

/// How often a band is tried for.
const ATTEMPTS: u32 = 5;

/// Tries until `judge` finds nothing wrong. A busy computer takes the processor from the links and
/// from both ends of a migration, so a run may be slower than the network asks for, and never
/// faster: what must not happen is asserted in `judge` on every run, what should happen is returned
/// as an error and has to be right once.
///
/// # Panics
/// When it never was, with everything that was wrong.
pub fn one_of(mut judge: impl FnMut() -> Result<(), String>) {
    let mut wrong = Vec::new();
    for _ in 0..ATTEMPTS {
        match judge() {
            Ok(()) => return,
            Err(found) => wrong.push(found),
        }
    }
    panic!("none of {ATTEMPTS} runs was in its band: {wrong:#?}");
}

/// Whether a figure is in its band.
///
/// # Errors
/// With both, when it is not.
pub fn within(what: &str, got: f64, [low, high]: [f64; 2]) -> Result<(), String> {
    if (low..=high).contains(&got) {
        return Ok(());
    }
    Err(format!("{what}: {got:.3}, expected {low:.3} to {high:.3}"))
}
