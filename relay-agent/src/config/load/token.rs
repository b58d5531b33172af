//! Where the token comes from: never a flag, which every user of the machine could read.

use std::{io::Read, path::Path};

use super::Environment;
use crate::{
    args::LinkArgs,
    config::{FileConfig, Token, value::TOKEN_BYTES_MAX},
    explain::{Code, Failure},
};

/// Finds the token, and says where.
pub(super) fn find(
    args: &LinkArgs,
    file: &FileConfig,
    environment: &impl Environment,
) -> Result<(Token, &'static str), Failure> {
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
        (text, "standard input")
    } else if let Some(path) = &args.token_file {
        (read_token(path)?, "token file (flag or environment)")
    } else if let Some(text) = environment.variable("HOOKFERRY_TOKEN") {
        (text.to_string_lossy().into_owned(), "environment")
    } else if let Some(path) = &credential {
        (read_token(path)?, "credential")
    } else if let Some(path) = &file.token_file {
        (read_token(path)?, "token file (file)")
    } else {
        return Err(Failure::new(Code::TokenMissing, "no agent token was given"));
    };
    match Token::parse(&text) {
        Ok(token) => Ok((token, origin)),
        Err(wrong) => Err(Failure::new(
            Code::TokenMissing,
            format!("{origin}: {wrong}"),
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
