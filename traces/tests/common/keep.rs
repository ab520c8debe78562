//! An output that keeps what it is given.

use traces::dirty::PageWriteTrace;
use traces::import::{Output, OutputError};
use traces::store::bundle::VmMeta;
use traces::store::sample::Sample;

#[derive(Debug, Default)]
pub(crate) struct Keep {
    pub(crate) samples: Vec<Sample>,
    pub(crate) vms: Vec<VmMeta>,
}

impl Output for Keep {
    fn sample(&mut self, sample: &Sample) -> Result<(), OutputError> {
        self.samples.push(*sample);
        Ok(())
    }

    fn vm(&mut self, meta: VmMeta, _: Option<PageWriteTrace>) -> Result<(), OutputError> {
        self.vms.push(meta);
        Ok(())
    }
}
