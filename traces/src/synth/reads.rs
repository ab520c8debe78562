//! Rule 10: which of a guest's pages are read. A recording says how many pages are read and not written, not which; so
//! they are the ones least often written: first those never written, then the rarest written ones.

use crate::class::{Coupling, PageClass};
use crate::profile::Profile;
use crate::units::round_u32;

/// A guest's pages by what writes them.
pub(super) struct Parts {
    /// Touched and never written.
    pub(super) unwritten: u32,
    /// Classes of the profile.
    pub(super) hot: Vec<PageClass>,
    /// What is written within hours.
    pub(super) cold: Vec<PageClass>,
}

impl Parts {
    /// Makes pages read as the profile's are: as many times as many, and as much faster, as its written ones. How many
    /// that came to.
    pub(super) fn read(
        &mut self,
        profile: &Profile,
        pages_scale: f64,
        rate_scale: f64,
        clock_s: f64,
    ) -> u32 {
        let mut read = 0;
        for class in &profile.reads {
            let wanted = round_u32(f64::from(class.pages) * pages_scale);
            let rate = class.rate * rate_scale;
            read += self.place(wanted, rate, profile.coupling, clock_s);
        }
        read
    }

    /// Places one class of reads; how many pages found a place.
    fn place(&mut self, wanted: u32, rate: f64, coupling: Coupling, clock_s: f64) -> u32 {
        let alone = wanted.min(self.unwritten);
        let mut left = wanted - alone;
        if alone > 0 {
            self.unwritten -= alone;
            self.cold.push(PageClass {
                coupling,
                read_rate: rate,
                ..PageClass::new(alone, 0.0)
            });
        }
        // Written with the time the guest runs, so read with it too, as often at its mean CPU use.
        let in_time = |class: &PageClass| match (coupling, class.coupling) {
            (Coupling::Cpu, Coupling::Time) => rate * clock_s,
            _ => rate,
        };
        for list in [&mut self.cold, &mut self.hot] {
            let mut rarest: Vec<usize> = (0..list.len())
                .filter(|&i| list[i].read_rate <= 0.0)
                .collect();
            rarest.sort_by(|&a, &b| list[a].rate.total_cmp(&list[b].rate));
            for index in rarest {
                if left == 0 {
                    break;
                }
                let class = list[index];
                let taken = class.pages.min(left);
                left -= taken;
                list[index].pages = taken;
                list[index].read_rate = in_time(&class);
                if class.pages > taken {
                    let rest = class.pages - taken;
                    list.push(PageClass {
                        pages: rest,
                        ..class
                    });
                }
            }
        }
        wanted - left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let class = |pages, rate, coupling| PageClass {
            coupling,
            ..PageClass::new(pages, rate)
        };
        Parts {
            unwritten: 100,
            hot: vec![
                class(50, 100.0, Coupling::Cpu),
                class(60, 2.0, Coupling::Cpu),
            ],
            cold: vec![class(40, 1e-5, Coupling::Time)],
        }
    }

    /// 100 never written, 40 cold, 60 warm, 50 hot; by hand.
    #[test]
    fn the_rarest_written_pages_are_read_first() {
        let mut few = parts();
        assert_eq!(few.place(30, 4.0, Coupling::Cpu, 0.25), 30);
        assert_eq!((few.unwritten, few.cold.len()), (70, 2));
        let alone = few.cold[1];
        assert_eq!((alone.pages, alone.rate, alone.read_rate), (30, 0.0, 4.0));
        assert_eq!(few.hot, parts().hot);

        let mut many = parts();
        assert_eq!(many.place(160, 4.0, Coupling::Cpu, 0.25), 160);
        assert_eq!(many.unwritten, 0);
        // The cold ones follow time: 4 reads a second of CPU are one a second at a quarter of a core.
        assert_eq!((many.cold[0].pages, many.cold[0].read_rate), (40, 1.0));
        let read: Vec<(u32, f64, f64)> = many
            .hot
            .iter()
            .map(|c| (c.pages, c.rate, c.read_rate))
            .collect();
        assert_eq!(read, [(50, 100.0, 0.0), (20, 2.0, 4.0), (40, 2.0, 0.0)]);

        // A second class takes what the first has left, and no more than there is.
        assert_eq!(many.place(500, 0.5, Coupling::Cpu, 0.25), 90);
        assert_eq!(many.place(1, 0.5, Coupling::Cpu, 0.25), 0);
        let all: u32 = many.hot.iter().chain(&many.cold).map(|c| c.pages).sum();
        assert_eq!(all, 250, "no page is lost or made");
    }
}
