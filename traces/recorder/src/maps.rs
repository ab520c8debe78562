//! `/proc/PID/maps`: what is mapped where. Text in, values out; never any I/O.

use std::ops::Range;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    /// `Some` for shared mappings: the object behind it.
    pub(crate) shared: Option<SharedAt>,
    /// The kernel's own pages (vdso and the like), which no program writes.
    pub(crate) special: bool,
}

/// Where a shared mapping lies in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedAt {
    pub(crate) object: SharedObject,
    /// Byte of the object that the mapping starts at.
    pub(crate) offset: u64,
}

/// A file or a piece of shared memory: the same pages, whoever maps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SharedObject {
    /// Major and minor number of its file system, as printed.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
}

/// All mappings, ascending. A line that cannot be read is left out: the kernel writes no such.
pub(crate) fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = hex(start)?..hex(end)?;
    let shared = fields.next()?.as_bytes().get(3) == Some(&b's');
    let offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = |text: &str| u32::from_str_radix(text, 16).ok();
    let object = SharedObject {
        device: (device(major)?, device(minor)?),
        inode: fields.next()?.parse().ok()?,
    };
    let name = fields.next().unwrap_or("");
    Some(Mapping {
        special: name.starts_with("[v") || range.end > crate::sys::pagemap::ADDRESS_END,
        range,
        shared: shared.then_some(SharedAt { object, offset }),
    })
}

/// Ranges without holes, each made of the mappings that can be watched.
pub(crate) fn contiguous(mappings: &[Mapping]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| !mapping.special) {
        match ranges.last_mut() {
            Some(last) if last.end == mapping.range.start => last.end = mapping.range.end,
            _ => ranges.push(mapping.range.clone()),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
55d0c6a00000-55d0c6a22000 r--p 00000000 fe:01 1311 /usr/bin/with space
55d0c6a22000-55d0c6a23000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000002000 rw-s 00003000 00:01 77 /dev/zero (deleted)
7ffd5b1e0000-7ffd5b201000 rw-p 00000000 00:00 0                          [stack]
7ffd5b3d9000-7ffd5b3dd000 r--p 00000000 00:00 0                          [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn mappings_are_read_as_the_kernel_writes_them() {
        let mappings = parse(TEXT);
        assert_eq!(mappings.len(), 6);
        assert_eq!(mappings[0].range, 0x55d0_c6a0_0000..0x55d0_c6a2_2000);
        assert!(mappings[0].shared.is_none() && !mappings[0].special);
        let shared = mappings[2].shared.unwrap();
        assert_eq!(shared.offset, 0x3000);
        let object = SharedObject {
            device: (0, 1),
            inode: 77,
        };
        assert_eq!(shared.object, object);
        assert!(mappings[4].special && mappings[5].special && !mappings[3].special);
    }

    #[test]
    fn neighbours_are_one_range_and_special_pages_none() {
        let ranges = contiguous(&parse(TEXT));
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[0], 0x55d0_c6a0_0000..0x55d0_c6a2_3000);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,300}") {
            let _ = contiguous(&parse(&text));
        }
    }
}
