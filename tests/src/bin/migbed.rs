//! `migbed` as the tests start it: `emulator/src/main.rs` again, because Cargo builds the binaries of
//! a test's own package before the test, and no other package's.

use std::process::ExitCode;

fn main() -> ExitCode {
    migbed::cli::main()
}
