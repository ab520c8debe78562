//! Standard output that may be a pipe whose reader has had enough (`| head`): that is an ordinary
//! end, not an error.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Writes a line; ends the program quietly when nobody reads any more.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("migbed: standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// `println!` for subcommands.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}
pub(super) use say;
