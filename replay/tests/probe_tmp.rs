#[test]
fn probe() {
    use traces::content::*;
    for bytes in [17.0, 18.0, 19.0, 20.0] {
        for runs in [3.2, 3.4, 3.6, 3.8, 4.0] {
            let p = ContentProfile {
                rewrite: Rewrite {
                    unchanged_share: 0.0,
                    overflow_share: 0.0,
                    xbzrle_bytes: bytes,
                    changed_runs: runs,
                },
                ..ContentProfile::RANDOM
            };
            match replay::content::Recipe::solve(&p) {
                Ok(r) => {
                    let pool = replay::content::PagePool::new(&r, 1, 512);
                    let page = |page: u32, version: u64| {
                        let (s, b) = pool.page(7, page, version);
                        [&s.encode()[..], b].concat()
                    };
                    let mut sum = 0;
                    for n in 0..2000u32 {
                        let w = u64::from(n) % 40 + 1;
                        sum += xbzrle_len(&page(n, w), &page(n, w + 1)).unwrap();
                    }
                    println!("{bytes} {runs} ok, mean {}", sum as f64 / 2000.0);
                }
                Err(e) => println!("{bytes} {runs} {e}"),
            }
        }
    }
}
