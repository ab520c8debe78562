//! Reading a bundle, and looking for what is odd in one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::rows::{Reading, read_profiles, read_samples, read_vms};
use super::write::{io_error, is_plain_name, parquet_error};
use super::{Bundle, BundleError, MANIFEST, Manifest, PAGES, PROFILES, SAMPLES, VERSION, VMS};
use crate::dirty::PageWriteTrace;
use crate::store::page_write;
use crate::store::series::Series;
use crate::store::table::Table;

/// Something odd in a bundle that can be read all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A column this version does not know.
    #[error("{file}: column {column} is not known and was not read")]
    UnknownColumn {
        /// Which table.
        file: String,
        /// Which column.
        column: String,
    },
    /// A file the manifest does not list.
    #[error("{file} is not in the manifest")]
    UnlistedFile {
        /// Which file.
        file: String,
    },
    /// A VM nobody sampled.
    #[error("vm {vm_id} ({name}) has no samples")]
    NoSamples {
        /// Which VM.
        vm_id: u32,
        /// Its name.
        name: String,
    },
    /// Samples outside the life of their VM.
    #[error("vm {vm_id} has samples before its start or after its stop")]
    OutsideLife {
        /// Which VM.
        vm_id: u32,
    },
    /// A recording no VM refers to.
    #[error("pages/{name} belongs to no VM")]
    UnusedPageWrites {
        /// Which.
        name: String,
    },
}

impl Bundle {
    /// Reads a bundle; verifies checksums, row counts, order, overlaps and references.
    ///
    /// # Errors
    /// The first thing found wrong, with the file.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        load(dir).map(|(bundle, _)| bundle)
    }

    /// Reads a bundle and says what is odd in it; empty when nothing is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn check(dir: &Path) -> Result<Vec<Finding>, BundleError> {
        let (bundle, mut findings) = load(dir)?;
        findings.extend(unlisted(dir, &bundle.manifest)?);
        for vm in &bundle.vms {
            let vm_id = vm.vm_id;
            let intervals = bundle
                .samples
                .get(&vm_id)
                .map_or(&[][..], Series::intervals);
            let (Some(first), Some(last)) = (intervals.first(), intervals.last()) else {
                findings.push(Finding::NoSamples {
                    vm_id,
                    name: vm.name.clone(),
                });
                continue;
            };
            let early = vm.start_ms.is_some_and(|start| first.t_ms < start);
            if early || vm.stop_ms.is_some_and(|stop| last.end_ms() > stop) {
                findings.push(Finding::OutsideLife { vm_id });
            }
        }
        for name in bundle.page_writes.keys() {
            if !bundle
                .vms
                .iter()
                .any(|vm| vm.page_writes.as_ref() == Some(name))
            {
                findings.push(Finding::UnusedPageWrites { name: name.clone() });
            }
        }
        Ok(findings)
    }
}

fn load(dir: &Path) -> Result<(Bundle, Vec<Finding>), BundleError> {
    let manifest = read_manifest(dir)?;
    let files = Files {
        dir,
        manifest: &manifest,
    };
    let mut findings = Vec::new();
    let vms = read_vms(files.table(VMS)?, &mut findings)?;
    let samples = read_samples(files.table(SAMPLES)?, &mut findings)?;
    let dirty_profiles = if manifest.files.contains_key(PROFILES) {
        read_profiles(files.table(PROFILES)?, &mut findings)?
    } else {
        BTreeMap::new()
    };
    let page_writes = files.page_writes()?;
    let bundle = Bundle {
        manifest: manifest.clone(),
        vms,
        samples,
        dirty_profiles,
        page_writes,
    };
    bundle.check_references()?;
    Ok((bundle, findings))
}

pub(super) fn read_manifest(dir: &Path) -> Result<Manifest, BundleError> {
    let path = dir.join(MANIFEST);
    let json = fs::read(&path).map_err(|source| io_error(&path, source))?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|source| BundleError::Manifest { path, source })?;
    if manifest.version != VERSION {
        return Err(BundleError::Version {
            found: manifest.version,
        });
    }
    Ok(manifest)
}

/// The files of a bundle, verified against its manifest.
pub(super) struct Files<'a> {
    pub(super) dir: &'a Path,
    pub(super) manifest: &'a Manifest,
}

impl Files<'_> {
    /// The bytes of a file. Nothing is parsed before its checksum is right.
    pub(super) fn bytes(&self, name: &str) -> Result<(Vec<u8>, u64), BundleError> {
        let entry = self.manifest.files.get(name);
        let entry = entry.ok_or_else(|| BundleError::NotListed {
            file: name.to_string(),
        })?;
        let path = self.dir.join(name);
        let bytes = fs::read(&path).map_err(|source| io_error(&path, source))?;
        let found = format!("{:08x}", crc32fast::hash(&bytes));
        let found_bytes = bytes.len() as u64;
        if found_bytes != entry.bytes || found != entry.crc32 {
            return Err(BundleError::Checksum {
                file: name.to_string(),
                bytes: entry.bytes,
                expected: entry.crc32.clone(),
                found_bytes,
                found,
            });
        }
        Ok((bytes, entry.rows))
    }

    pub(super) fn table(&self, name: &'static str) -> Result<Reading, BundleError> {
        let (bytes, stated) = self.bytes(name)?;
        let table = Table::read(bytes).map_err(|source| parquet_error(name, source))?;
        let (rows, found) = (table.rows, table.rows as u64);
        if found != stated {
            return Err(BundleError::Rows {
                file: name.to_string(),
                stated,
                found,
            });
        }
        Ok(Reading {
            file: name,
            rows,
            columns: table.into_columns(),
        })
    }

    fn page_writes(&self) -> Result<BTreeMap<String, PageWriteTrace>, BundleError> {
        let mut traces = BTreeMap::new();
        let prefix = format!("{PAGES}/");
        for file in self.manifest.files.keys() {
            let Some(name) = file
                .strip_prefix(&prefix)
                .filter(|name| is_plain_name(name))
            else {
                continue;
            };
            let (bytes, stated) = self.bytes(file)?;
            let trace = page_write::read_page_writes(bytes.as_slice()).map_err(|source| {
                BundleError::PageWrites {
                    file: file.clone(),
                    source,
                }
            })?;
            let found = trace.ticks.len() as u64;
            if found != stated {
                return Err(BundleError::Rows {
                    file: file.clone(),
                    stated,
                    found,
                });
            }
            traces.insert(name.to_string(), trace);
        }
        Ok(traces)
    }
}

/// Files in the bundle, one level deep, that its manifest does not list.
fn unlisted(dir: &Path, manifest: &Manifest) -> Result<Vec<Finding>, BundleError> {
    let mut findings = Vec::new();
    for folder in ["", PAGES] {
        let path = dir.join(folder);
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        for entry in entries {
            let entry = entry.map_err(|source| io_error(&path, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            if file != PAGES && file != MANIFEST && !manifest.files.contains_key(&file) {
                findings.push(Finding::UnlistedFile { file });
            }
        }
    }
    findings.sort_by_key(ToString::to_string);
    Ok(findings)
}
