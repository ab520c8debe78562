//! Golden: what columns become.

use super::super::columns::tests::line_with;
use super::*;
use crate::migration::params::Compression;
use replay::content::{PagePool, Recipe};
use serde_json::{Value, json};
use traces::class::unique_pages;
use traces::content::{Codecs, PAGE, xbzrle_len};

fn lone(more: &Value, seed: u64) -> Lone {
    let (line, _) = line_with(more);
    let run = RealRun {
        run_id: "a-0".to_owned(),
        repeat: 0,
        measured: line.measured(),
    };
    Configuration::new(line, run).lone(seed)
}

fn slow(link_mbit: u64) -> Lone {
    lone(&json!({ "link_mbit": link_mbit }), 1)
}

#[test]
fn set_a_is_shaped_on_the_sources_device() {
    let lone = lone(&json!({}), 1);
    assert_eq!(lone.link.rate, BitRate::from_bps(500_000_000));
    assert_eq!(lone.link.overhead_bytes, 14);
    assert_eq!(lone.link.queue.bytes(), 3_250_000);
    let burst = ByteSize::from_bytes(125_000);
    assert_eq!(lone.link.shaper_at, ShaperAt::SourceEgress { burst });
    assert_eq!(
        (lone.congestion.as_str(), lone.params.return_path),
        ("bbr", false)
    );
    // 170 ms of 500 Mbit/s would be more than `tcp_wmem`.
    assert_eq!(slow(100).send_buffer, Some(ByteSize::from_bytes(2_125_000)));
    assert_eq!(lone.send_buffer, Some(ByteSize::from_bytes(4 << 20)));
    let limits = (lone.send_buffer_max, lone.receive_buffer_max);
    let bytes = ByteSize::from_bytes;
    assert_eq!(limits, (Some(bytes(4 << 20)), Some(bytes(32 << 20))));
    let topology = lone.scenario().network.topology;
    let way_back = topology.link_named("source-down").unwrap().spec;
    assert_eq!(
        (way_back.rate, way_back.shaper_at),
        (None, ShaperAt::Fabric)
    );
}

/// The README of the ground truth: burst 2 ms of the link and at least 32 KiB, 50 ms of queue.
#[test]
fn a_tbf_without_columns_is_the_readmes() {
    let of = |mbit: u64| {
        let none = json!({"link_mbit": mbit, "burst_bytes": null, "queue_bytes": null});
        let link = lone(&none, 1).link;
        let ShaperAt::SourceEgress { burst } = link.shaper_at else {
            panic!("{link}");
        };
        (burst.bytes(), link.queue.bytes())
    };
    assert_eq!(of(100), (32_768, 657_768));
    assert_eq!(of(200), (50_000, 1_300_000));
    assert_eq!(of(500), (125_000, 3_250_000));
    assert_eq!(of(1000), (250_000, 6_500_000));
}

#[test]
fn set_b_is_shaped_in_the_middle_both_ways() {
    let b = json!({
        "set": "B", "shaper_at": "fabric", "overhead_bytes": 38, "queue_bytes_used": 1_000_000, "delay_us": 5000,
        "loss_ppm": 1000, "congestion": "cubic", "return_path": true, "vms": 3, "flows": 1,
        "rate_change_s": 1.5, "rate_change_mbit": 200,
    });
    let lone = lone(&b, 1);
    assert_eq!(lone.link.shaper_at, ShaperAt::Fabric);
    assert_eq!(lone.send_buffer, None);
    assert_eq!(
        (lone.link.queue.bytes(), lone.link.overhead_bytes),
        (1_000_000, 38)
    );
    assert_eq!(lone.link.delay, Duration::from_millis(5));
    assert!((lone.link.loss.mean() - 0.001).abs() < 1e-9);
    assert_eq!((lone.company.more_vms, lone.company.flows), (2, 1));
    let change = BitRate::from_bps(200_000_000).unwrap();
    assert_eq!(lone.company.rate_change, Some((1_500_000_000, change)));
    assert!(lone.params.return_path);
}

#[test]
fn modes_set_their_capability_and_nothing_else() {
    let of = |mode: &str| lone(&json!({"mode": mode}), 1).params;
    assert!(!of("precopy").auto_converge.enabled);
    let throttled = of("auto-converge").auto_converge;
    let multifd = json!({"mode": "multifd", "multifd_channels": 4, "multifd_compression": "zstd"});
    let channels = lone(&multifd, 1).params.multifd;
    assert!(channels.enabled && channels.channels == 4);
    assert_eq!(channels.compression, Compression::Zstd);
    let pulled = lone(&json!({"mode": "postcopy"}), 1).params;
    assert!(pulled.postcopy.ram && pulled.postcopy.after_precopy && pulled.return_path);
    assert_eq!((pulled.load_time, of("precopy").load_time), (17, 2));
    assert!(!of("precopy").postcopy.ram && !of("precopy").return_path);
    let xbzrle = lone(&json!({"mode": "xbzrle", "xbzrle_cache_mib": 128}), 1).params;
    assert!(xbzrle.xbzrle.enabled && !xbzrle.multifd.enabled);
    assert_eq!(xbzrle.xbzrle.cache_size, 128 << 20);
    assert_eq!(
        throttled,
        AutoConvergeParams {
            enabled: true,
            ..AutoConvergeParams::default()
        }
    );
}

#[test]
fn a_throttle_slows_what_the_guest_cannot_do_without() {
    let lone = lone(&json!({"mode": "auto-converge", "rate_pps": 20_000}), 1);
    // 13.8 % and twice 3.7 % of a core.
    assert_eq!(lone.cpu_milli, 212);
    let Writes::Classes(classes) = lone.writes else {
        panic!("not classes");
    };
    let dirtier = classes.last().unwrap();
    assert_eq!(dirtier.coupling, Coupling::Cpu);
    let written = f64::from(dirtier.pages) * dirtier.rate * 0.212;
    assert!((written - 20_000.0).abs() < 1.0, "{written}");
    assert_eq!(classes[0].coupling, Coupling::Time, "the kernel's own");
}

#[test]
fn bursts_are_phases_that_begin_anywhere() {
    let bursts = json!({"on_ms": 5000, "off_ms": 5000});
    let of = |seed| lone(&bursts, seed);
    let Writes::Phases(phased) = of(1).writes else {
        panic!("not in phases");
    };
    let [on, off] = &phased.phases[..] else {
        panic!("{phased:?}");
    };
    assert_eq!(
        (on.length_ns, off.length_ns),
        (5_000_000_000, 5_000_000_000)
    );
    // The kernel goes on, and the dirtier reports, in the same pages; what it writes lies behind.
    assert_eq!(off.classes[..4], on.classes[..4]);
    let sizes = |classes: &[PageClass]| classes.iter().map(|c| c.pages).collect::<Vec<_>>();
    assert_eq!(sizes(&off.classes), sizes(&on.classes[..7]));
    let dirtier = on.classes.last().unwrap();
    let written = f64::from(dirtier.pages) * dirtier.rate;
    assert!((written - 2000.0).abs() < 1e-6);
    // Four migrations begin in four different quarters or so of a lap, none before the warm-up.
    let mut into: Vec<u64> = (1..=4)
        .map(|seed| of(seed).warm_up_ns - WARM_UP_NS)
        .collect();
    into.sort_unstable();
    assert!(
        into.windows(2)
            .all(|pair| pair[1] - pair[0] > 1_000_000_000),
        "{into:?}"
    );
    assert!(into[3] < 10_000_000_000);
}

#[test]
fn patterns_write_as_their_column_says() {
    let of = |pattern: &str| match lone(&json!({"pattern": pattern}), 1).writes {
        Writes::Classes(classes) => {
            // Behind the kernel's and the books.
            let sized = |class: &&PageClass| class.pages > 1000;
            classes.iter().filter(sized).copied().collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert!((unique_pages(&of("seq"), 1.0) - 2000.0).abs() < 1e-6);
    assert_eq!(of("uniform")[0].pages, 16_384);
    assert_eq!(of("hotcold")[0].pages, 1638);
}

/// 64 MiB are 16384 pages: of 4 bytes each they fill 16 pages, of a byte each 4; 32 pages of page tables map them, beside 12 more.
#[test]
fn the_dirtier_keeps_books_of_its_pages() {
    let of = |more: Value| image::books(&line_with(&more).0);
    let pages = |classes: &[PageClass]| classes.iter().map(|class| class.pages).sum::<u32>();
    let books = of(json!({"ws_mib": 64}));
    assert_eq!(pages(&books), 16 + 4 + 32 + 12);
    // 2000 random writes a second leave no page of them alone for half a second.
    assert!(unique_pages(&books, 0.5) > 63.9);
    assert_eq!(pages(&of(json!({"ws_mib": 192}))), 48 + 12 + 96 + 12);
    // One who walks writes on two pages of the books in a second, and through four page tables; and reads all once.
    let walked = of(json!({"pattern": "seq"}));
    let all = |pages: f64| pages * (1.0 - (-1.0 - 2000.0 / 16_384.0_f64).exp());
    let expected = all(4.0) + 16.0 * 2000.0 / 16_384.0 + all(32.0) + 12.0;
    assert!((unique_pages(&walked, 1.0) - expected).abs() < 1e-9);
    let idle = of(json!({"rate_pps": 0}));
    let sizes: Vec<_> = idle.iter().map(|class| (class.pages, class.rate)).collect();
    assert_eq!(sizes, [(4, 1.0), (32, 1.0), (12, 200.0)]);
    assert!(of(json!({"ws_mib": 0})).is_empty());
}

/// The means of set A's timelines.
#[test]
fn the_background_is_that_of_the_timelines() {
    for (seconds, seen) in [
        (0.5, 37.3),
        (1.0, 47.0),
        (2.0, 53.4),
        (5.0, 60.7),
        (10.0, 70.3),
    ] {
        let background = unique_pages(&image::background(), seconds);
        assert!((background - seen).abs() < 3.0, "{seconds} s: {background}");
    }
}

/// What the column says of a page is made, and measured by the codecs.
#[test]
fn contents_are_what_codecs_make_of_such_pages() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    let (mut codecs, mut zlib, mut zstd) = (Codecs::default(), 0, 0);
    let pages = 200;
    for _ in 0..pages {
        let line: Vec<u8> = (0..64).map(|_| random()).collect();
        let page = line.repeat(PAGE / 64);
        zlib += codecs.zlib_len(&page);
        zstd += codecs.zstd_len(&page);
    }
    let ratio = |bytes: usize| (pages * PAGE) as f64 / bytes as f64;
    for (asked, got) in [
        (REPEATED_LINE.zlib_ratio.unwrap(), ratio(zlib)),
        (REPEATED_LINE.zstd_ratio.unwrap(), ratio(zstd)),
    ] {
        assert!(
            (asked / got - 1.0).abs() < 0.03,
            "{asked}, measured {got:.2}"
        );
    }
    // It can be made.
    Recipe::of(&REPEATED_LINE).unwrap();
    let content = |word: &str| match lone(&json!({"content": word}), 1).writes {
        Writes::Classes(classes) => classes.last().unwrap().content,
        other => panic!("{other:?}"),
    };
    assert_eq!(content("random"), None);
    assert_eq!(content("comp"), Some(REPEATED_LINE));
    assert_eq!(content("word"), Some(CHANGED_WORD));
}

/// Two versions of a page in a row, as XBZRLE sends the later.
#[test]
fn a_changed_word_is_a_delta_of_as_many_bytes_as_a_real_one() {
    let pool = PagePool::new(&Recipe::of(&CHANGED_WORD).unwrap(), 1, 512);
    let page = |page: u32, version: u64| {
        let (stamp, body) = pool.page(7, page, version);
        [&stamp.encode()[..], body].concat()
    };
    let pages = 2000;
    let deltas = (0..pages).map(|number| {
        let write = u64::from(number) % 40 + 1;
        xbzrle_len(&page(number, write), &page(number, write + 1)).expect("no overflow")
    });
    let mean = deltas.sum::<usize>() as f64 / f64::from(pages);
    assert!((16.5..20.0).contains(&mean), "{mean}");
    // The kernel's pages are written little by little too, where that is seen.
    let background = |mode: &str| match lone(&json!({"mode": mode}), 1).writes {
        Writes::Classes(classes) => classes[0].content,
        other => panic!("{other:?}"),
    };
    assert_eq!(background("xbzrle"), Some(CHANGED_WORD));
    assert_eq!(background("precopy"), None);
}
