//! `memory = "resident"`: a VM's RAM as memory of this computer, really written while trace time runs.
//!
//! Inside: the mapping with its dirty log (`Ram`), a migration's view of that log (`log`), which page is
//! written at which moment (`writer`), and a thread a vCPU that does it (`vcpus`). Never inside: what
//! pages hold and when they are written (`GuestMemory`: the same function that `synthetic` memory is),
//! sockets.
//!
//! Order is what makes it right. A writer stores the page, then sets its bit, with a fetch-or whatever
//! the bit was. A reader clears the bit, then reads the page. So a page read while it was being written
//! has its bit set afterwards, and is sent again.

mod log;
mod ram;
mod touches;
mod vcpus;
mod writer;

pub use log::RamLog;
pub use ram::{Lacking, Ram, Touch};
pub use vcpus::{GuestClock, Vcpus, WritersReport};
pub use writer::{Share, Writer};

#[cfg(test)]
mod missing_tests;
#[cfg(test)]
mod tests;
