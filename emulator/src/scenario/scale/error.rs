//! What cannot be carried at a k, and the limits that say so.

/// Fewest segments a queue must hold: below, bursts of the initial window and of super-frames are
/// dropped that the full-size queue would have taken.
pub const QUEUE_SEGMENTS_MIN: u64 = 16;
/// Fewest segments in bandwidth-delay product and queue together: below, TCP cannot keep a link
/// full and react to a loss without a timeout.
pub const PIPE_SEGMENTS_MIN: u64 = 20;
/// Fewest pages a VM may have when k > 1: rounding up by one page stays below 0.4 %.
pub const RAM_PAGES_MIN: u64 = 256;

/// What cannot be carried at a k.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// The scenario has been divided before.
    #[error("the scenario is already divided by {divided_by}")]
    Already {
        /// By how much.
        divided_by: u32,
    },
    /// k is 0.
    #[error("scale k is 0; it divides sizes, 1 leaves them as they are")]
    Zero,
    /// A queue of too few segments.
    #[error(
        "link {link}: at k = {k} its queue of {queue_bytes} B holds {segments} segments of \
         {segment_bytes} B, fewer than {QUEUE_SEGMENTS_MIN}"
    )]
    Queue {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// The queue at k.
        queue_bytes: u64,
        /// Segments in it.
        segments: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A pipe of too few segments.
    #[error(
        "link {link}: at k = {k} its bandwidth-delay product ({bdp_bytes} B over the round trip) and \
         its queue ({queue_bytes} B) hold {segments} segments, fewer than {PIPE_SEGMENTS_MIN}"
    )]
    Pipe {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// Rate × round trip at k.
        bdp_bytes: u64,
        /// The queue at k.
        queue_bytes: u64,
        /// Segments in both.
        segments: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A threshold below one segment.
    #[error(
        "link {link}: at k = {k} its `ecn` of {threshold_bytes} B is less than one segment of \
         {segment_bytes} B, and marks whatever finds anything before it"
    )]
    Threshold {
        /// Which.
        link: String,
        /// Scale.
        k: u32,
        /// The threshold at k.
        threshold_bytes: u64,
        /// Bytes of a full segment on the wire.
        segment_bytes: u64,
    },
    /// A rate that vanishes.
    #[error("{what}: {rate_bps} bit/s divided by k = {k} is nothing")]
    Rate {
        /// Of what.
        what: String,
        /// Full size.
        rate_bps: u64,
        /// Scale.
        k: u32,
    },
    /// A VM of too few pages.
    #[error("VM `{vm}`: at k = {k} its RAM is {pages} pages, fewer than {RAM_PAGES_MIN}")]
    Ram {
        /// Which.
        vm: String,
        /// Scale.
        k: u32,
        /// Pages at k.
        pages: u64,
    },
}

impl ScaleError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let queue = |segments: u64, segment_bytes: u64, k: u32| {
            let bytes = segments * segment_bytes * u64::from(k);
            format!("give the link a `queue` of at least {bytes}B, or lower `scale`")
        };
        match self {
            Self::Already { .. } => "apply k to the scenario as written".into(),
            Self::Zero => "write `scale = 1`".into(),
            Self::Queue {
                segment_bytes, k, ..
            } => queue(QUEUE_SEGMENTS_MIN, *segment_bytes, *k),
            Self::Pipe {
                segment_bytes, k, ..
            } => queue(PIPE_SEGMENTS_MIN, *segment_bytes, *k),
            Self::Threshold {
                segment_bytes, k, ..
            } => {
                let bytes = segment_bytes * u64::from(*k);
                format!("give the link an `ecn` of at least {bytes}B, or lower `scale`")
            }
            Self::Rate { .. } | Self::Ram { .. } => "lower `scale`".into(),
        }
    }
}
