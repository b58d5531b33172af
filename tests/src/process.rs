//! A child process that never outlives its test.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, terminal::Terminal};

/// How much of an output is shown when a test fails, in lines.
const SHOWN_LINES: usize = 60;

/// A running program whose output goes to files.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program; its output goes to `{directory}/{name}.out` and `.err`.
    pub fn start(name: &str, mut command: Command, directory: &Path) -> Self {
        let stdout = File::create(directory.join(format!("{name}.out"))).unwrap();
        command.stdin(Stdio::null()).stdout(stdout);
        Self::spawn(name, command, directory)
    }

    /// Starts a program in a terminal; only its standard error goes to a file.
    pub fn start_in(
        terminal: &Terminal,
        name: &str,
        mut command: Command,
        directory: &Path,
    ) -> Self {
        command.stdin(terminal.end()).stdout(terminal.end());
        Self::spawn(name, command, directory)
    }

    fn spawn(name: &str, mut command: Command, directory: &Path) -> Self {
        let stdout = directory.join(format!("{name}.out"));
        let stderr = directory.join(format!("{name}.err"));
        // A setting of whoever runs the tests must not reach the programs under test.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("HOOKFERRY_") {
                command.env_remove(variable);
            }
        }
        command.stderr(File::create(&stderr).unwrap());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    /// Everything it has printed to the standard output.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Everything it has printed to the standard error.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for a line of the standard output that starts with `start`, and returns the rest of it.
    pub async fn line(&mut self, start: &str) -> String {
        let what = format!("a line `{start}...` of {}", self.name);
        eventually(what, async || {
            let output = self.stdout();
            // A line without its end may still grow.
            let lines = output
                .rsplit_once('\n')
                .map_or("", |(whole, _)| whole)
                .lines();
            if let Some(line) = lines.filter_map(|line| line.strip_prefix(start)).next() {
                return Some(line.to_owned());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{} ended: {ended:?}\n{}",
                self.name,
                self.stderr()
            );
            None
        })
        .await
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it as `kill -9` does; it has no chance to tidy up.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it where it is (SIGSTOP); it can do nothing about that.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// The memory it occupies (`VmRSS` of proc(5)), in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let kib = self.status("VmRSS:");
        let kib = kib.and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    /// Asks it to stop (SIGTERM), once it listens to that: a process that has only just been made
    /// would end at once, as any would.
    pub async fn terminate(&mut self) {
        eventually(format!("{} to handle SIGTERM", self.name), async || {
            (self.handles_sigterm() || !self.is_running()).then_some(())
        })
        .await;
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Asks it to read its configuration again (SIGHUP).
    pub fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    /// Whether SIGTERM is among the signals it catches (`SigCgt` of proc(5)).
    fn handles_sigterm(&self) -> bool {
        let caught = self.status("SigCgt:");
        let caught = caught.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
    }

    /// What the system says about it: the value of one line of proc(5).
    fn status(&self, name: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().to_owned())
    }

    /// Waits until it has ended by itself, and returns the exit code.
    pub async fn exit_code(&mut self) -> i32 {
        let name = self.name.clone();
        let status = eventually(format!("the end of {name}"), async || {
            self.child.try_wait().unwrap()
        })
        .await;
        code(status).unwrap_or_else(|| panic!("{name} was killed: {status}"))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let lines: Vec<_> = text.lines().collect();
                let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
                if !shown.is_empty() {
                    eprintln!("--- {} {stream}\n{}", self.name, shown.join("\n"));
                }
            }
        }
    }
}
