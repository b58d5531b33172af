//! `relay-server secret-key`: another key for the secrets at rest, while the relay serves.
//!
//! The key file is the truth: its first line seals, the others still open. So a rotation can be cut
//! off anywhere and run again.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Failure,
    calls::Call,
    client, load_config,
    output::{self, Show},
    tell,
};
use crate::{
    args::{Connection, ForRelay, SecretKeyCommand},
    config::Overrides,
    problem::Code,
    tenancy::{KeyError, KeySource, SecretKey, read_private},
};

pub(super) async fn run(
    args: ForRelay<SecretKeyCommand>,
    config: Option<&Path>,
) -> Result<(), Failure> {
    match args.command {
        SecretKeyCommand::List => {
            let call = Call::new(Method::GET, &["secret-keys"], Show::SecretKeys);
            let answer = client::send(&args.connection, &call).await?;
            output::show(&args.connection, call.show, &answer)
        }
        SecretKeyCommand::Rotate => {
            let source = load_config(config, &Overrides::default())?
                .config
                .key_source();
            match source {
                KeySource::File(path) => rotate(&args.connection, &path).await,
                KeySource::Variable(name) => Err(Failure::Plain(format!(
                    "the key comes from {name}: put a new key in front of it, on a line of its own, restart the \
                     relay, and remove the old one when `secret-key list` shows that nothing needs it"
                ))),
            }
        }
    }
}

async fn rotate(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let begun = begin(path)?;
    let newest = begun.newest.id().to_owned();
    tell(&format!("{}: the new key is {newest}\n", path.display()));
    let mut call = Call::post(&["secret-keys", "reload"], json!({}));
    call.show = Show::SecretKeys;
    let answer = client::send(connection, &call).await?;
    let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let used = value.pointer("/data/0/id").and_then(Value::as_str);
    if used != Some(newest.as_str()) {
        let why = format!(
            "the relay at {} uses the key {}, so {} is not its key file; name its configuration with --config. \
             Both keys stay in the file",
            connection.server,
            used.unwrap_or("-"),
            path.display()
        );
        return Err(Failure::coded(Code::SecretKey, why));
    }
    let left = value.get("left").and_then(Value::as_u64).unwrap_or(0);
    if left > 0 {
        let why = format!(
            "{left} secrets did not open, and the log says which; the old keys stay in the file"
        );
        return Err(Failure::coded(Code::SecretKey, why));
    }
    let retired = retire(path, &begun)?;
    output::show(connection, call.show, &answer)?;
    for path in retired {
        tell(&format!(
            "The old key is in {}. Backups that were made before need it: delete it with the last of them.\n",
            path.display()
        ));
    }
    Ok(())
}

/// A key file that holds the key to come and those to go.
struct Begun {
    lines: Vec<Zeroizing<String>>,
    newest: SecretKey,
}

/// Puts a new key in front, unless an earlier try already did.
fn begin(path: &Path) -> Result<Begun, Failure> {
    let unusable = |error: KeyError| Failure::coded(Code::SecretKey, error.to_string());
    let text = read_private(path).map_err(unusable)?;
    let malformed = || unusable(KeyError::Malformed(path.to_owned()));
    SecretKey::parse(&text).ok_or_else(malformed)?;
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty());
    let mut lines: Vec<_> = lines
        .map(|line| Zeroizing::new(String::from_utf8_lossy(line).into_owned()))
        .collect();
    if lines.len() == 1 {
        let key = SecretKey::generate().map_err(|error| Failure::Plain(error.to_string()))?;
        lines.insert(0, key);
        replace(path, &lines)?;
    }
    let newest = SecretKey::parse(lines[0].as_bytes()).ok_or_else(malformed)?;
    Ok(Begun { lines, newest })
}

/// Leaves the newest key alone in the file; the others get files of their own beside it.
fn retire(path: &Path, begun: &Begun) -> Result<Vec<PathBuf>, Failure> {
    let mut retired = Vec::new();
    for line in &begun.lines[1..] {
        let Some(key) = SecretKey::parse(line.as_bytes()) else {
            continue;
        };
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", key.id()));
        let old = PathBuf::from(name);
        replace_from(path, &old, std::slice::from_ref(line))?;
        retired.push(old);
    }
    replace(path, &begun.lines[..1])?;
    Ok(retired)
}

fn replace(path: &Path, lines: &[Zeroizing<String>]) -> Result<(), Failure> {
    replace_from(path, path, lines)
}

/// Writes a file of keys as a whole, for the owner of the file `like`.
fn replace_from(like: &Path, path: &Path, lines: &[Zeroizing<String>]) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let owner = fs::metadata(like)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        // What an earlier try left behind.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        // Root may run this for the relay's user.
        if file.metadata()?.uid() != owner.uid() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        for line in lines {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        Failure::Plain(format!(
            "cannot write {}: {error}; a systemd credential is changed where it comes from, see docs/OPERATIONS.md",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_begins_once_and_retires_what_it_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret_key");
        SecretKey::create(&path).unwrap();
        let old = SecretKey::read(&path).unwrap();

        let begun = begin(&path).unwrap();
        let both = SecretKey::read(&path).unwrap();
        assert_eq!(
            both.ids().collect::<Vec<_>>(),
            [begun.newest.id(), old.id()]
        );
        let again = begin(&path).unwrap();
        assert_eq!(again.newest.id(), begun.newest.id(), "no third key");

        let retired = retire(&path, &again).unwrap();
        assert_eq!(SecretKey::read(&path).unwrap().ids().count(), 1);
        assert_eq!(SecretKey::read(&path).unwrap().id(), begun.newest.id());
        assert_eq!(SecretKey::read(&retired[0]).unwrap().id(), old.id());
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing else"
        );
    }
}
