//! Scenarios small enough for a test: seconds each.

/// Three hosts at 1 Gbit/s; the first is overloaded with VMs that replay a recorded program, so any
/// balancer has something to do. Ends with a `[balancer]` table's place: append one.
pub const DAY: &str = r#"
name = "small"
seed = 7
duration = "4m"

[traces.redis]
file = "redis.mbpw"

[network]
link = { rate = "1Gbit", queue = "512KB" }

[[hosts]]
name = "h"
count = 3
cores = 2
ram = "2GiB"

[[vms]]
name = "db"
count = 2
ram = "256MiB"
resident = "16MiB"
cpu = { trace = "redis" }
writes = { trace = "redis" }
stagger = "5s"
host = ["h2", "h3"]

[[vms]]
name = "busy"
count = 4
ram = "64MiB"
resident = "16MiB"
cpu = { cores = 0.75 }
writes = { classes = [{ pages = 500, rate = 1.0 }] }
host = "h1"
"#;

/// Three hosts at 100 Mbit/s. `big` leaves h1 for h2 at 5 s of trace time, 13 s on the wire; `small`
/// leaves h3 at 10 s for the host appended after this text, 1 s on the wire. `stays` is on h1.
pub const QUEUE: &str = r#"
name = "queue"
seed = 3
duration = "15s"

[network]
link = { rate = "100Mbit", queue = "512KB" }

[[hosts]]
name = "h"
count = 3
cores = 2
ram = "2GiB"

[[vms]]
name = "big"
ram = "256MiB"
resident = "128MiB"
cpu = { cores = 0.5 }
writes = { classes = [{ pages = 2000, rate = 0.2 }] }
host = "h1"

[[vms]]
name = "small"
ram = "32MiB"
resident = "8MiB"
cpu = { cores = 0.5 }
writes = { classes = [{ pages = 500, rate = 0.2 }] }
host = "h3"

[[vms]]
name = "stays"
ram = "32MiB"
host = "h1"

[[migrations]]
at = "5s"
vm = "big"
to = "h2"
"#;

/// Two hosts at 50 Mbit/s and one VM that is on the wire for half a minute: time enough to break
/// things in the middle.
pub const SLOW: &str = r#"
name = "slow"
seed = 5
duration = "20s"

[network]
link = { rate = "50Mbit", queue = "512KB" }

[[hosts]]
name = "h"
count = 2
cores = 2
ram = "2GiB"

[[vms]]
name = "vm"
ram = "256MiB"
resident = "192MiB"
cpu = { cores = 0.5 }
writes = { classes = [{ pages = 1000, rate = 0.5 }] }
host = "h1"

[[migrations]]
at = "10s"
vm = "vm"
to = "h2"
"#;

/// Two hosts, one VM, nothing that moves: to be broken by tests of bad input.
pub const PAIR: &str = r#"
name = "pair"
duration = "10s"

[network]
link = { rate = "1Gbit" }

[[hosts]]
name = "h"
count = 2
cores = 2
ram = "1GiB"

[[vms]]
name = "vm"
ram = "64MiB"
host = "h1"
"#;

/// A recording of the library.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn trace(name: &str) -> Vec<u8> {
    let path = crate::repository().join("traces/library").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
