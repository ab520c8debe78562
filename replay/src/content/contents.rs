//! The contents of one guest's memory: which profile each page has, and what it holds.

use std::sync::Arc;

use traces::class::PageClass;
use traces::content::ContentProfile;

use super::recipe::{Recipe, RecipeError};
use super::{ContentError, PagePool, Stamp};
use crate::guest::{Behaviour, Layout, MemoryError, MemorySpec};
use crate::mix;

/// Contents that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ContentsError {
    /// The memory has no layout.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A profile cannot be met.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

/// Pages of one profile.
#[derive(Debug, Clone)]
struct Part {
    /// One past its last page; it begins where the part before ends.
    end: u32,
    zero: u64,
    filled_zero: u64,
    pool: Arc<PagePool>,
}

/// Keeps these draws apart from those of writes with the same seed and VM.
const ZERO_DOMAIN: u64 = 0x7A65_726F;

impl Part {
    fn of(end: u32, profile: &ContentProfile, pool: Arc<PagePool>) -> Self {
        Self {
            end,
            zero: mix::threshold(profile.zero_share),
            filled_zero: mix::threshold(profile.filled_zero_share),
            pool,
        }
    }
}

/// What the pages of one guest hold. Both ends of a migration build it from the same values.
#[derive(Debug, Clone)]
pub struct Contents {
    vm_key: u64,
    zero_key: u64,
    layout: Layout,
    /// Never empty; the last ends with RAM.
    parts: Vec<Part>,
}

impl Contents {
    /// The contents of the VM `vm_key` under a seed; `pool` gives the pool of a profile and may share
    /// it between VMs.
    ///
    /// # Errors
    /// When the memory cannot be laid out, or `pool` says that a profile cannot be met.
    pub fn new(
        spec: &MemorySpec,
        seed: u64,
        vm_key: u64,
        mut pool: impl FnMut(&ContentProfile) -> Result<Arc<PagePool>, RecipeError>,
    ) -> Result<Self, ContentsError> {
        let layout = Layout::new(spec)?;
        let mut parts: Vec<Part> = Vec::new();
        let mut add = |end: u32, profile: &ContentProfile| -> Result<(), RecipeError> {
            let begin = parts.last().map_or(0, |part| part.end);
            if end > begin {
                parts.push(Part::of(end, profile, pool(profile)?));
            }
            Ok(())
        };
        for (begin, end, profile) in own_contents(spec, &layout) {
            add(begin, &spec.content)?;
            add(end, &profile)?;
        }
        add(spec.ram_pages.max(1), &spec.content)?;
        Ok(Self {
            vm_key,
            zero_key: mix::key(&[seed, vm_key, ZERO_DOMAIN]),
            layout,
            parts,
        })
    }

    fn part(&self, page: u32) -> &Part {
        let index = self.parts.partition_point(|part| part.end <= page);
        &self.parts[index.min(self.parts.len() - 1)]
    }

    /// Key of the VM.
    #[must_use]
    pub fn vm_key(&self) -> u64 {
        self.vm_key
    }

    /// Whether a version of a page holds nothing but zeros. Version 0 does where the guest has not
    /// filled the page before it began. Beyond that, a page that is zero stays so when it is written:
    /// zero pages come from memory that is cleared, not from data that come and go.
    #[must_use]
    pub fn is_zero(&self, page: u32, version: u64) -> bool {
        let part = self.part(page);
        let threshold = if version > 0 {
            part.zero
        } else if self.layout.starts_zero(page) {
            return true;
        } else {
            part.filled_zero
        };
        threshold > 0 && mix::draw(self.zero_key, page, 0) < threshold
    }

    /// The version whose content a version of a page that is not zero has ([`PagePool::content_version`]).
    #[must_use]
    pub fn content_version(&self, page: u32, version: u64) -> u64 {
        self.part(page)
            .pool
            .content_version(self.vm_key, page, version)
    }

    /// The two parts of a page that is not zero.
    #[must_use]
    pub fn page(&self, page: u32, version: u64) -> (Stamp, &[u8]) {
        self.part(page).pool.page(self.vm_key, page, version)
    }

    /// Version of the content that received bytes hold, if they are this page of this guest.
    ///
    /// # Errors
    /// When they are not.
    pub fn verify(&self, bytes: &[u8], page: u32) -> Result<u64, ContentError> {
        self.part(page).pool.verify(bytes, self.vm_key, page)
    }
}

/// The profiles of a memory: the guest's own and those of its classes.
fn profiles(spec: &MemorySpec) -> impl Iterator<Item = ContentProfile> + '_ {
    let own = spec.behaviours.iter().flat_map(|behaviour| {
        let (plain, phases) = match behaviour {
            Behaviour::Classes(classes) => (&classes[..], &[][..]),
            Behaviour::Phases(phased) => (&[][..], &phased.phases[..]),
            Behaviour::Idle | Behaviour::Pages { .. } => (&[][..], &[][..]),
        };
        let phased = phases.iter().flat_map(|phase| &phase.classes);
        plain.iter().chain(phased).filter_map(|class| class.content)
    });
    std::iter::once(spec.content).chain(own)
}

/// Looks whether every profile of a memory can be met.
///
/// # Errors
/// The first that cannot.
pub fn check_profiles(spec: &MemorySpec) -> Result<(), RecipeError> {
    profiles(spec).try_for_each(|profile| Recipe::of(&profile).map(drop))
}

/// Runs of pages that have a profile of their own: first page, one past the last, profile; ascending
/// and apart. A page of several phases has that of the class of the first phase that has it.
fn own_contents(spec: &MemorySpec, layout: &Layout) -> Vec<(u32, u32, ContentProfile)> {
    let mut own = Vec::new();
    for (index, behaviour) in spec.behaviours.iter().enumerate() {
        let Some(range) = layout.behaviour(index) else {
            continue;
        };
        match behaviour {
            Behaviour::Classes(classes) => own.extend(of_classes(range.start, classes)),
            Behaviour::Phases(phased) => {
                let mut taken: Vec<(u32, u32)> = Vec::new();
                for phase in &phased.phases {
                    let first = range.start + phase.first_page;
                    for (begin, end, profile) in of_classes(first, &phase.classes) {
                        own.extend(
                            free(begin, end, &taken)
                                .into_iter()
                                .map(|(begin, end)| (begin, end, profile)),
                        );
                    }
                    let pages: u32 = phase.classes.iter().map(|class| class.pages).sum();
                    taken.push((first, first + pages));
                }
            }
            Behaviour::Idle | Behaviour::Pages { .. } => {}
        }
    }
    own.sort_by_key(|&(begin, ..)| begin);
    own
}

/// Classes one after another from a page on, those with a profile of their own.
fn of_classes(first: u32, classes: &[PageClass]) -> Vec<(u32, u32, ContentProfile)> {
    let mut begin = first;
    let mut own = Vec::new();
    for class in classes {
        let end = begin + class.pages;
        own.extend(class.content.map(|profile| (begin, end, profile)));
        begin = end;
    }
    own
}

/// What of a run of pages no phase before has.
fn free(begin: u32, end: u32, taken: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut runs = vec![(begin, end)];
    for &(from, to) in taken {
        runs = runs
            .into_iter()
            .flat_map(|(begin, end)| [(begin, end.min(from)), (begin.max(to), end)])
            .filter(|(begin, end)| begin < end)
            .collect();
    }
    runs
}
