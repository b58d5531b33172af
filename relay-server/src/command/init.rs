//! `relay-server init`: everything a relay needs before its first start, and nothing twice.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use super::{Failure, load_config, output::write_private, print, report, tell};
use crate::{
    args::InitArgs,
    clock::{Clock as _, SystemClock},
    config::{Config, DEFAULT_PATH, Overrides},
    problem::Code,
    store::{Settings, StoreError},
    tenancy::{KeySource, SecretKey, TenancyError, create_operator_token},
};

/// The documented configuration file.
const TEMPLATE: &str = include_str!("../../../deploy/config/relay-server.toml");

/// The line of it that says where the data is.
const DATA_DIR_LINE: &str = "data_dir = \"/var/lib/hookferry\"";

/// The name of the token that `init` makes.
const TOKEN_NAME: &str = "operator";

/// Runs the command. `open` opens the settings in a data directory that nothing else has open.
pub async fn run<F, Fut>(args: &InitArgs, config: Option<&Path>, open: F) -> ExitCode
where
    F: FnOnce(PathBuf) -> Fut,
    Fut: Future<Output = Result<Arc<dyn Settings>, StoreError>>,
{
    match init(args, config, open).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

pub(super) async fn init<F, Fut>(
    args: &InitArgs,
    path: Option<&Path>,
    open: F,
) -> Result<(), Failure>
where
    F: FnOnce(PathBuf) -> Fut,
    Fut: Future<Output = Result<Arc<dyn Settings>, StoreError>>,
{
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    let config = planned(args, path)?;
    let key_source = config.key_source();
    let key_file = config.key_file();
    if let KeySource::Variable(_) = key_source {
        let read = key_source.read();
        read.map_err(|error| Failure::coded(Code::SecretKey, error.to_string()))?;
    } else if key_file.exists() {
        return Err(Failure::Plain(format!(
            "{} exists, so this relay was initialised before; nothing was changed",
            key_file.display()
        )));
    }
    if let Some(file) = args.token_file.as_ref().filter(|file| file.exists()) {
        return Err(Failure::Plain(format!(
            "{} exists; nothing was changed",
            file.display()
        )));
    }
    create_dir(&config.data_dir)?;
    let wrote_config = write_config(path, &config.data_dir)?;
    let settings = open(config.data_dir.clone()).await.map_err(|error| {
        Failure::Plain(format!(
            "cannot open the settings in {}: {error}",
            config.data_dir.display()
        ))
    })?;
    let makes_key = matches!(key_source, KeySource::File(_));
    if makes_key {
        SecretKey::create(&key_file).map_err(|error| cannot_write(&key_file, &error))?;
    }
    let token = create_operator_token(&*settings, TOKEN_NAME, SystemClock.now()).await;
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            // Nothing is encrypted with the new key yet, and left behind it would block a second try.
            if makes_key {
                let _ = fs::remove_file(&key_file);
            }
            return Err(no_token(&config, &error));
        }
    };
    tell(&format!("data directory: {}\n", config.data_dir.display()));
    match key_source {
        KeySource::Variable(name) => tell(&format!("key: from {name}\n")),
        KeySource::File(_) => tell(&format!(
            "key file: {} (back it up apart from the data)\n",
            key_file.display()
        )),
    }
    let note = if wrote_config { "" } else { " (was there)" };
    tell(&format!("configuration: {}{note}\n", path.display()));
    match &args.token_file {
        Some(file) => {
            write_private(file, token.expose())?;
            tell(&format!("operator's token: {}\n", file.display()));
            Ok(())
        }
        None => {
            tell("operator's token, shown this once:\n");
            print(format!("{}\n", token.expose()).as_bytes())
        }
    }
}

/// The configuration that the relay will have.
fn planned(args: &InitArgs, path: &Path) -> Result<Config, Failure> {
    let mut config = if path.exists() {
        load_config(Some(path), &Overrides::default())?.config
    } else {
        Config::default()
    };
    match &args.data_dir {
        Some(wanted) if path.exists() && *wanted != config.data_dir => {
            return Err(Failure::Plain(format!(
                "{} says data_dir = {}, but --data-dir says {}; let them agree",
                path.display(),
                config.data_dir.display(),
                wanted.display()
            )));
        }
        Some(wanted) => config.data_dir.clone_from(wanted),
        None => {}
    }
    config.data_dir = std::path::absolute(&config.data_dir)
        .map_err(|error| cannot_write(&config.data_dir, &error))?;
    Ok(config)
}

fn create_dir(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    let created = builder.recursive(true).mode(0o700).create(path);
    created.map_err(|error| cannot_write(path, &error))
}

/// Writes the configuration file unless it is there; says whether it did.
fn write_config(path: &Path, data_dir: &Path) -> Result<bool, Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
    }
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o644).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(cannot_write(path, &error)),
    };
    let text = data_dir.to_str().ok_or_else(|| {
        Failure::Plain(format!(
            "{} is not UTF-8; choose another directory",
            data_dir.display()
        ))
    })?;
    let line = format!("data_dir = {}", toml::Value::String(text.to_owned()));
    let content = TEMPLATE.replace(DATA_DIR_LINE, &line);
    io::Write::write_all(&mut file, content.as_bytes())
        .map_err(|error| cannot_write(path, &error))?;
    Ok(true)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let mut text = format!("cannot write {}: {error}", path.display());
    if error.kind() == io::ErrorKind::PermissionDenied {
        text.push_str("; run it as the user of the relay, or choose other places with --data-dir and --config");
    }
    Failure::Plain(text)
}

fn no_token(config: &Config, error: &TenancyError) -> Failure {
    Failure::Plain(match error {
        TenancyError::NameTaken { .. } => format!(
            "{} holds an initialised relay, but its key file {} is missing; restore it from your backup",
            config.data_dir.display(),
            config.key_file().display()
        ),
        other => format!("cannot create the operator's token: {other}"),
    })
}
