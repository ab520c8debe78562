//! `migbed trace`: an import that never ends is interrupted and leaves nothing; what is imported can be
//! shown and exported.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use migbed_tests::{Running, Sandbox, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const ID: &str = "XsOfHO4ocsV99i4NluqKDuxctW2MMVmwqOPAlg4wp8mqbBOe3wxBlQo0+Qx+uf";

/// Writes readings for ever, to whoever reads.
fn feed(path: PathBuf) {
    std::thread::spawn(move || {
        // Opened again when a reader has only looked at it.
        while let Ok(file) = OpenOptions::new().write(true).open(&path) {
            endless(file);
        }
    });
}

/// Whole lines in writes that a pipe takes undivided, so that each reader begins at a line.
fn endless(mut file: File) {
    for tick in 0u64.. {
        for first in (0..1000).step_by(40) {
            let lines =
                (first..first + 40).map(|vm| format!("{},{vm:04}/{ID},1,3,2\n", tick * 300));
            let lines: String = lines.collect();
            assert!(lines.len() <= 4096, "PIPE_BUF");
            if file.write_all(lines.as_bytes()).is_err() {
                // Nobody reads any more.
                return;
            }
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort();
    names
}

/// An import that never ends and has put samples on disk, and where it puts them. `None` when it has not: a reader that
/// opens the pipe while what another has left is still in it begins within a line, and refuses that.
fn endless_import() -> Option<(Sandbox, Running, PathBuf)> {
    let sandbox = Sandbox::new();
    let fifo = sandbox.input().join("readings");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a named pipe");
    feed(fifo.clone());
    let place = sandbox.work().join("imported");
    fs::create_dir_all(&place).expect("a directory");
    let out = place.join("bundle");
    let arguments = [
        "trace",
        "import",
        fifo.to_str().expect("paths are text"),
        "--out",
        out.to_str().expect("paths are text"),
    ];
    let running = sandbox.start(&arguments);
    let part = place.join(format!(".bundle.partial-{}", running.pid()));
    let spilled = part.join(".scratch").join("run-0");
    wait_for(Duration::from_secs(15), || spilled.exists().then_some(()))?;
    Some((sandbox, running, place))
}

/// Once samples have been put on disk, so that there is something to leave behind.
#[test]
fn an_interrupted_import_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (_sandbox, running, place) = (0..8)
            .find_map(|_| endless_import())
            .expect("samples on disk");
        kill(Pid::from_raw(running.pid()), signal).expect("our own child");
        let finished = running.finish_within(Duration::from_secs(30));
        assert_eq!(finished.code, Some(130), "{finished:?}");
        assert!(
            finished.stderr.contains("interrupted; nothing was written"),
            "{finished:?}"
        );
        assert_eq!(names(&place), Vec::<String>::new());
    }
}

#[test]
fn what_is_imported_is_shown_and_exported() {
    let sandbox = Sandbox::new();
    let log = sandbox.file("log.csv", "t,vm,cpu\n0,a,50\n300,a,150\n0,b,10\n");
    let work = sandbox.work();
    let place = |name: &str| work.join(name).to_str().unwrap().to_owned();
    let (bundle, files, tables) = (place("bundle"), place("files"), place("tables"));
    let map = [
        "--map",
        "time=t:s",
        "--map",
        "vm=vm",
        "--map",
        "cpu=cpu:%core",
    ];
    let import = [&["trace", "import", &log, "--out", &bundle], &map[..]].concat();
    let finished = sandbox.run(&import).expect_code(0);
    assert!(
        finished.stdout.contains("2 VMs, from csv, 3 samples"),
        "{finished:?}"
    );
    let shown = sandbox
        .run(&["trace", "show", &bundle, "--json"])
        .expect_code(0);
    let rows: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(rows[0]["name"], "a");
    assert_eq!(rows[0]["cpu_mean_cores"], 1.0);
    assert_eq!(rows[1]["intervals"], 1);
    let export = [
        "trace",
        "export",
        &bundle,
        "--to",
        "planetlab",
        "--out",
        &files,
    ];
    sandbox.run(&export).expect_code(0);
    assert_eq!(names(&work.join("files").join("19700101")), ["a", "b"]);
    let export = [
        "trace", "export", &bundle, "--to", "opendc", "--out", &tables,
    ];
    let finished = sandbox.run(&export);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("give --vcpus"), "{finished:?}");
    assert!(!work.join("tables").exists());
    let export = [&export[..], &["--vcpus", "2", "--memory", "1GiB"]].concat();
    sandbox.run(&export).expect_code(0);
    assert_eq!(
        names(&work.join("tables")),
        ["fragments.parquet", "tasks.parquet"]
    );
    // Nothing is written over, and a bundle is none of a bundle.
    let again = sandbox.run(&import);
    assert_eq!(again.code, Some(2), "{again:?}");
    let twice = sandbox.run(&["trace", "import", &bundle, "--out", &place("other")]);
    assert_eq!(twice.code, Some(2), "{twice:?}");
    assert!(twice.stderr.contains("is a bundle already"), "{twice:?}");
}

#[test]
fn what_cannot_be_imported_is_refused_in_one_line() {
    let sandbox = Sandbox::new();
    let log = sandbox.file("log.csv", "t,cpu\n0,50\n300,x\n");
    let out = sandbox.work().join("out");
    let out = out.to_str().unwrap();
    for (more, word) in [
        (&[][..], "unknown format"),
        (&["--format", "azure2"], "there is no trace format `azure2`"),
        (&["--map", "time=t:s"], "the mapping lacks a metric"),
        (
            &["--map", "time=t:s", "--map", "cpu=cpu:%"],
            "log.csv:3: cpu is \"x\"",
        ),
    ] {
        let arguments = [&["trace", "import", &log, "--out", out], more].concat();
        let finished = sandbox.run(&arguments);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(word), "{finished:?}");
        assert!(!Path::new(out).exists());
    }
}
