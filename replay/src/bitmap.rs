//! One bit per page.
//!
//! Inside: a dense bitmap of 64-bit words over `u32` pages. Never inside: what the bits mean.

use std::ops::Range;

/// A dense set of pages below a fixed number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: u32,
}

const BITS: u32 = 64;

const fn word_of(page: u32) -> usize {
    (page / BITS) as usize
}

/// The bits of `range` that fall into word `word`.
fn mask(word: usize, range: &Range<u32>) -> u64 {
    let first = if word == word_of(range.start) {
        range.start % BITS
    } else {
        0
    };
    let last = if word == word_of(range.end - 1) {
        (range.end - 1) % BITS
    } else {
        BITS - 1
    };
    (u64::MAX << first) & (u64::MAX >> (BITS - 1 - last))
}

impl Bitmap {
    /// No page set, of `len` pages.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self {
            words: vec![0; word_of(len.saturating_sub(1)) + 1],
            len,
        }
    }

    /// Every page set.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut bitmap = Self::new(len);
        bitmap.set_range(0..len);
        bitmap
    }

    /// Number of pages, set or not.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no page is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether the page is set.
    ///
    /// # Panics
    /// If the page is not below [`Bitmap::len`], as all methods that take a page.
    #[must_use]
    #[inline]
    pub fn get(&self, page: u32) -> bool {
        assert!(page < self.len, "page {page} of a bitmap of {}", self.len);
        self.words[word_of(page)] >> (page % BITS) & 1 == 1
    }

    /// Sets the page; whether it was clear before.
    #[inline]
    pub fn set(&mut self, page: u32) -> bool {
        assert!(page < self.len, "page {page} of a bitmap of {}", self.len);
        let word = &mut self.words[word_of(page)];
        let bit = 1 << (page % BITS);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Clears the page; whether it was set before.
    #[inline]
    pub fn clear(&mut self, page: u32) -> bool {
        assert!(page < self.len, "page {page} of a bitmap of {}", self.len);
        let word = &mut self.words[word_of(page)];
        let bit = 1 << (page % BITS);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Clears everything.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
    }

    /// Sets a range.
    pub fn set_range(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        assert!(
            range.end <= self.len,
            "pages to {} of a bitmap of {}",
            range.end,
            self.len
        );
        for word in word_of(range.start)..=word_of(range.end - 1) {
            self.words[word] |= mask(word, &range);
        }
    }

    /// Number of pages set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Number of pages set in a range.
    #[must_use]
    pub fn count_range(&self, range: Range<u32>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        assert!(
            range.end <= self.len,
            "pages to {} of a bitmap of {}",
            range.end,
            self.len
        );
        (word_of(range.start)..=word_of(range.end - 1))
            .map(|word| u64::from((self.words[word] & mask(word, &range)).count_ones()))
            .sum()
    }

    /// The first page set at or after `from`, without wrapping.
    #[must_use]
    pub fn next_set(&self, from: u32) -> Option<u32> {
        if from >= self.len {
            return None;
        }
        let first = word_of(from);
        let head = self.words[first] & (u64::MAX << (from % BITS));
        let rest = self.words[first + 1..].iter().copied();
        let (index, word) = (first..)
            .zip(std::iter::once(head).chain(rest))
            .find(|(_, word)| *word != 0)?;
        let base = u32::try_from(index).expect("there are fewer words than pages") * BITS;
        Some(base + word.trailing_zeros())
    }

    /// The first page set at or after `from`, starting again at page 0 after the last: how the
    /// sender walks memory.
    #[must_use]
    pub fn next_set_wrapping(&self, from: u32) -> Option<u32> {
        self.next_set(from)
            .or_else(|| self.next_set(0).filter(|&page| page < from))
    }

    /// The pages set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.next_set(0);
        std::iter::from_fn(move || {
            let page = next?;
            next = self.next_set(page + 1);
            Some(page)
        })
    }

    /// Sets what `other` has set in a range; how many pages were clear before.
    ///
    /// # Panics
    /// If the two differ in length.
    pub fn or_range(&mut self, other: &Self, range: Range<u32>) -> u64 {
        assert_eq!(self.len, other.len, "bitmaps of different guests");
        if range.is_empty() {
            return 0;
        }
        assert!(
            range.end <= self.len,
            "pages to {} of a bitmap of {}",
            range.end,
            self.len
        );
        let mut fresh = 0;
        for word in word_of(range.start)..=word_of(range.end - 1) {
            let bits = other.words[word] & mask(word, &range);
            fresh += u64::from((bits & !self.words[word]).count_ones());
            self.words[word] |= bits;
        }
        fresh
    }

    /// Sets what `other` has set; how many pages were clear before.
    ///
    /// # Panics
    /// If the two differ in length.
    pub fn or(&mut self, other: &Self) -> u64 {
        self.or_range(other, 0..self.len)
    }

    /// Makes every word, page `64 n` its lowest bit in word n, what a function says; bits beyond the last
    /// page are dropped.
    pub fn set_words(&mut self, mut word: impl FnMut(usize) -> u64) {
        for (index, to) in self.words.iter_mut().enumerate() {
            *to = word(index);
        }
        if self.len == 0 {
            self.words[0] = 0;
        } else {
            let last = word_of(self.len - 1);
            self.words[last] &= mask(last, &(0..self.len));
        }
    }

    /// The bits of a word that belong to pages of `range`, which is not empty and has some in it.
    #[must_use]
    pub fn word_within(&self, word: usize, range: &Range<u32>) -> u64 {
        self.words[word] & mask(word, range)
    }

    /// The words of a bulk writer: bit `page % 64` of word `page / 64`. The caller sets no bit at
    /// or above [`Bitmap::len`].
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bitmap_of_no_pages_is_empty() {
        let bitmap = Bitmap::full(0);
        assert!(bitmap.is_empty());
        assert_eq!(bitmap.next_set_wrapping(0), None);
    }

    #[test]
    fn words_are_of_the_pages_there_are() {
        let mut bitmap = Bitmap::new(70);
        bitmap.set_words(|_| u64::MAX);
        assert_eq!(bitmap.count(), 70);
        assert_eq!(bitmap.word_within(1, &(66..70)), 0b11_1100);
        let mut none = Bitmap::new(0);
        none.set_words(|_| u64::MAX);
        assert!(none.is_empty());
    }

    #[test]
    fn the_walk_wraps_once() {
        let mut bitmap = Bitmap::new(200);
        bitmap.set(5);
        assert_eq!(bitmap.next_set_wrapping(6), Some(5));
        assert_eq!(bitmap.next_set_wrapping(5), Some(5));
        assert_eq!(bitmap.next_set_wrapping(200), Some(5));
        bitmap.clear(5);
        assert_eq!(bitmap.next_set_wrapping(6), None);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            len in 1u32..300,
            pages in prop::collection::vec(0u32..300, 0..60),
            range in (0u32..300, 0u32..300),
        ) {
            let mut bitmap = Bitmap::new(len);
            let mut set = BTreeSet::new();
            for page in pages.into_iter().filter(|&page| page < len) {
                prop_assert_eq!(bitmap.set(page), set.insert(page));
            }
            prop_assert_eq!(bitmap.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bitmap.count(), set.len() as u64);
            let range = range.0.min(len)..range.1.min(len);
            let inside = set.iter().filter(|page| range.contains(page)).count() as u64;
            prop_assert_eq!(bitmap.count_range(range.clone()), inside);
            let mut other = Bitmap::new(len);
            other.set_range(range.clone());
            prop_assert_eq!(other.count(), range.len() as u64);
            prop_assert_eq!(other.or_range(&bitmap, range.clone()), 0);
            prop_assert_eq!(bitmap.or(&other), range.len() as u64 - inside);
            prop_assert_eq!(Bitmap::full(len).count(), u64::from(len));
        }
    }
}
