//! How fast large traces are imported, and in how much memory. By hand:
//!
//!     cargo bench -p traces --bench import -- [azure|alibaba|bitbrains]… [--gb 1] [--vms 20000] [--dir DIR]
//!
//! Makes an input of that many GB of text in DIR (zstd, as published traces are packed: about a
//! twentieth), imports it to a bundle there, and prints MB/s of text, rows/s and the peak of resident
//! memory of the import alone. Azure is time-major, so all of it is sorted on disk; Alibaba is
//! machine-major with counters; Bitbrains is one file a VM.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock; nothing depends on what it says"
)]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use traces::import::{ImportOptions, Units, import_stream};
use traces::store::bundle::BundleImport;

/// What is asked for.
struct Args {
    kinds: Vec<String>,
    gb: f64,
    vms: u64,
    dir: PathBuf,
}

fn main() {
    let args = args();
    println!(
        "format      text GB    rows       read+write s  MB/s   rows/s     peak MiB  VMs    bundle MB"
    );
    for kind in &args.kinds {
        let dir = args
            .dir
            .join(format!("migbed-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the benchmark");
        run(kind, &args, &dir);
        fs::remove_dir_all(&dir).expect("what was made can be removed");
    }
}

fn args() -> Args {
    let mut args = Args {
        kinds: Vec::new(),
        gb: 1.0,
        vms: 20_000,
        dir: std::env::temp_dir(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value after the option");
        match word.as_str() {
            "--gb" => args.gb = value().parse().expect("a number of GB"),
            "--vms" => args.vms = value().parse().expect("a number of VMs"),
            "--dir" => args.dir = PathBuf::from(value()),
            "--bench" => {}
            kind => args.kinds.push(kind.to_string()),
        }
    }
    if args.kinds.is_empty() {
        args.kinds = ["azure", "alibaba", "bitbrains"].map(String::from).to_vec();
    }
    args
}

fn run(kind: &str, args: &Args, dir: &Path) {
    let input = dir.join("input");
    fs::create_dir(&input).expect("a new directory");
    let bytes = args.gb * 1e9;
    let text = match kind {
        "azure" => azure(&input, bytes, args.vms),
        "alibaba" => alibaba(&input, bytes, args.vms),
        "bitbrains" => bitbrains(&input, bytes, args.vms),
        other => panic!("no benchmark of {other}; there are azure, alibaba and bitbrains"),
    };
    let out = dir.join("bundle");
    // 5 sets the peak to what is resident now (proc(5)).
    fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let start = Instant::now();
    let mut bundle = BundleImport::create(&out, "made up", "none").expect("a new bundle");
    let scratch = bundle.scratch().expect("a directory");
    let options = ImportOptions {
        units: Units {
            net_bytes: Some(1e9),
            ..Units::default()
        },
        ..ImportOptions::default()
    };
    let streamed =
        import_stream(&[input], &options, Some(&scratch), &mut bundle).expect("good input");
    bundle.finish(&streamed, "benchmark").expect("a bundle");
    let seconds = start.elapsed().as_secs_f64();
    let rows = streamed.counts.samples as f64;
    let packed: u64 = fs::read_dir(&out)
        .expect("the bundle")
        .map(|entry| {
            entry
                .expect("a file")
                .metadata()
                .map_or(0, |data| data.len())
        })
        .sum();
    println!(
        "{kind:10} {:8.2} {rows:12.0} {seconds:10.1} {:8.1} {:10.0} {:10} {:7} {:8.0}",
        text as f64 / 1e9,
        text as f64 / 1e6 / seconds,
        rows / seconds,
        peak_mib(),
        streamed.vms,
        packed as f64 / 1e6,
    );
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Text that is counted and packed.
struct Packed {
    out: zstd::Encoder<'static, BufWriter<File>>,
    bytes: u64,
}

impl Packed {
    fn create(path: &Path) -> Self {
        let file = BufWriter::new(File::create(path).expect("a new file"));
        let out = zstd::Encoder::new(file, 1).expect("memory");
        Self { out, bytes: 0 }
    }

    fn line(&mut self, line: &str) {
        self.out.write_all(line.as_bytes()).expect("space");
        self.bytes += line.len() as u64;
    }

    fn finish(self) -> u64 {
        self.out
            .finish()
            .and_then(|mut out| out.flush())
            .expect("space");
        self.bytes
    }
}

/// Numbers that look like use and are the same each time.
fn draw(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 31;
    x.wrapping_mul(0x94d0_49bb_1331_11eb) >> 40
}

/// A vmtable, and readings of all VMs tick after tick in slices.
fn azure(dir: &Path, bytes: f64, vms: u64) -> u64 {
    let id =
        |vm: u64| format!("{vm:08}/XsOfHO4ocsV99i4NluqKDuxctW2MMVmwqOPAlg4wp8mqbBOe3wxBlQo0+Qx");
    let mut table = Packed::create(&dir.join("vmtable.csv.zst"));
    for vm in 0..vms {
        let (cores, id) = (1 << (vm % 4), id(vm));
        table.line(&format!(
            "{id},s,d,0,2591700,99.0,3.4,10.1,Interactive,{cores},{cores}\n"
        ));
    }
    let mut total = table.finish();
    let (mut tick, mut slice) = (0, 0);
    while (total as f64) < bytes {
        let mut out = Packed::create(&dir.join(format!("vm_cpu_readings-file-{slice:03}.csv.zst")));
        while (total + out.bytes) as f64 <= bytes && out.bytes < 800_000_000 {
            for vm in 0..vms {
                let low = draw(vm, tick) % 4000;
                let (min, max) = (low as f64 / 100.0, (low + 3000) as f64 / 100.0);
                let avg = (low + 1000) as f64 / 100.0;
                out.line(&format!(
                    "{},{},{min:.4},{max:.4},{avg:.4}\n",
                    tick * 300,
                    id(vm)
                ));
            }
            tick += 1;
        }
        total += out.finish();
        slice += 1;
    }
    total
}

/// Machines one after another, every 10 s or a multiple.
fn alibaba(dir: &Path, bytes: f64, vms: u64) -> u64 {
    let mut meta = Packed::create(&dir.join("machine_meta.csv.zst"));
    for vm in 0..vms {
        meta.line(&format!("m_{vm},0,1,2,96,100,USING\n"));
    }
    let mut total = meta.finish();
    let each = (bytes / vms as f64).max(1.0);
    let mut out = Packed::create(&dir.join("machine_usage.csv.zst"));
    for vm in 0..vms {
        let (start, mut t, mut rx) = (out.bytes, 0, 0);
        while ((out.bytes - start) as f64) < each {
            let value = draw(vm, t);
            t += 10 * (1 + value % 6);
            rx += value % 3;
            let (cpu, memory) = (value % 100, 50 + value % 40);
            let counter = rx as f64 / 100.0;
            out.line(&format!(
                "m_{vm},{t},{cpu},{memory},,,{counter:.2},{counter:.2},5\n"
            ));
        }
    }
    total += out.finish();
    total
}

/// A file a VM.
fn bitbrains(dir: &Path, bytes: f64, vms: u64) -> u64 {
    // As published: 1,250 files of about 8,600 lines; more VMs would be more open and shut.
    let files = vms.min(1250);
    let each = bytes / files as f64;
    let mut total = 0;
    for vm in 0..files {
        let mut out = Packed::create(&dir.join(format!("{vm}.csv.zst")));
        out.line(
            "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\t\
             CPU usage [%];\tMemory capacity provisioned [KB];\tMemory usage [KB];\t\
             Disk read throughput [KB/s];\tDisk write throughput [KB/s];\t\
             Network received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n",
        );
        let mut t = 1_376_314_846;
        while (out.bytes as f64) < each {
            let value = draw(vm, t) % 5000;
            let (usage, rate) = (value as f64 * 1.17, value as f64 / 100.0);
            out.line(&format!(
                "{t};\t2;\t5851.9989;\t{usage:.4};\t{rate:.2};\t8218624.0;\t{usage:.1};\t{rate:.4};\t\
                 {rate:.4};\t{rate:.4};\t{rate:.4}\n"
            ));
            t += 300;
        }
        total += out.finish();
    }
    total
}
