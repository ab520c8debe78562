//! The engine's units of work at the run's space scale.

use crate::migration::engine::EngineUnits;
use crate::scenario::scale;
use traces::units::PAGE_SIZE;

/// The engine's units of work at a space scale: as many a second as at full size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    pub(super) chunk_pages: u32,
    pub(super) batch_pages: usize,
    pub(super) xen_batch_pages: usize,
    pub(super) packet_pages: usize,
    pub(super) data_chunk_pages: u32,
    pub(super) engine: EngineUnits,
}

impl Units {
    pub(super) fn at(k: u32) -> Self {
        // QEMUFile's 64 pieces are 32 pages; the buffer's scale is that of the batch.
        let batch = 32_u64.div_ceil(u64::from(k.max(1)));
        let pages = |constant: scale::Constant| constant.carried(k).unwrap_or(1);
        Self {
            chunk_pages: u32::try_from(pages(scale::REPROTECT_CHUNK)).unwrap_or(u32::MAX),
            batch_pages: usize::try_from(batch).unwrap_or(1),
            xen_batch_pages: usize::try_from(pages(scale::XEN_BATCH)).unwrap_or(1),
            data_chunk_pages: {
                let pages = pages(scale::CLH_CHUNK).div_ceil(PAGE_SIZE);
                u32::try_from(pages).unwrap_or(u32::MAX)
            },
            packet_pages: {
                let bytes = pages(scale::MULTIFD_PACKET).div_ceil(PAGE_SIZE);
                usize::try_from(bytes).unwrap_or(1)
            },
            engine: EngineUnits {
                check_pages: pages(scale::CHECK_PAGES),
                stop_pages: pages(scale::XEN_STOP_PAGES),
                rounds_stop_pages: pages(scale::ROUNDS_STOP_PAGES),
            },
        }
    }
}
