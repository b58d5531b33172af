//! The texts of `deploy`, with the paths of this installation.

use std::path::Path;

use super::{Paths, failed};
use crate::explain::Failure;

const SYSTEMD: &str = include_str!("../../../deploy/systemd/relay-agent.service");
const LAUNCHD: &str = include_str!("../../../deploy/launchd/com.hookferry.agent.plist");

/// For Windows, where the paths are at the top of the script.
pub(super) const WINDOWS: &str = include_str!("../../../deploy/windows/relay-agent.ps1");

/// What only the system's own manager can do: other users, other views of the file system, addresses.
const SYSTEM_ONLY: [&str; 21] = [
    "Wants=",
    "After=",
    "LoadCredential=",
    "DynamicUser=",
    "AmbientCapabilities=",
    "CapabilityBoundingSet=",
    "IPAddressDeny=",
    "PrivateDevices=",
    "PrivateMounts=",
    "PrivateTmp=",
    "PrivateUsers=",
    "ProcSubset=",
    "ProtectClock=",
    "ProtectControlGroups=",
    "ProtectHome=",
    "ProtectHostname=",
    "ProtectKernel",
    "ProtectProc=",
    "ProtectSystem=",
    "RemoveIPC=",
    "TasksMax=",
];

/// The unit for systemd.
pub(super) fn systemd(paths: &Paths, is_user: bool) -> String {
    let unit = with_paths(SYSTEMD, paths);
    if !is_user {
        return unit;
    }
    let unit = for_user(&unit);
    let config = format!("--config {}", paths.config.display());
    let token = format!("{config} --token-file {}", paths.token.display());
    unit.replace(&config, &token)
        .replace("WantedBy=multi-user.target", "WantedBy=default.target")
        .replace("for a whole machine", "for one user")
}

/// The property list for launchd.
pub(super) fn launchd(paths: &Paths) -> String {
    with_paths(LAUNCHD, paths)
}

fn with_paths(text: &str, paths: &Paths) -> String {
    let shown = |path: &Path| path.display().to_string();
    text.replace("/usr/local/bin/relay-agent", &shown(&paths.program))
        .replace("/etc/hookferry/agent.toml", &shown(&paths.config))
        .replace("/etc/hookferry/agent.token", &shown(&paths.token))
}

/// Leaves out what a user's manager cannot do, and the comments on it.
fn for_user(unit: &str) -> String {
    let (mut kept, mut comments) = (Vec::new(), Vec::new());
    for line in unit.lines() {
        if line.starts_with('#') {
            comments.push(line);
            continue;
        }
        let is_left_out = SYSTEM_ONLY.iter().any(|key| line.starts_with(key));
        if !is_left_out {
            kept.append(&mut comments);
            kept.push(line);
        }
        comments.clear();
    }
    kept.join("\n") + "\n"
}

/// Whether paths mean in a unit what they say: it has quotes, specifiers and variables of its own.
///
/// # Errors
///
/// Which path does not.
pub(super) fn check_paths(paths: &Paths) -> Result<(), Failure> {
    for path in [&paths.program, &paths.config, &paths.token] {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:".contains(&byte);
        let bytes = path.as_os_str().as_encoded_bytes();
        if !path.is_absolute() || !bytes.iter().all(|byte| is_plain(*byte)) {
            let what = format!("{path:?} cannot stand in a unit as it is");
            return Err(failed(what).fix("use an absolute path of plain letters"));
        }
    }
    Ok(())
}
