//! Keys that the operator put into a directory, for networks without a way out.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::verify::{PreloadedKeys, PublicKey};

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a directory of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    /// It cannot be read.
    #[error("cannot read keys from {path}: {source}")]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "{path}: {why}; write {{\"https://address\": \"PEM text\"}} or {{\"https://address\": {{JWK set}}}}"
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads every `*.json` of a directory: objects from the address a provider publishes keys at to
/// what is there, a PEM text, a JWK or a JWK set.
///
/// # Errors
///
/// [`PreloadError`]: tell the operator and exit.
pub fn preload(directory: &Path) -> Result<PreloadedKeys, PreloadError> {
    let failed = |path: &Path, source| PreloadError::Read {
        path: path.to_owned(),
        source,
    };
    let entries = fs::read_dir(directory).map_err(|error| failed(directory, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(directory, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    let mut keys = PreloadedKeys::default();
    for path in paths {
        let length = fs::metadata(&path)
            .map_err(|error| failed(&path, error))?
            .len();
        let wrong = |why| PreloadError::Content {
            path: path.clone(),
            why,
        };
        if length > FILE_BYTES_MAX {
            return Err(wrong(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        let text = fs::read(&path).map_err(|error| failed(&path, error))?;
        add(&text, &mut keys).map_err(wrong)?;
    }
    Ok(keys)
}

fn add(text: &[u8], keys: &mut PreloadedKeys) -> Result<(), String> {
    let document: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| format!("it is not a JSON object: {error}"))?;
    for (url, published) in document {
        if !url.starts_with("https://") {
            return Err(format!("{url:?} is not an https address"));
        }
        let text = match published {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let found = PublicKey::parse_published(text.as_bytes())
            .map_err(|_| format!("what is given for {url} holds no public key"))?;
        for key in found {
            keys.insert(url.clone(), key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("keys.json"), text).unwrap();
        fs::write(directory.path().join("notes.txt"), "ignored").unwrap();
        match (preload(directory.path()), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains("keys.json"), "{text}");
            }
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn files_map_addresses_to_keys() {
        let key = "ab".repeat(32);
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"1"}"#;
        check("{}", Ok(()));
        check(&format!(r#"{{"https://a.test/k": "{key}"}}"#), Ok(()));
        check(&format!(r#"{{"https://a.test/k": {jwk}}}"#), Ok(()));
        check(
            &format!(r#"{{"https://a.test/k": {{"keys":[{jwk},{{"kty":"oct"}}]}}}}"#),
            Ok(()),
        );
        check("[]", Err("not a JSON object"));
        check(r#"{"http://a.test/k": "x"}"#, Err("not an https address"));
        check(
            r#"{"https://a.test/k": "x"}"#,
            Err("https://a.test/k holds no public key"),
        );
        check(
            r#"{"https://a.test/k": {"keys":[]}}"#,
            Err("holds no public key"),
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = preload(Path::new("/nowhere/keys")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/keys"));
    }
}
