//! Options of a migration's connections themselves: when the kernel counts one as dead. Never inside: setting them.

use super::EngineKind;
use serde::{Deserialize, Serialize};

/// Under the names of QEMU's `InetSocketAddress`; `None`: as the engine's original has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SocketParams {
    /// Whether a connection on which nothing is under way is probed (`SO_KEEPALIVE`).
    pub keep_alive: Option<bool>,
    /// Probes without an answer after which it is dead (`TCP_KEEPCNT`).
    pub keep_alive_count: Option<u32>,
    /// s after which the first is sent (`TCP_KEEPIDLE`).
    pub keep_alive_idle: Option<u32>,
    /// s between two (`TCP_KEEPINTVL`).
    pub keep_alive_interval: Option<u32>,
    /// ms that what was sent may stay unacknowledged (`TCP_USER_TIMEOUT`); 0 leaves it to TCP, which gives up after 15
    /// retransmissions, 925 s or more.
    pub user_timeout: Option<u32>,
}

/// What sockets are given; `None` leaves the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepAlive {
    /// Whether idle connections are probed.
    pub on: bool,
    /// Probes.
    pub count: Option<u32>,
    /// s before the first.
    pub idle_s: Option<u32>,
    /// s between two.
    pub interval_s: Option<u32>,
    /// ms without an acknowledgement.
    pub user_timeout_ms: Option<u32>,
}

/// `MIGRATION_TCP_KEEPALIVE` and the user timeout beside it, since July 2026.
const CLOUD_HYPERVISOR: KeepAlive = KeepAlive {
    on: true,
    count: Some(4),
    idle_s: Some(60),
    interval_s: Some(15),
    user_timeout_ms: Some(120_000),
};

impl SocketParams {
    /// What an engine's sockets are given: Cloud Hypervisor's its constants; QEMU's nothing, and so Xen's, whose streams
    /// go over whatever its tools opened.
    #[must_use]
    pub fn of(&self, engine: EngineKind) -> KeepAlive {
        let original = match engine {
            EngineKind::CloudHypervisor => CLOUD_HYPERVISOR,
            _ => KeepAlive::default(),
        };
        let user_timeout_ms = self.user_timeout.or(original.user_timeout_ms);
        KeepAlive {
            on: self.keep_alive.unwrap_or(original.on),
            count: self.keep_alive_count.or(original.count),
            idle_s: self.keep_alive_idle.or(original.idle_s),
            interval_s: self.keep_alive_interval.or(original.interval_s),
            user_timeout_ms: user_timeout_ms.filter(|ms| *ms > 0),
        }
    }

    /// The first option that does nothing, since probes are off.
    #[must_use]
    pub fn idle_option(&self, engine: EngineKind) -> Option<&'static str> {
        let given = [
            ("keep-alive-count", self.keep_alive_count),
            ("keep-alive-idle", self.keep_alive_idle),
            ("keep-alive-interval", self.keep_alive_interval),
        ];
        let given = given.into_iter().find(|(_, value)| value.is_some());
        given.filter(|_| !self.of(engine).on).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_originals() {
        let own = SocketParams::default();
        assert_eq!(own.of(EngineKind::Qemu), KeepAlive::default());
        let original = own.of(EngineKind::CloudHypervisor);
        // 60 s and four probes 15 s apart: as long as unacknowledged data may take.
        let probed_s =
            original.idle_s.unwrap() + original.count.unwrap() * original.interval_s.unwrap();
        assert_eq!(Some(probed_s * 1000), original.user_timeout_ms);
        let asked = SocketParams {
            keep_alive_idle: Some(2),
            user_timeout: Some(0),
            ..own
        };
        let changed = asked.of(EngineKind::CloudHypervisor);
        assert_eq!((changed.on, changed.idle_s), (true, Some(2)));
        assert_eq!((changed.count, changed.user_timeout_ms), (Some(4), None));
        assert_eq!(asked.idle_option(EngineKind::CloudHypervisor), None);
        assert_eq!(asked.idle_option(EngineKind::Qemu), Some("keep-alive-idle"));
    }
}
