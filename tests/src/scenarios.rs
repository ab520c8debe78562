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

/// Three hosts; `vm` leaves h1 for h2 at 2 s of trace time, 0.3 s on the wire, and goes on to h3
/// at 12 s from wherever it is then.
pub const MOVES: &str = r#"
name = "faults"
seed = 3
duration = "14s"

[network]
link = { rate = "400Mbit", queue = "512KB" }

[[hosts]]
name = "h"
count = 3
cores = 2
ram = "1GiB"

[[vms]]
name = "vm"
ram = "32MiB"
resident = "8MiB"
cpu = { cores = 0.5 }
writes = { classes = [{ pages = 500, rate = 1.0 }] }
host = "h1"

[[vms]]
name = "stays"
ram = "16MiB"
host = "h3"

[[migrations]]
at = "2s"
vm = "vm"
to = "h2"

[[migrations]]
at = "12s"
vm = "vm"
to = "h3"
"#;

/// [`MOVES`] with the first of its two migrations only.
#[must_use]
pub fn one_move() -> &'static str {
    MOVES.rsplit_once("[[migrations]]").expect("two moves").0
}

/// The same of a guest that writes faster than its migration may send, so that it never converges: each pass leaves all
/// of 4000 pages, 0.82 s at 20 MB/s. `more` comes after the keys of `[migration]`.
#[must_use]
pub fn endless(more: &str) -> String {
    let busy = "{ pages = 4000, rate = 20.0, coupling = \"time\" }";
    let text = one_move().replace("{ pages = 500, rate = 1.0 }", busy);
    format!("{text}[migration]\nmax-bandwidth = \"20MB/s\"\ndowntime-limit = \"50ms\"\n{more}")
}

/// `hosts` hosts of two cores at 100 Mbit/s, and a millisecond from their switch; with the Internet as far from it,
/// if there is one. VMs and what moves them come after.
#[must_use]
pub fn far_hosts(name: &str, hosts: u32, internet: bool) -> String {
    let link = r#"{ rate = "100Mbit", delay = "1ms" }"#;
    let internet = match internet {
        true => format!("internet = {{ link = {link} }}\n"),
        false => String::new(),
    };
    format!(
        r#"
name = "{name}"
duration = "20s"

[network]
link = {{ rate = "100Mbit", delay = "1ms", queue = "128KB" }}
{internet}
[[hosts]]
name = "h"
count = {hosts}
cores = 2
ram = "1GiB"
"#
    )
}

/// `web` on h1, 8 MiB and what it writes, answers `user` on h3, fifty times a second. `web` and `service` are further
/// keys of that VM and of the service.
#[must_use]
pub fn shop(web: &str, service: &str) -> String {
    format!(
        r#"
[[vms]]
name = "web"
ram = "32MiB"
resident = "8MiB"
writes = {{ classes = [{{ pages = 500, rate = 20 }}] }}
host = "h1"
{web}

[[vms]]
name = "user"
ram = "16MiB"
resident = "4MiB"
host = "h3"

[[services]]
name = "shop"
server = "web"
client = "user"
rate = 50
arrivals = "paced"
response = "2KB"
cpu = "4ms"
{service}
"#
    )
}

/// The Internet asks for `web` all the time.
pub const WEB_PROBED: &str = "\n[[probes]]\nvm = \"web\"\nfrom = \"internet\"\n";

/// `vm` moves to `to` at 10 s.
#[must_use]
pub fn moves(vm: &str, to: &str) -> String {
    format!("\n[[migrations]]\nat = \"10s\"\nvm = \"{vm}\"\nto = \"{to}\"\n")
}

/// A recording of the library.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn trace(name: &str) -> Vec<u8> {
    let path = crate::repository().join("traces/library").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
