//! Signatures made and checked by the providers' own libraries.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::service::Received;

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

/// Has a library check a request that was delivered: `ok`, or why it refuses. Stripe's refuses what
/// is older than `tolerance_s`; that of Standard Webhooks what is older than five minutes.
pub fn verify(library: &str, secret: &str, tolerance_s: u64, received: &Received) -> String {
    let fields = received.headers.0.iter();
    let fields: serde_json::Map<String, Value> = fields
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value).into_owned();
            (name.to_ascii_lowercase(), value.into())
        })
        .collect();
    let mut child = Command::new(interpreter())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/verify.py"))
        .args([library, secret, &tolerance_s.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let head = Value::from(fields).to_string();
    stdin.write_all(head.as_bytes()).unwrap();
    stdin.write_all(b"\n").unwrap();
    stdin.write_all(&received.body).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "verify.py {library} failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
