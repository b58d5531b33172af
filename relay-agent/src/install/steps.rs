//! What is to be done, so that it can be shown instead.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use super::failed;
use crate::explain::Failure;

/// Files and commands, in order.
#[derive(Default)]
pub(super) struct Steps(Vec<Step>);

enum Step {
    File {
        path: PathBuf,
        text: String,
        is_secret: bool,
    },
    Remove(PathBuf),
    Command(Vec<String>),
}

impl Steps {
    /// Writes a file, unless it is there with this very text.
    pub(super) fn file(&mut self, path: &Path, text: String) {
        self.0.push(Step::File {
            path: path.to_owned(),
            text,
            is_secret: false,
        });
    }

    /// The same, readable by its owner only and never shown.
    pub(super) fn secret(&mut self, path: &Path, text: String) {
        self.0.push(Step::File {
            path: path.to_owned(),
            text,
            is_secret: true,
        });
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, path: &Path) {
        self.0.push(Step::Remove(path.to_owned()));
    }

    /// Runs a program.
    pub(super) fn command(&mut self, words: Vec<String>) {
        self.0.push(Step::Command(words));
    }

    /// Does it all, up to what fails. What was done, for people.
    ///
    /// # Errors
    ///
    /// What could not be done. A file with another text is never overwritten.
    pub(super) fn carry_out(&self) -> Result<String, Failure> {
        // Before anything is changed.
        for step in &self.0 {
            if let Step::File { path, text, .. } = step {
                refuse_other(path, text)?;
            }
        }
        let mut done = Vec::new();
        for step in &self.0 {
            done.push(step.carry_out()?);
        }
        Ok(done.join("\n"))
    }
}

fn refuse_other(path: &Path, text: &str) -> Result<(), Failure> {
    let is_same = match fs::read_to_string(path) {
        Ok(found) => found == text,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_same {
        return Ok(());
    }
    let what = format!("{} exists and says something else", path.display());
    Err(failed(what).fix("nothing was changed; look at it, and move it away if it is not wanted"))
}

impl Step {
    fn carry_out(&self) -> Result<String, Failure> {
        match self {
            Self::File {
                path,
                text,
                is_secret,
            } => {
                if path.exists() {
                    return Ok(format!("kept {}", path.display()));
                }
                write(path, text, *is_secret).map_err(|error| refused("write", path, &error))?;
                Ok(format!("wrote {}", path.display()))
            }
            Self::Remove(path) => {
                fs::remove_file(path).map_err(|error| refused("remove", path, &error))?;
                Ok(format!("removed {}", path.display()))
            }
            Self::Command(words) => {
                let shown = words.join(" ");
                let (program, arguments) = words.split_first().ok_or_else(|| failed("nothing"))?;
                let status = Command::new(program).args(arguments).status();
                match status {
                    Ok(status) if status.success() => Ok(format!("ran {shown}")),
                    Ok(status) => Err(failed(format!("{shown} failed: {status}"))
                        .fix("see `journalctl -u relay-agent`, and what it printed above")),
                    Err(error) => Err(failed(format!("cannot run {shown}: {error}"))),
                }
            }
        }
    }
}

fn write(path: &Path, text: &str, is_secret: bool) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_secret { 0o600 } else { 0o644 });
    #[cfg(not(unix))]
    let _ = is_secret;
    options.open(path)?.write_all(text.as_bytes())
}

fn refused(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = failed(format!("cannot {verb} {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.fix("use sudo, or --user for yourself alone"),
        _ => failure,
    }
}

/// What would be done.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::File {
                    path,
                    is_secret: true,
                    ..
                } => writeln!(f, "# {}: the token", path.display())?,
                Step::File { path, text, .. } => writeln!(f, "# {}\n{text}", path.display())?,
                Step::Remove(path) => writeln!(f, "rm {}", path.display())?,
                Step::Command(words) => writeln!(f, "{}", words.join(" "))?,
            }
        }
        Ok(())
    }
}
