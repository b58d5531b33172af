//! The programs under test, built once per test run, so that a plain `cargo test` works.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where `relay-server` is.
pub fn relay_server() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("relay-server"))
}

/// Where `relay-agent` is.
pub fn relay_agent() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| directory().join("relay-agent"))
}

/// Builds both with the profile of this test, beside it.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // target/<profile>/deps/it-0123456789abcdef
        let test = env::current_exe().unwrap();
        let directory = test.ancestors().nth(2).unwrap().to_owned();
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("{} is in no profile's directory", test.display()),
        };
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .args([
                "build",
                "--quiet",
                "--package",
                "relay-server",
                "--package",
                "relay-agent",
            ])
            .args(["--bins", "--profile", profile, "--target-dir"])
            .arg(directory.parent().unwrap());
        // Cargo tells a test about its package; build scripts that look there would all run again.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy().into_owned();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(variable);
            }
        }
        let status = build.status().unwrap();
        assert!(status.success(), "the programs under test do not build");
        directory
    })
}
