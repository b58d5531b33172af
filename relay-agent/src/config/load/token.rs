//! Where the token comes from: never a flag, which every user of the machine could read.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::Environment;
use crate::{
    args::LinkArgs,
    config::{FileConfig, Token, value::TOKEN_BYTES_MAX},
    explain::{Code, Failure},
};

/// Where a token was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrigin {
    /// It was piped in.
    StandardInput,
    /// A file that a flag or a variable names.
    Flag(PathBuf),
    /// A variable holds it.
    Environment,
    /// systemd keeps it for the service.
    Credential(PathBuf),
    /// A file that agent.toml names.
    File(PathBuf),
}

impl TokenOrigin {
    /// The file that holds it.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::StandardInput | Self::Environment => None,
            Self::Flag(path) | Self::Credential(path) | Self::File(path) => Some(path),
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StandardInput => "standard input",
            Self::Flag(_) => "token file (flag or environment)",
            Self::Environment => "environment",
            Self::Credential(_) => "credential",
            Self::File(_) => "token file (file)",
        }
    }
}

/// Finds the token, and says where.
pub(super) fn find(
    args: &LinkArgs,
    file: &FileConfig,
    environment: &impl Environment,
) -> Result<(Token, TokenOrigin), Failure> {
    let credential = environment
        .variable("CREDENTIALS_DIRECTORY")
        .map(|directory| Path::new(&directory).join("token"))
        .filter(|path| path.exists());
    let (text, origin) = if args.token_stdin {
        let text = environment.standard_input().map_err(|error| {
            Failure::new(
                Code::TokenMissing,
                format!("cannot read the token from the standard input: {error}"),
            )
        })?;
        (text, TokenOrigin::StandardInput)
    } else if let Some(path) = &args.token_file {
        (read_token(path)?, TokenOrigin::Flag(path.clone()))
    } else if let Some(text) = environment.variable("HOOKFERRY_TOKEN") {
        let text = text.to_string_lossy().into_owned();
        (text, TokenOrigin::Environment)
    } else if let Some(path) = &credential {
        (read_token(path)?, TokenOrigin::Credential(path.clone()))
    } else if let Some(path) = &file.token_file {
        (read_token(path)?, TokenOrigin::File(path.clone()))
    } else {
        return Err(Failure::new(Code::TokenMissing, "no agent token was given"));
    };
    match Token::parse(&text) {
        Ok(token) => Ok((token, origin)),
        Err(wrong) => Err(Failure::new(
            Code::TokenMissing,
            format!("{}: {wrong}", origin.name()),
        )),
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let cannot = |error| {
        Failure::new(
            Code::TokenMissing,
            format!("cannot read the token file {}: {error}", path.display()),
        )
    };
    read_start(path, TOKEN_BYTES_MAX).map_err(cannot)
}

/// Reads a secret's file, and no more than one byte more than it may have.
pub(super) fn read_start(path: &Path, bytes_max: usize) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
