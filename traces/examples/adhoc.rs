use traces::class::Coupling;
use traces::fit::*;
use traces::import::{ImportOptions, import_path};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = import_path(a[1].as_ref(), ImportOptions::default())
        .unwrap()
        .vms
        .into_iter()
        .next()
        .unwrap()
        .page_writes
        .unwrap();
    for p in phases(&t) {
        println!(
            "phase {:.1}..{:.1} cores {:.3} pages/s {:.0}",
            p.range_ns.start as f64 / 1e9,
            p.range_ns.end as f64 / 1e9,
            p.cores,
            p.pages_per_s
        );
    }
    let s: Vec<u64> = traces::stats::distinct_per_second(&t);
    println!("{s:?}");
    for r in a[2..].chunks(2) {
        let n = |i: usize| (r[i].parse::<f64>().unwrap() * 1e9) as u64;
        let range = n(0)..n(1);
        for c in [Coupling::Cpu, Coupling::Time] {
            for v in [false, true] {
                let h = if v {
                    varied_halves(&t, &range, c)
                } else {
                    halves(&t, &range, c)
                };
                match h {
                    Ok(h) => {
                        for (w, d) in [("f", &h.forward), ("b", &h.backward)] {
                            let e: Vec<String> = d
                                .windows
                                .iter()
                                .map(|w| {
                                    format!(
                                        "{:.1}% m{:.0} p{:.0}",
                                        w.error * 100.0,
                                        w.measured.mean,
                                        w.predicted.mean
                                    )
                                })
                                .collect();
                            println!("{range:?} {c:?} varied={v} {w}: {}", e.join(" / "));
                        }
                    }
                    Err(e) => println!("{e}"),
                }
            }
        }
    }
}
