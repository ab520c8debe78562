//! Every format damaged: an error that names the file, or a whole bundle; never a panic, never a part.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use traces::import::{ImportOptions, Mapping, StreamError, Units, import_stream};
use traces::store::bundle::{Bundle, BundleImport};

const ID: &str = "yNf/R3X8fyXkOJm3ihXQcT0F52a8cDWPPRzTT6QFW8N+1QPfeKR5//6xyX0VYn7X";

/// A good file of each text format, with the mapping it needs.
fn good() -> Vec<(&'static str, String, Option<Mapping>)> {
    let usage = "600000000,900000000,3418309,0,4155527081,0.1,0.06,0.07,0.001,0.001,0.06,2.8e-06,\
                 0.0001,0.2,0.0003,2.4,0.007,0,1,0\n";
    let json = r#"{"start_time":"600000000","end_time":"900000000","collection_id":"7","instance_index":"1","machine_id":"9","average_usage":{"cpus":0.1,"memory":0.5}}"#;
    let migrate = r#"{"return":{"status":"active","total-time":1200,"ram":{"total":1048576,"dirty-sync-count":2,"dirty-pages-rate":50}}}"#;
    let rate = r#"{"return":{"status":"measured","dirty-rate":3,"start-time":100,"calc-time":2}}"#;
    let poll = |t: u32| format!("{t}\nDomain: 'web'\n  cpu.time={t}000\n  net.0.rx.bytes={t}\n");
    let mapping = Mapping::parse(&["time=t:s", "cpu=c:%", "net_rx=r:B/s"]).expect("a mapping");
    let mut files = vec![
        ("azure", format!("0,{ID},1,3,2\n300,{ID},1,3,2\n"), None),
        ("google-2011", usage.to_string(), None),
        ("google-2011-vm", "10.5 20\n11\t2e1\n".to_string(), None),
        ("google-2019", format!("{json}\n"), None),
        ("alibaba-2017", "300,1,50,10,1,2,2,2\n".to_string(), None),
        (
            "alibaba-2018",
            "m_1,0,1,2,,,3.00,4,5\nm_1,60,1,2,,,3.5,4,5\n".to_string(),
            None,
        ),
        ("qemu-migrate", format!("{migrate}\n"), None),
        ("qemu-dirty-rate", format!("{rate}\n"), None),
        ("domstats", format!("{}{}", poll(1000), poll(1001)), None),
        (
            "huawei",
            "vmid,cpu,memory,time,type\n0,4,16,0.0,0\n0,4,16,5,1\n".to_string(),
            None,
        ),
        (
            "packing",
            "vmId,tenantId,vmTypeId,priority,starttime,endtime\n0,0,8,0,-138.9,\n".to_string(),
            None,
        ),
        ("planetlab", "24\n34\n".to_string(), None),
    ];
    files.push((
        "csv",
        "t,c,r\n0,5,\n60,\"7\",3\n".to_string(),
        Some(mapping),
    ));
    files
}

/// Imports to a bundle; checks that there is a whole one or nothing, and that errors name the file.
fn import(content: &[u8], mapping: Option<Mapping>) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("input");
    fs::write(&file, content).expect("a new file");
    let out = folder.path().join("bundle");
    let options = ImportOptions {
        mapping,
        units: Units {
            cores: Some(4.0),
            mem_bytes: Some(1e9),
            net_bytes: Some(1e3),
        },
        ..ImportOptions::default()
    };
    let mut bundle = BundleImport::create(&out, "s", "l").expect("a new bundle");
    let scratch = bundle.scratch().expect("a directory");
    let paths = [PathBuf::from(&file)];
    let done = import_stream(&paths, &options, Some(&scratch), &mut bundle);
    let done = match done {
        Ok(streamed) => {
            bundle
                .finish(&streamed, "t")
                .expect("what was imported is a bundle");
            Bundle::read(&out).expect("a whole one");
            Ok(())
        }
        Err(error) => {
            drop(bundle);
            assert!(!out.exists(), "nothing half-written");
            let StreamError::Import(found) = &error else {
                panic!("not the input's fault: {error}");
            };
            assert_eq!(found.file, file, "{error}");
            Err(error.to_string())
        }
    };
    let left = fs::read_dir(folder.path()).expect("a directory").count();
    assert_eq!(left, 1 + usize::from(done.is_ok()), "nothing beside it");
    done
}

#[test]
fn the_good_files_are_good() {
    for (name, text, mapping) in good() {
        if let Err(error) = import(text.as_bytes(), mapping) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn a_table_of_parquet_that_is_cut_is_an_error() {
    let error = import(b"PAR1 and then nothing", None).unwrap_err();
    assert!(
        error.contains("input: not the Parquet table expected"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_files_are_errors_or_traces(
        which in 0usize..13,
        at: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
        cuts: bool,
    ) {
        let (_, text, mapping) = good().swap_remove(which);
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = import(&bytes, mapping);
    }

    #[test]
    fn fields_of_anything_are_errors_or_traces(
        which in 0usize..13,
        fields in "[0-9,;:=\"'{}\\[\\]+ \\-.eNaif\t\r\nm_]{0,120}",
    ) {
        let (_, text, mapping) = good().swap_remove(which);
        let _ = import(format!("{text}{fields}").as_bytes(), mapping);
    }
}
