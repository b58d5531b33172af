//! The commands that are not the relay itself.

mod client;

mod calls;

mod output;

mod columns;

mod story;

mod init;

mod secret_key;

mod apply;

mod upkeep;

pub use init::run as init;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use protocol::code::{Exit, UnknownCode};

use crate::{
    args::{Command, ConfigCommand, Connection},
    config::{ConfigError, Loaded, Overrides},
    problem::{self, Code},
    relay::StartError,
};

/// Why a command failed, and the exit code that says so.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A failure that has a code.
    #[error("error[{code}]: {text}")]
    Coded {
        /// The code.
        code: Code,
        /// What happened.
        text: String,
    },
    /// A word on the command line that means nothing.
    #[error("error: {0}")]
    Usage(String),
    /// Any other failure.
    #[error("error: {0}")]
    Plain(String),
}

impl Failure {
    fn coded(code: Code, text: impl Into<String>) -> Self {
        Self::Coded {
            code,
            text: text.into(),
        }
    }

    /// Why `serve` ended.
    pub fn from_start(error: &anyhow::Error) -> Self {
        let text = format!("{error:#}");
        match error.downcast_ref() {
            Some(StartError::Key(_) | StartError::MissingKey(_)) => {
                Self::coded(Code::SecretKey, text)
            }
            _ => Self::Plain(text),
        }
    }

    /// That of the code; 2 wrong usage, 1 anything else.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Coded { code, .. } => code.exit().code(),
            Self::Usage(_) => 2,
            Self::Plain(_) => Exit::Failure.code(),
        })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let mut text = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            text.push_str(": ");
            text.push_str(&cause.to_string());
        }
        Self::coded(error.code(), text)
    }
}

/// Tells people why a command failed and what to do, and gives its exit code.
pub fn report(failure: &Failure) -> ExitCode {
    let mut text = format!("{failure}\n");
    if let Failure::Coded { code, .. } = failure {
        text.push_str(&format!("  fix: {}\n", code.fix()));
        text.push_str(&format!("  more: relay-server explain {code}\n"));
    }
    tell(&text);
    failure.exit_code()
}

/// Reads the configuration from file, environment and flags.
///
/// # Errors
///
/// Report it; the exit code is 4.
pub fn load_config(path: Option<&Path>, overrides: &Overrides) -> Result<Loaded, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    Ok(Loaded::load(path, variable, overrides)?)
}

/// Runs a command that is neither `serve`, `init` nor `verify`.
pub async fn run(command: Command, config: Option<&Path>) -> ExitCode {
    let outcome = match command {
        Command::Tenant(it) => talk(&it.connection, calls::tenant(it.command)).await,
        Command::Source(it) => talk(&it.connection, calls::source(it.command)).await,
        Command::Destination(it) => talk(&it.connection, calls::destination(it.command)).await,
        Command::Route(it) => talk(&it.connection, calls::route(it.command)).await,
        Command::Token(it) => talk(&it.connection, calls::token(it.command)).await,
        Command::Events(it) => talk(&it.connection, calls::events(it.command)).await,
        Command::Erase(it) => talk(&it.connection, calls::erase(it.command)).await,
        Command::Deliveries(it) => talk(&it.connection, calls::deliveries(it.command)).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Audit(it) => talk(&it.connection, Ok(calls::audit(it.command))).await,
        Command::SecretKey(it) => secret_key::run(it, config).await,
        Command::DeadLetters(it) => talk(&it.connection, calls::dead_letters(it.command)).await,
        Command::Replays(it) => talk(&it.connection, calls::replays(it.command)).await,
        Command::Config(args) => match args.command {
            ConfigCommand::Check(args) => check_config(config, &args.overrides),
            ConfigCommand::Show(args) => show_config(config, &args.overrides),
        },
        Command::Store(args) => upkeep::store(&args, config),
        Command::Backup(args) => upkeep::back_up(&args, config),
        Command::Restore(args) => upkeep::restore(&args, config),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Version => {
            print(concat!("relay-server ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
        }
        Command::Serve(_) | Command::Init(_) | Command::Verify(_) => {
            Err(Failure::Plain("this command is run elsewhere".to_owned()))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

async fn talk(connection: &Connection, call: Result<calls::Call, Failure>) -> Result<(), Failure> {
    let call = call?;
    let answer = client::send(connection, &call).await?;
    output::show(connection, call.show, &answer)
}

fn check_config(path: Option<&Path>, overrides: &Overrides) -> Result<(), Failure> {
    let loaded = load_config(path, overrides)?;
    let file = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file; defaults".to_owned(),
    };
    print(format!("The configuration is valid ({file}).\n").as_bytes())
}

fn show_config(path: Option<&Path>, overrides: &Overrides) -> Result<(), Failure> {
    let loaded = load_config(path, overrides)?;
    let mut table = output::Table::new(&["KEY", "VALUE", "FROM"]);
    for (key, value, origin) in loaded.settings() {
        let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        table.row([key.name.to_owned(), value, origin.to_string()]);
    }
    print(table.to_string().as_bytes())
}

fn explain(code: Option<&str>) -> Result<(), Failure> {
    let Some(text) = code else {
        return print(format!("{}\n", Code::list()).as_bytes());
    };
    let code: Code = text
        .parse()
        .map_err(|unknown: UnknownCode| Failure::Usage(unknown.to_string()))?;
    let status = problem::status(code).map(|status| ("HTTP status", status.as_str().to_owned()));
    let page = code.page(&Vec::from_iter(status), output::width());
    print(format!("{page}\n").as_bytes())
}

/// Writes data to standard output. Whoever stops reading early has read enough.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Plain(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a message for people to standard error.
fn tell(text: &str) {
    // Nothing is left to do when even stderr is gone.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
