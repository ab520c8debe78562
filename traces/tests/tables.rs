//! Formats whose tables mix VMs, on made-up files after their documented schemas: traps, and what is
//! wrong with file, line and reason.

#[path = "common/keep.rs"]
mod keep;

use std::fs;
use std::path::PathBuf;

use keep::Keep;
use traces::import::{
    Format, ImportOptions, Mapping, StreamError, Streamed, Units, WarningKind, import_stream,
};
use traces::store::sample::Sample;
use traces::store::series::{Metric, flags};

/// Imports files of these names and contents, sorting on disk.
fn import(files: &[(&str, &str)], options: &ImportOptions) -> Result<(Streamed, Keep), String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let scratch = tempfile::tempdir().expect("a temporary directory");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("a new file");
    }
    let mut kept = Keep::default();
    let paths = [PathBuf::from(folder.path())];
    match import_stream(&paths, options, Some(scratch.path()), &mut kept) {
        Ok(streamed) => Ok((streamed, kept)),
        Err(StreamError::Import(error)) => {
            let text = error.to_string();
            Err(text.replace(&format!("{}/", folder.path().display()), ""))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn plain(files: &[(&str, &str)]) -> Result<(Streamed, Keep), String> {
    import(files, &ImportOptions::default())
}

fn with_units() -> ImportOptions {
    ImportOptions {
        units: Units {
            cores: Some(10.0),
            mem_bytes: Some(1000.0),
            net_bytes: Some(100.0),
        },
        ..ImportOptions::default()
    }
}

/// VM, start in seconds, length in seconds, the metric.
fn short(kept: &Keep, metric: Metric) -> Vec<(u32, i64, u32, Option<u64>)> {
    let short = |s: &Sample| {
        let interval = s.interval;
        (
            s.vm,
            interval.t_ms / 1000,
            interval.dur_ms / 1000,
            s.values.get(metric),
        )
    };
    kept.samples.iter().map(short).collect()
}

fn kinds(streamed: &Streamed) -> Vec<WarningKind> {
    streamed.warnings.iter().map(|w| w.kind.clone()).collect()
}

const A: &str = "yNf/R3X8fyXkOJm3ihXQcT0F52a8cDWPPRzTT6QFW8N+1QPfeKR5//6xyX0VYn7X";
const B: &str = "+ZcrOp5/c/fJ6mVgP5qMZlOAGDwyjaaDNM0WoWOt2IDb47gT0UwK9lFwkPQv3C7Q";

fn azure_vms() -> String {
    format!(
        "{A},s,d,0,1673700,91.7,0.7,20.7,Delay-insensitive,8,32\n\
         {B},s,d,300,2591700,91.7,0.7,20.7,Unkown,>24,>64\n\
         {B}x,s,d,0,2592000,1,1,1,Interactive,2,4\n"
    )
}

#[test]
fn azure_slices_of_time_become_vms() {
    let one = format!("0,{A},1,3,2\n0,{B},0,0.5,0.1\n300,{A},1,120,110\n");
    let two = format!("600,{B},1,3,2\n300,{B},1,3,2\n600,{B},1,3,4\n");
    let vms = azure_vms();
    let files = [
        ("vm_cpu_readings-file-2-of-195.csv", two.as_str()),
        ("vm_cpu_readings-file-1-of-195.csv", one.as_str()),
        ("vmtable.csv", vms.as_str()),
        ("subscriptions.csv", "abc,0,3\n"),
    ];
    let (streamed, kept) = plain(&files).unwrap();
    assert_eq!((streamed.format, streamed.vms), (Format::Azure, 2));
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 0, 300, Some(160)),
            (0, 300, 300, Some(8800)),
            (1, 0, 300, Some(30)),
            (1, 300, 300, Some(600)),
            (1, 600, 300, Some(1200)),
        ]
    );
    assert_eq!(kept.samples[1].interval.flags, flags::OVER_CAPACITY);
    assert_eq!(kept.samples[0].values.get(Metric::CpuMaxMilli), Some(240));
    let [a, b] = &kept.vms[..] else {
        panic!("the VM without readings is left out")
    };
    assert_eq!((a.vcpus, a.mem_bytes), (Some(8), Some(32 << 30)));
    assert_eq!((a.start_ms, a.stop_ms), (Some(0), Some(1_673_700_000)));
    assert_eq!((b.vcpus, b.mem_bytes), (Some(30), Some(70 << 30)));
    assert_eq!((b.stop_ms, b.class.as_deref()), (None, Some("Unknown")));
    assert_eq!(b.source_id.as_deref(), Some(B), "slashes and all");
    let kinds = kinds(&streamed);
    for kind in [
        WarningKind::Bucket {
            vms: 1,
            bucket: ">24",
            taken: "30",
        },
        WarningKind::Duplicates { count: 1 },
        WarningKind::NotRead {
            format: Format::Azure,
        },
        WarningKind::OverCapacity { samples: 1 },
    ] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
}

#[test]
fn only_the_vms_asked_for_are_taken() {
    let readings = format!("0,{A},1,3,2\n0,{B},0,0.5,0.1\n");
    let vms = azure_vms();
    let files = [("readings", readings.as_str()), ("vmtable", vms.as_str())];
    let mut options = ImportOptions {
        only: Some([B.to_string()].into()),
        ..ImportOptions::default()
    };
    let (streamed, kept) = import(&files, &options).unwrap();
    assert_eq!((streamed.vms, kept.samples.len()), (1, 1));
    assert_eq!(streamed.options["vms"], "1 chosen");
    options.only = Some(["nobody".to_string()].into());
    let error = import(&files, &options).unwrap_err();
    assert!(
        error.ends_with("none of the VMs asked for is in the trace"),
        "{error}"
    );
}

#[test]
fn bad_azure_tables_are_refused_with_their_line() {
    let good = format!("0,{A},1,3,2\n");
    let vms = azure_vms();
    let check = |readings: &str, vms: &str, expected: &str| {
        let files = [("r.csv", readings), ("vmtable.csv", vms)];
        let error = plain(&files).expect_err(expected);
        assert!(
            error.starts_with(expected),
            "{error:?}, expected {expected:?}"
        );
    };
    check(
        &format!("{good}1,{A},1,3,2\n"),
        &vms,
        "r.csv:2: timestamp is \"1\", expected a mult",
    );
    check(
        &format!("{good}300,{A},1,x,2\n"),
        &vms,
        "r.csv:2: max CPU is \"x\"",
    );
    check(
        &format!("{good}300,{A},1,3\n"),
        &vms,
        "r.csv:2: 4 fields, expected 5",
    );
    check(
        &format!("{good}300,{A},1"),
        &vms,
        "r.csv:2: the file is cut here",
    );
    let cut = &vms[..vms.len() - 9];
    check(&good, cut, "vmtable.csv:3: the file is cut here");
    check(
        &good,
        &vms.replace("Interactive", "Elsewhere"),
        "vmtable.csv:3: vm category is",
    );
}

const USAGE: &str = "600000000,900000000,3418309,0,4155527081,0.1,0.06787,0.07568,0.001156,0.001503,\
    0.06787,2.861e-06,0.0001869,0.2,0.0003567,2.445,0.007243,0,1,0\n";

#[test]
fn google_tasks_side_by_side_are_added_up() {
    let second = USAGE.replace("600000000,900000000", "750000000,900000000");
    let third = USAGE
        .replace("600000000,900000000", "900000000,1200000000")
        .replace(",0.1,0.06787,", ",,,");
    let outside = USAGE.replace("600000000,900000000", "1200000000,9223372036854775807");
    let text = format!("{USAGE}{second}{third}{outside}");
    let (streamed, kept) = import(&[("part-00000", &text)], &with_units()).unwrap();
    assert_eq!((streamed.format, streamed.vms), (Format::Google2011, 1));
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 0, 150, Some(1000)),
            (0, 150, 150, Some(2000)),
            (0, 300, 300, None),
        ],
        "an empty field is missing, not 0"
    );
    assert_eq!(kept.samples[0].values.get(Metric::MemUsedBytes), Some(68));
    assert_eq!(kept.vms[0].name, "3418309-0");
    assert_eq!(kept.vms[0].host_initial.as_deref(), Some("4155527081"));
    let kinds = kinds(&streamed);
    assert!(
        kinds.contains(&WarningKind::Summed { count: 1 }),
        "{kinds:?}"
    );
    assert!(
        kinds
            .iter()
            .any(|kind| matches!(kind, WarningKind::LeftOut { count: 1, .. })),
        "{kinds:?}"
    );
    let error = plain(&[("u", USAGE)]).unwrap_err();
    assert!(error.contains("google-2011 needs --unit-cores"), "{error}");
    let bad = format!("{USAGE}{}", USAGE.replace("900000000,3", "500000000,3"));
    let error = import(&[("u", &bad)], &with_units()).unwrap_err();
    assert!(
        error.starts_with("u:2: end time is \"500000000\""),
        "{error}"
    );
}

#[test]
fn google_2019_json_takes_numbers_as_text() {
    let row = r#"{"start_time":"600000000","end_time":"900000000","collection_id":"7","instance_index":"1","machine_id":"9","average_usage":{"cpus":0.1,"memory":0.5},"maximum_usage":{"cpus":0.3,"memory":null},"cpu_usage_distribution":[0.05,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.3],"tail_cpu_usage_distribution":[0.1,0.1,0.1,0.1,0.25,0.3,0.3,0.3,0.3]}"#;
    let (_, kept) = import(&[("u.json", &format!("{row}\n"))], &with_units()).unwrap();
    let get = |metric| kept.samples[0].values.get(metric);
    assert_eq!(
        [
            get(Metric::CpuMilli),
            get(Metric::CpuMinMilli),
            get(Metric::CpuMaxMilli),
            get(Metric::CpuP95Milli),
            get(Metric::MemUsedBytes),
        ],
        [Some(1000), Some(500), Some(3000), Some(2500), Some(500)]
    );
    let cut = format!("{row}\n{}", &row[..100]);
    let error = import(&[("u.json", &cut)], &with_units()).unwrap_err();
    assert!(
        error.starts_with("u.json:2: the file is cut here"),
        "{error}"
    );
}

#[test]
fn alibaba_2017_servers_and_containers_are_numbered_apart() {
    let files = [
        ("server_event.csv", "0,1,add,,64,1,1\n"),
        ("container_event.csv", "-5,Create,1,1,4,0.5,0.1,1|2|3|4\n"),
        (
            "server_usage.csv",
            "300,1,50,10,1,2,2,2\n0,1,50,10,1,2,2,2\n",
        ),
        (
            "container_usage.csv",
            "300,1,50,,1,2,2,2,1,1,1,1\n300,2,10,10,1,2,2,2,1,1,1,1\n",
        ),
    ];
    let (streamed, kept) = import(&files, &with_units()).unwrap();
    assert_eq!(streamed.format, Format::Alibaba2017);
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 300, 300, Some(32_000)),
            (1, 300, 300, Some(2000)),
            (2, 300, 300, Some(100)),
        ]
    );
    assert_eq!(kept.samples[0].values.get(Metric::MemUsedBytes), Some(100));
    assert_eq!(kept.samples[1].values.get(Metric::MemUsedBytes), None);
    assert_eq!(kept.vms[1].host_initial.as_deref(), Some("machine_1"));
    assert!(kinds(&streamed).contains(&WarningKind::NoRow {
        vms: 1,
        table: "server_event or container_event"
    }));
}

#[test]
fn alibaba_2018_marks_are_absent_and_containers_have_their_request() {
    let files = [
        (
            "container_meta.csv",
            "c_1,m_2556,0,app_5052,started,400,400,1.56\n",
        ),
        (
            "container_usage.csv",
            "c_1,m_2556,600,50,101,,,,1.00,2.00,5\nc_1,m_2556,0,-1,30,,,,0.50,2.00,5\n\
             c_1,m_2556,1200,10,30,,,,0.90,2.00,5\n",
        ),
    ];
    let (streamed, kept) = import(&files, &with_units()).unwrap();
    assert_eq!(streamed.format, Format::Alibaba2018);
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 0, 600, None),
            (0, 600, 600, Some(2000)),
            (0, 1200, 60, Some(400)),
        ]
    );
    let rx: Vec<_> = kept
        .samples
        .iter()
        .map(|s| s.values.get(Metric::NetRxBytes))
        .collect();
    assert_eq!(
        rx,
        [Some(50), None, None],
        "a counter that goes back says nothing"
    );
    assert_eq!(kept.samples[1].interval.flags, flags::COUNTER_RESET);
    assert_eq!(
        (kept.vms[0].vcpus, kept.vms[0].mem_bytes),
        (Some(4), Some(16))
    );
    let kinds = kinds(&streamed);
    for kind in [
        WarningKind::Invalid {
            column: "cpu_util_percent",
            count: 1,
        },
        WarningKind::Invalid {
            column: "mem_util_percent",
            count: 1,
        },
        WarningKind::Resets { count: 1 },
    ] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    let error = plain(&[("u", "m_1,0,1,2,,,3,4,5\nm_1,10,1,2,,,3\n")]).unwrap_err();
    assert!(error.starts_with("u:2: 7 fields, expected 9"), "{error}");
}

#[test]
fn domstats_are_differences_between_polls() {
    let poll = |at: &str, cpu: u64, rx: u64, start: u64| {
        format!(
            "{at}\nDomain: 'web'\n  cpu.time={cpu}\n  vcpu.current=2\n  balloon.maximum=1048576\n  \
             balloon.rss=2048\n  net.count=1\n  net.0.rx.bytes={rx}\n  net.0.tx.bytes=7\n  \
             dirtyrate.calc_status=2\n  dirtyrate.calc_start_time={start}\n  \
             dirtyrate.calc_period=1\n  dirtyrate.megabytes_per_second=3\n\n"
        )
    };
    let text = [
        poll("1700000000.5", 1_000_000_000, 10, 4),
        poll("1700000001.5", 1_500_000_000, 30, 4),
        poll("1700000002.5", 3_500_000_000, 30, 5),
    ]
    .concat();
    let (streamed, kept) = plain(&[("log", &text)]).unwrap();
    assert_eq!(streamed.format, Format::LibvirtDomstats);
    let column = |metric| -> Vec<Option<u64>> {
        kept.samples.iter().map(|s| s.values.get(metric)).collect()
    };
    assert_eq!(column(Metric::CpuMilli), [Some(500), Some(2000), None]);
    assert_eq!(column(Metric::NetRxBytes), [Some(20), Some(0), None]);
    assert_eq!(
        column(Metric::DirtyPagesW1),
        [Some(768), None, Some(768)],
        "one measurement is not two"
    );
    assert_eq!(column(Metric::MemUsedBytes)[0], Some(2048 * 1024));
    assert_eq!(kept.samples[0].interval.t_ms, 1_700_000_000_500);
    assert_eq!(
        (kept.vms[0].vcpus, kept.vms[0].mem_bytes),
        (Some(2), Some(1 << 30))
    );
    let error = plain(&[("log", "Domain: 'web'\n  cpu.time=1\n")]).unwrap_err();
    assert!(
        error.starts_with("log:1: libvirt-domstats needs a line with the Unix time"),
        "{error}"
    );
    let error = plain(&[("log", &format!("{text}what\n"))]).unwrap_err();
    assert!(
        error.contains(": line is \"what\", expected Domain"),
        "{error}"
    );
}

#[test]
fn dirty_rates_keep_their_window() {
    let text = concat!(
        r#"{"return": {"status": "measuring", "start-time": 100, "calc-time": 2}}"#,
        "\n",
        r#"{"return": {"status": "measured", "dirty-rate": 3, "start-time": 100, "calc-time": 2, "mode": "page-sampling"}}"#,
        "\n",
        r#"{"return": {"status": "measured", "dirty-rate": 3, "start-time": 100, "calc-time": 2}}"#,
        "\n",
        r#"{"return": {"status": "measured", "dirty-rate": 8, "start-time": 110, "calc-time": 500, "calc-time-unit": "millisecond"}}"#,
        "\n"
    );
    let (streamed, kept) = plain(&[("rates.json", text)]).unwrap();
    assert_eq!(streamed.format, Format::QemuDirtyRate);
    let found: Vec<_> = kept
        .samples
        .iter()
        .map(|s| {
            (
                s.interval.t_ms,
                s.values.get(Metric::DirtyPagesW1),
                s.values.get(Metric::DirtyW1Ms),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (100_000, Some(1536), Some(2000)),
            (110_000, Some(1024), Some(500)),
        ]
    );
    let error = plain(&[("rates.json", &text[..text.len() - 20])]).unwrap_err();
    assert!(
        error.starts_with("rates.json:4: the file is cut here"),
        "{error}"
    );
}

#[test]
fn arrivals_have_lives_and_no_samples() {
    let text = "vmid,cpu,memory,time,type\n0,4,16,0.0,0\n1,8,16,2.0,0\n0,4,16,55.5,1\n";
    let (streamed, kept) = plain(&[("h.csv", text)]).unwrap();
    assert_eq!(
        (streamed.format, streamed.counts.samples),
        (Format::Huawei, 0)
    );
    assert_eq!(
        (kept.vms[0].start_ms, kept.vms[0].stop_ms),
        (Some(0), Some(55_500))
    );
    assert_eq!((kept.vms[1].vcpus, kept.vms[1].stop_ms), (Some(8), None));
    let error = plain(&[("h.csv", &format!("{text}0,4,16,9,1\n"))]).unwrap_err();
    assert!(
        error.starts_with("h.csv:5: type is \"1\", expected one deletion"),
        "{error}"
    );

    let head = "vmId,tenantId,vmTypeId,priority,starttime,endtime\n";
    let text = format!("{head}0,0,8,0,-138.925486,\n1,0,8,1,-0.5,18.035497\n");
    let (streamed, kept) = plain(&[("vm.csv", &text)]).unwrap();
    assert_eq!(streamed.format, Format::AzurePacking);
    assert_eq!(kept.vms[0].stop_ms, None);
    assert_eq!(
        (kept.vms[1].start_ms, kept.vms[1].stop_ms),
        (Some(-43_200_000), Some(1_558_266_941))
    );
    assert_eq!(kept.vms[1].class.as_deref(), Some("type 8, low priority"));
    let error = plain(&[("vm.csv", &format!("{text}2,0,8,5,0,1\n"))]).unwrap_err();
    assert!(error.starts_with("vm.csv:4: priority is \"5\""), "{error}");
    let error = plain(&[("p.sqlite", "SQLite format 3\0rest")]).unwrap_err();
    assert!(error.contains("sqlite3 -header -csv"), "{error}");
}

fn mapped(map: &[&str], content: &str) -> Result<(Streamed, Keep), String> {
    let options = ImportOptions {
        mapping: Some(Mapping::parse(map).map_err(|error| error.to_string())?),
        ..ImportOptions::default()
    };
    import(&[("log.csv", content)], &options)
}

#[test]
fn csv_columns_are_what_the_mapping_says() {
    let map = [
        "time=ts:unix-s",
        "vm=who",
        "cpu=load:%core",
        "net_rx=rx:KiB/s",
        "vcpus=n",
    ];
    let text = "who;ts;load;rx;n\n\"a;b\";1700000000;150;2;4\n\"a;b\";1700000060;NaN;0.001;4\n\
                c;1700000000;50;;2\n\"a;b\";1700000120;5e1;1;4;\n";
    let (streamed, kept) = mapped(&map, text).unwrap();
    assert_eq!(streamed.format, Format::Csv);
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 1_700_000_000, 60, Some(1500)),
            (0, 1_700_000_060, 60, None),
            (0, 1_700_000_120, 60, Some(500)),
            (1, 1_700_000_000, 300, Some(500)),
        ]
    );
    let rx: Vec<_> = kept
        .samples
        .iter()
        .map(|s| s.values.get(Metric::NetRxBytes))
        .collect();
    assert_eq!(rx, [Some(122_880), Some(61), Some(61_440), None]);
    assert_eq!(
        (kept.vms[0].name.as_str(), kept.vms[0].vcpus),
        ("a;b", Some(4))
    );
}

#[test]
fn materna_comes_in_through_a_mapping() {
    let map = [
        "time=Timestamp:dmy",
        "cpu=CPU usage [%]:%",
        "vcpus=CPU cores",
        "mem_used=Memory usage [KB]:KiB",
        "decimal=comma",
    ];
    let text = "\"Timestamp\";\"CPU cores\";\"CPU usage [%]\";\"Memory usage [KB]\"\r\n\
                \"05.11.2015 10:00:00\";\"2\";\"12,5\";\"1024\"\r\n\
                \"05.11.2015 10:05:00\";\"2\";\"110,0\";\"2048\"\r\n";
    let (_, kept) = mapped(&map, text).unwrap();
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [
            (0, 1_446_717_600, 300, Some(250)),
            (0, 1_446_717_900, 300, Some(2200)),
        ]
    );
    assert_eq!(kept.samples[1].interval.flags, flags::OVER_CAPACITY);
    assert_eq!(kept.vms[0].name, "log");
}

#[test]
fn numbered_columns_need_no_header_and_counters_are_differenced() {
    let map = ["time=#1:s", "net_tx=#3:B+", "cpu=#2:cores"];
    let (_, kept) = mapped(&map, "0,1,100\n10,2,150\n20,3,150\n").unwrap();
    assert_eq!(
        short(&kept, Metric::NetTxBytes),
        [
            (0, 0, 10, Some(50)),
            (0, 10, 10, Some(0)),
            (0, 20, 10, None)
        ]
    );
    let map = ["time=#1:s", "duration=@5:s", "cpu=#2:cores"];
    let (_, kept) = mapped(&map, "0,1\n10,2\n").unwrap();
    assert_eq!(
        short(&kept, Metric::CpuMilli),
        [(0, 0, 5, Some(1000)), (0, 10, 5, Some(2000))]
    );
}

#[test]
fn mappings_that_cannot_be_meant_are_refused() {
    for (map, expected) in [
        (&["cpu=a:%"][..], "the mapping lacks time"),
        (&["time=a"], "the mapping lacks a metric"),
        (&["time=a", "cpu"], "\"cpu\" is not METRIC=COLUMN[:UNIT]"),
        (
            &["time=a", "cpus=b"],
            "there is no metric \"cpus\"; there are time, duration",
        ),
        (
            &["time=a", "cpu=b:MiB"],
            "cpu has no unit \"MiB\"; it has %, share",
        ),
        (&["time=a", "cpu=b", "cpu=c"], "cpu is mapped twice"),
        (
            &["time=a", "net_rx=b:B+", "net_tx=c:B/s"],
            "rates, counters and bytes",
        ),
        (
            &["time=a", "duration=d", "net_rx=b:B+"],
            "counters and a duration",
        ),
        (&["time=a", "vm=v", "cpu=*"], "every column (*)"),
    ] {
        let error = mapped(map, "a,b\n1,2\n").expect_err(expected);
        assert!(
            error.starts_with(expected),
            "{error:?}, expected {expected:?}"
        );
    }
}

#[test]
fn bad_csv_is_refused_with_its_line() {
    let map = ["time=t:s", "cpu=c:%"];
    for (text, expected) in [
        ("", "log.csv:1: the file is empty"),
        ("t,c\n", "log.csv: no samples"),
        (
            "t,d\n1,2\n",
            "log.csv:1: the header has no column \"c\"; it has t, d",
        ),
        (
            "t,c\n0,1\n1,x\n",
            "log.csv:3: c is \"x\", expected a number, not negative",
        ),
        ("t,c\n0,1\n1,-1\n", "log.csv:3: c is \"-1\""),
        ("t,c\n0,1\n1,1,1\n", "log.csv:3: 3 fields, expected 2"),
        (
            "t,c\n0,1\nx,1\n",
            "log.csv:3: t is \"x\", expected an instant",
        ),
        ("t,c\n0,1\nx", "log.csv:3: the file is cut here"),
    ] {
        let error = mapped(&map, text).expect_err(expected);
        let error = error.replace("/tmp", "");
        let found = error.rsplit('/').next().unwrap_or_default();
        let ok = error.starts_with(expected)
            || (expected.contains("no samples") && found.contains("no samples"));
        assert!(ok, "{error:?}, expected {expected:?}");
    }
}

#[test]
fn a_file_of_another_format_among_tables_is_named() {
    let vms = azure_vms();
    let error = import(
        &[("a.csv", "what is this\n"), ("b.csv", "nor this\n")],
        &ImportOptions {
            format: Some(Format::Azure),
            ..ImportOptions::default()
        },
    )
    .unwrap_err();
    assert_eq!(
        error,
        "a.csv:1: it starts with \"what is this\\n\", which is no table of azure that is read"
    );
    let (streamed, _) = plain(&[
        ("a.csv", "what is this\n"),
        ("r", &format!("0,{A},1,2,3\n")),
        ("v", &vms),
    ])
    .unwrap();
    assert!(kinds(&streamed).contains(&WarningKind::NotRead {
        format: Format::Azure
    }));
}
