//! Options of `migbed migrate` on its connections.

use crate::migration::params::{EngineKind, SocketParams};
use crate::run::Unusable;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    /// QEMU's keep-alive: whether idle connections are probed; as the engine's original does without it.
    #[arg(long, value_name = "BOOL")]
    keep_alive: Option<bool>,
    /// Its keep-alive-count: probes without an answer after which a connection is dead.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=127))]
    keep_alive_count: Option<u32>,
    /// Its keep-alive-idle: seconds before the first probe.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=32_767))]
    keep_alive_idle: Option<u32>,
    /// Its keep-alive-interval: seconds between two.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=32_767))]
    keep_alive_interval: Option<u32>,
    /// Milliseconds that what was sent may stay unacknowledged; 0 leaves it to TCP.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=2_147_483_647))]
    user_timeout: Option<u32>,
}

impl SocketArgs {
    pub(super) fn params(&self, engine: EngineKind) -> Result<SocketParams, Unusable> {
        let params = SocketParams {
            keep_alive: self.keep_alive,
            keep_alive_count: self.keep_alive_count,
            keep_alive_idle: self.keep_alive_idle,
            keep_alive_interval: self.keep_alive_interval,
            user_timeout: self.user_timeout,
        };
        match params.idle_option(engine) {
            None => Ok(params),
            Some(key) => Err(Unusable(format!(
                "--{key} does nothing without --keep-alive true"
            ))),
        }
    }
}
