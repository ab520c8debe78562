//! A directory that appears whole or not at all.
//!
//! Everything is written to a directory beside the place; one rename is the commit point. Whatever
//! fails before it, the part written is removed and the place is as it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory before it gets its name; removed unless committed.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    place: PathBuf,
}

/// Why there is no directory. With the path it is about.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something where it should go.
    #[error("{}: exists already and is not an empty directory", .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
}

impl Partial {
    /// A directory that will be `place`, which must not exist or be an empty directory.
    ///
    /// # Errors
    /// When there is something at `place`, or the system refuses.
    pub fn create(place: &Path) -> Result<Self, PartialError> {
        let taken = match fs::read_dir(place) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => fs::symlink_metadata(place).is_ok(),
        };
        if taken {
            return Err(PartialError::Exists {
                path: place.to_path_buf(),
            });
        }
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        // The process id keeps two writers apart; a left-over of a killed one is replaced.
        let path = place.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| io_error(&path, source))?;
        }
        let place = place.to_path_buf();
        let partial = Self { path, place };
        fs::create_dir_all(&partial.path).map_err(|source| io_error(&partial.path, source))?;
        Ok(partial)
    }

    /// Where it is for now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When the system refuses; nothing is left then.
    pub fn commit(self) -> Result<(), PartialError> {
        fs::rename(&self.path, &self.place).map_err(|source| io_error(&self.place, source))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already after a commit; otherwise a failure here would hide the first error.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An error of the system about a path.
pub(crate) fn io_error(path: &Path, source: io::Error) -> PartialError {
    PartialError::Io {
        path: path.to_path_buf(),
        source,
    }
}
