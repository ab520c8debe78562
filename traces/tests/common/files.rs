//! Made-up trace files.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use traces::import::{Format, ImportOptions, Imported, import_path};

pub(crate) const BITBRAINS: &str = "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\t\
    CPU usage [MHZ];\tCPU usage [%];\tMemory capacity provisioned [KB];\tMemory usage [KB];\t\
    Disk read throughput [KB/s];\tDisk write throughput [KB/s];\t\
    Network received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n";
pub(crate) const RECORDED: &str = "# page-write trace: t; page_size=4096; pages=100; interval_ms=100\n\
    t_ms,cpu_ms,maxrss_kb,dirty_pages,runs\n";

pub(crate) fn bitbrains_line(time: u64, percent: &str) -> String {
    format!("{time};\t2;\t5000.0;\t100.0;\t{percent};\t2048.0;\t1024.0;\t1.0;\t2.0;\t3.0;\t4.0\n")
}

/// A file of this content in a directory of its own.
pub(crate) fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("a new file");
    (folder, path)
}

pub(crate) fn import(content: impl AsRef<[u8]>) -> Result<Imported, String> {
    let (_folder, path) = file("vm", content);
    import_path(&path, ImportOptions::default()).map_err(|error| {
        let text = error.to_string();
        text.replace(&path.display().to_string(), "vm")
    })
}

pub(crate) fn import_as(format: Format, content: impl AsRef<[u8]>) -> Result<Imported, String> {
    let (_folder, path) = file("vm", content);
    let options = ImportOptions {
        format: Some(format),
        ..ImportOptions::default()
    };
    import_path(&path, options)
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "vm"))
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}
