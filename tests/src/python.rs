//! Signatures made by the providers' own libraries.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

/// A Python with `stripe` and `standardwebhooks` in it, as `tests/run.sh` prepares it.
///
/// Fails the test if there is none: a test that quietly does nothing proves nothing.
pub fn interpreter() -> PathBuf {
    if let Some(path) = env::var_os("HOOKFERRY_TEST_PYTHON") {
        return path.into();
    }
    let prepared = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
    let prepared = PathBuf::from(prepared);
    assert!(
        prepared.exists(),
        "the providers' own libraries are not there: run ./tests/run.sh once (it makes {}), or set \
         HOOKFERRY_TEST_PYTHON to a Python that has stripe and standardwebhooks",
        prepared.display()
    );
    prepared
}

/// Has a library sign a body: the header fields to send.
pub fn sign(library: &str, secret: &str, body: &[u8]) -> Vec<(String, String)> {
    let mut child = Command::new(interpreter())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/sign.py"))
        .args([library, secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sign.py {library} failed");
    let fields: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fields = fields.as_object().unwrap().iter();
    fields
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}
