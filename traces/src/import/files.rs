//! Which files there are, and opening them: plain, gzip or zstd, found from their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::progress::{Counted, Progress};
use super::{ImportError, ImportErrorKind};

/// Bytes asked of the system at once.
const CHUNK: usize = 128 << 10;

/// The files to read: the paths themselves, or what is in a directory and one level below.
pub(super) fn list_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ImportError> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(list_path(path)?);
    }
    Ok(files)
}

fn list_path(path: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let io = |error| ImportError::new(path, 0, ImportErrorKind::Io(error));
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(path.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let is_dir = std::fs::metadata(entry.path()).map_err(io)?.is_dir();
            if is_dir && depth == 0 {
                folders.push((entry.path(), 1));
            } else if !is_dir && !is_note(&entry.path()) {
                files.push(entry.path());
            }
        }
    }
    // 2.csv before 10.csv, so that ids follow the source's numbering.
    files.sort_by_cached_key(|file| {
        let number = stem(file).parse::<u64>().unwrap_or(u64::MAX);
        (file.parent().map(Path::to_path_buf), number, file.clone())
    });
    Ok(files)
}

/// Files that lie beside traces and are none.
fn is_note(file: &Path) -> bool {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    name.starts_with('.')
        || name.starts_with("readme")
        || name.starts_with("license")
        || name.starts_with("licence")
        || name == "schema.csv"
        || name == "sha256sum"
        || name.ends_with(".md")
}

/// The file's name without `.csv`, `.csv.gz`, ….
pub(super) fn stem(file: &Path) -> String {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut rest = name.as_str();
    for ending in [".gz", ".zst", ".csv", ".json", ".log", ".txt", ".mbpw"] {
        rest = rest.strip_suffix(ending).unwrap_or(rest);
    }
    rest.to_string()
}

/// Opens a file, decompressing what starts like gzip or zstd, whatever its name.
pub(super) fn open(file: &Path, progress: &Arc<Progress>) -> Result<Box<dyn BufRead>, ImportError> {
    let io = |error| ImportError::new(file, 0, ImportErrorKind::from_read(error));
    let input = File::open(file).map_err(io)?;
    let progress = Arc::clone(progress);
    decompress(Counted { input, progress }).map_err(io)
}

fn decompress(input: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut input = BufReader::with_capacity(CHUNK, input);
    let head = input.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        let decoder = flate2::bufread::MultiGzDecoder::new(input);
        return Ok(Box::new(BufReader::with_capacity(CHUNK, decoder)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        return Ok(Box::new(BufReader::with_capacity(CHUNK, decoder)));
    }
    Ok(Box::new(input))
}
