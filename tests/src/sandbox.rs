//! Folders and an environment of a test's own, and `migbed` started in them.

use crate::events::{Seen, seen};
use crate::leftovers;
use crate::processes::{Process, Tree, tree_of};
use crate::wait::wait_for;
use migbed::event::EventKind;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longer than any run of these tests takes on a computer that is busy with other things.
const RUN_LIMIT: Duration = Duration::from_secs(180);

/// Folders of a test's own. They go with it.
#[derive(Debug)]
pub struct Sandbox {
    folder: tempfile::TempDir,
    marker: String,
    commands: AtomicU32,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// New folders.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("migbed-test-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let marker = format!("MIGBED_TEST_MARK={}", folder.path().display());
        for name in ["work", "input", "tmp", "home", "said"] {
            fs::create_dir(folder.path().join(name)).expect("folders can be made in it");
        }
        Self {
            folder,
            marker,
            commands: AtomicU32::new(0),
        }
    }

    /// Where commands run and where results go.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Where scenarios and traces are.
    #[must_use]
    pub fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    /// `TMPDIR` of commands.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// `HOME` of commands.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// What is in the environment of every process started here.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Puts a file beside the scenarios and returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.input().join(name);
        fs::write(&path, content).expect("files can be written");
        path.to_str().expect("temporary paths are text").to_owned()
    }

    /// A command in this sandbox.
    #[must_use]
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let (key, value) = self.marker.split_once('=').expect("a mark has a name");
        command
            .args(arguments)
            .current_dir(self.work())
            .env("TMPDIR", self.temporary())
            .env("HOME", self.home())
            .env_remove("RUST_LOG")
            .env_remove("XDG_CACHE_HOME")
            .env(key, value)
            .stdin(Stdio::null());
        command
    }

    /// Runs `migbed` to its end.
    ///
    /// # Panics
    /// When it takes longer than any test should.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.start(arguments).finish()
    }

    /// Starts `migbed`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(self.command(crate::binary(), arguments))
    }

    /// Starts a run of a scenario into `out`, without calibration: grades depend on how busy this computer is.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_scenario(&self, path: &str, options: &[&str]) -> Running {
        let always = ["run", path, "--out", "out"];
        let always = always.into_iter().chain(UNGRADED);
        let all: Vec<&str> = always.chain(options.iter().copied()).collect();
        self.start(&all)
    }

    /// The same, to its end.
    ///
    /// # Panics
    /// When it takes longer than any test should.
    pub fn run_scenario(&self, path: &str, options: &[&str]) -> Finished {
        self.start_scenario(path, options).finish()
    }

    /// Starts any command of this sandbox.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_command(&self, mut command: Command) -> Running {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        // Files, not pipes: nobody has to read along, and what was said survives a kill.
        let said = self.folder.path().join("said").join(number.to_string());
        let file = |end: &str| File::create(said.with_extension(end)).expect("files can be made");
        let child = command
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("the program starts");
        Running { child, said }
    }
}

/// A run whose grade is not the question.
const UNGRADED: [&str; 3] = ["--no-calibration", "--force", "--quiet"];

/// A command that runs. It is ended when the test gives up.
#[derive(Debug)]
pub struct Running {
    child: Child,
    said: PathBuf,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Running {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers fit")
    }

    /// Its processes, once the machine and this many agents are there.
    ///
    /// # Panics
    /// When they do not come, with what it said instead.
    #[must_use]
    pub fn tree(&self, agents: usize) -> Tree {
        let complete = |tree: &Tree| tree.agents.len() == agents;
        wait_for(Duration::from_secs(30), || {
            tree_of(self.pid()).filter(complete)
        })
        .unwrap_or_else(|| panic!("no {agents} agents; {}", self.so_far()))
    }

    /// Its processes and the network namespaces they are in.
    #[must_use]
    pub fn holds(&self, agents: usize) -> (Tree, BTreeSet<Process>, BTreeSet<PathBuf>) {
        let tree = self.tree(agents);
        let processes = tree.all();
        let namespaces = leftovers::namespaces(&processes);
        (tree, processes, namespaces)
    }

    /// Waits until the event log of the run directory has what `wanted` looks for.
    ///
    /// # Panics
    /// When it does not come within a minute, or the run ends first.
    pub fn until(&mut self, run: &Path, wanted: impl Fn(&EventKind) -> bool) -> Seen {
        let mut ended = None;
        let found = wait_for(Duration::from_secs(60), || {
            // Before the log is read: what the run wrote last is then in it.
            ended = self.child.try_wait().expect("our own child");
            let events = seen(run);
            let there = events.0.iter().any(|event| wanted(&event.kind));
            (there || ended.is_some()).then_some((there, events))
        });
        match found {
            Some((true, events)) => events,
            Some((false, _)) => panic!("ended ({ended:?}) before it came; {}", self.so_far()),
            None => panic!("did not come within a minute; {}", self.so_far()),
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer than any test should.
    #[must_use]
    pub fn finish(self) -> Finished {
        self.finish_within(RUN_LIMIT)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer.
    #[must_use]
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        let status = wait_for(limit, || self.child.try_wait().expect("our own child"));
        let Some(status) = status else {
            panic!("not ended after {limit:?}; {}", self.so_far());
        };
        self.finished(status)
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        let read = |end: &str| {
            let said = fs::read(self.said.with_extension(end)).expect("what it said is there");
            String::from_utf8_lossy(&said).into_owned()
        };
        Finished {
            code: status.code(),
            stdout: read("out"),
            stderr: read("err"),
        }
    }

    fn so_far(&self) -> String {
        format!("{:?}", self.finished(ExitStatus::default()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An ended child takes no signal, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Itself, when it ended with this code.
    ///
    /// # Panics
    /// When it did not, with all it said.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.stdout))
    }
}
