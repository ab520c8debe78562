//! What an orchestrator does about a migration, and why. Never inside: doing it, deciding it.

/// Something done, with the reason that stands in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub act: Act,
    /// Why, for people.
    pub why: String,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Cancels the migration.
    Abort,
    /// Stops the guest at the source and lets the migration finish.
    Suspend,
    /// Lets the guest run at the destination at once, and fetch what it lacks.
    StartPostcopy,
    /// Sets the downtime limit, ms.
    DowntimeLimit(u64),
}

impl Act {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Suspend => "suspend",
            Self::StartPostcopy => "start-postcopy",
            Self::DowntimeLimit(_) => "downtime-limit",
        }
    }

    /// The limit that it sets, ms.
    #[must_use]
    pub fn downtime_limit_ms(self) -> Option<u64> {
        match self {
            Self::DowntimeLimit(ms) => Some(ms),
            Self::Abort | Self::Suspend | Self::StartPostcopy => None,
        }
    }

    /// Done for that reason.
    #[must_use]
    pub fn since(self, why: impl Into<String>) -> Deed {
        let why = why.into();
        Deed { act: self, why }
    }

    /// Whether nothing can be done to the migration after it.
    pub(super) fn is_last(self) -> bool {
        matches!(self, Self::Abort | Self::StartPostcopy)
    }
}
