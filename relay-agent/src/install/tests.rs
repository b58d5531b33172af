//! The texts, and what is refused before anything is changed.

use std::ffi::OsString;

use super::*;

fn default_paths() -> Paths {
    Paths::of_system("/usr/local/bin/relay-agent".into())
}

#[test]
fn the_unit_in_deploy_is_the_one_that_is_installed() {
    let deployed = include_str!("../../../deploy/systemd/relay-agent.service");
    assert_eq!(unit::systemd(&default_paths(), false), deployed);
    let deployed = include_str!("../../../deploy/launchd/com.hookferry.agent.plist");
    assert_eq!(unit::launchd(&default_paths()), deployed);
}

#[test]
fn paths_of_the_installation_are_in_the_unit() {
    let paths = Paths {
        config: "/srv/agent.toml".into(),
        ..Paths::of_system("/opt/hookferry/relay-agent".into())
    };
    let unit = unit::systemd(&paths, false);
    let line = "\nExecStart=/opt/hookferry/relay-agent run --config /srv/agent.toml\n";
    assert!(unit.contains(line), "{unit}");
    for wrong in ["/opt/a b/relay-agent", "/opt/%h", "relay-agent", "/opt/$x"] {
        assert!(unit::check_paths(&Paths::of_system(wrong.into())).is_err());
    }
}

#[test]
fn a_users_unit_asks_for_nothing_that_only_the_system_can_do() {
    struct Home;
    impl Environment for Home {
        fn variable(&self, name: &str) -> Option<OsString> {
            (name == "HOME").then(|| "/home/jo".into())
        }
        fn host_name(&self) -> Option<String> {
            None
        }
        fn standard_input(&self) -> std::io::Result<String> {
            Ok(String::new())
        }
    }
    let paths = Paths::of_user("/home/jo/bin/relay-agent".into(), &Home).unwrap();
    assert_eq!(
        paths.unit,
        Path::new("/home/jo/.config/systemd/user/relay-agent.service")
    );
    let unit = unit::systemd(&paths, true);
    let line = "\nExecStart=/home/jo/bin/relay-agent run \
                --config /home/jo/.config/hookferry/agent.toml \
                --token-file /home/jo/.config/hookferry/agent.token\n";
    assert!(unit.contains(line), "{unit}");
    for gone in [
        "DynamicUser",
        "LoadCredential",
        "read by systemd",
        "Protect",
        "Private",
        "IPAddressDeny",
        "Cloud metadata",
        "network-online",
    ] {
        assert!(!unit.contains(gone), "{gone} in {unit}");
    }
    for kept in [
        "Type=notify",
        "WatchdogSec=30",
        "NoNewPrivileges=yes",
        "SystemCallFilter=~@privileged @resources",
        "RestrictAddressFamilies=",
        "WantedBy=default.target",
    ] {
        assert!(unit.contains(kept), "{kept} is missing in {unit}");
    }
}

#[test]
fn files_that_say_something_else_stay_and_nothing_is_changed() {
    let home = tempfile::tempdir().unwrap();
    let (unit, token) = (home.path().join("a/unit"), home.path().join("b/token"));
    let mut steps = Steps::default();
    steps.secret(&token, "secret\n".to_owned());
    steps.file(&unit, "text\n".to_owned());
    assert!(!steps.to_string().contains("secret"));
    std::fs::create_dir(home.path().join("a")).unwrap();
    std::fs::write(&unit, "mine\n").unwrap();
    let failure = steps.carry_out().unwrap_err();
    assert!(failure.what.contains("says something else"), "{failure}");
    assert!(!token.exists());

    std::fs::write(&unit, "text\n").unwrap();
    let done = steps.carry_out().unwrap();
    assert!(done.contains("kept") && done.contains("wrote"), "{done}");
    assert_eq!(std::fs::read_to_string(&token).unwrap(), "secret\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&token).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
