use std::fs;

use super::*;

struct Given<'a> {
    file: &'a str,
    variables: &'a [(&'a str, &'a str)],
    flags: &'a [(&'a str, &'a str)],
}

fn load(given: &Given<'_>) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.toml");
    fs::write(&path, given.file).unwrap();
    let variable = |name: &str| {
        let found = given.variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| (*text).to_owned())
    };
    let flags = given.flags.iter().map(|(flag, text)| {
        let key = KEYS.iter().find(|key| key.flag() == *flag).unwrap();
        (key, (*text).to_owned())
    });
    let overrides = Overrides(flags.collect());
    Loaded::load(Some(&path), variable, &overrides).map_err(|error| {
        let folder = format!("{}/", directory.path().display());
        error.to_string().replace(&folder, "")
    })
}

#[track_caller]
fn fails(given: &Given<'_>, expected: &str) {
    let error = load(given).expect_err(expected);
    assert!(
        error.contains(expected),
        "{error}\n  instead of\n{expected}"
    );
}

const NOTHING: Given<'_> = Given {
    file: "",
    variables: &[],
    flags: &[],
};

#[test]
fn defaults_are_safe_and_need_no_file() {
    let loaded = load(&NOTHING).unwrap();

    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.public_url(), "http://127.0.0.1:8080");
    assert!(loaded.config.listen.ip().is_loopback());
    assert!(loaded.config.admin_listen.ip().is_loopback());
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let file = "log_level = \"debug\"\nlisten = \"127.0.0.1:1\"\n[limits]\nconnections_max = 1\n";
    let variables = [
        ("HOOKFERRY_LISTEN", "127.0.0.1:2"),
        ("HOOKFERRY_LIMITS_CONNECTIONS_MAX", "2"),
        ("HOOKFERRY_DATA_DIR", ""),
    ];
    let flags = [("limits-connections-max", "3")];
    let loaded = load(&Given {
        file,
        variables: &variables,
        flags: &flags,
    })
    .unwrap();

    assert_eq!(loaded.config.log_level, "debug");
    assert_eq!(loaded.config.listen.port(), 2);
    assert_eq!(loaded.config.limits.connections_max, 3);
    assert_eq!(loaded.config.limits.connections_per_ip_max, 64);
    let origin = |name: &str| {
        let settings = loaded.settings();
        let found = settings.iter().find(|(key, ..)| key.name == name).unwrap();
        found.2.clone()
    };
    assert!(matches!(origin("log_level"), Origin::File(_)));
    assert_eq!(
        origin("listen"),
        Origin::Variable("HOOKFERRY_LISTEN".to_owned())
    );
    assert_eq!(
        origin("limits.connections_max").to_string(),
        "--limits-connections-max"
    );
    assert_eq!(
        origin("data_dir"),
        Origin::Default,
        "an empty variable sets nothing"
    );
}

#[test]
fn errors_name_the_line_and_what_was_meant() {
    let file = |file| Given { file, ..NOTHING };
    fails(
        &file("\n\nlisen = \"x\"\n"),
        "server.toml:3: unknown key `lisen`; did you mean `listen`?",
    );
    fails(
        &file("[limits]\nconnection_max = 1\n"),
        "server.toml:2: unknown key `connection_max`; did you mean `connections_max`?",
    );
    fails(
        &file("zzzz = 1\n"),
        "server.toml:1: unknown key `zzzz`; `relay-server config show`",
    );
    fails(&file("a = 1\n[limit]\n"), "unknown key");
    fails(&file("listen = 8080\n"), "server.toml:1: invalid type");
    fails(
        &file("\nlisten = \"localhost\"\n"),
        "server.toml:2: invalid socket address",
    );
    fails(&file("listen = \n"), "server.toml:1: ");
    fails(
        &file("log_format = \"xml\"\n"),
        "server.toml:1: unknown variant `xml`",
    );
    fails(
        &file("[limits]\nconnections_max = -1\n"),
        "server.toml:2: invalid value",
    );
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let variable = |name, text| -> String {
        load(&Given {
            variables: &[(name, text)],
            ..NOTHING
        })
        .unwrap_err()
    };
    assert!(variable("HOOKFERRY_LISTEN", "x").starts_with("HOOKFERRY_LISTEN: invalid socket"));
    assert!(variable("HOOKFERRY_SESSION_GRACE_S", "5m").contains("`5m` is not a whole number"));
    assert!(variable("HOOKFERRY_ALLOW_PLAIN_HTTP", "ja").contains("neither true nor false"));
    fails(
        &Given {
            flags: &[("admin-listen", ":9090")],
            ..NOTHING
        },
        "--admin-listen: invalid socket address",
    );
}

#[test]
fn a_missing_file_is_an_error_only_if_it_was_named() {
    let missing = std::path::Path::new("/nonexistent/server.toml");
    let error = Loaded::load(Some(missing), |_| None, &Overrides::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
}

#[test]
fn settings_must_go_together() {
    let file = |file| Given { file, ..NOTHING };
    fails(
        &file("listen = \"0.0.0.0:8080\""),
        "set tls_cert and tls_key, or allow_plain_http",
    );
    fails(&file("listen = \"[::]:8080\""), "set tls_cert and tls_key");
    fails(
        &file("admin_listen = \"10.0.0.1:9090\""),
        "admin_listen = 10.0.0.1:9090",
    );
    fails(&file("tls_cert = \"a\""), "tls_cert is set without tls_key");
    fails(&file("tls_key = \"a\""), "tls_key is set without tls_cert");
    fails(
        &file("admin_listen = \"127.0.0.1:8080\""),
        "different ports",
    );
    fails(&file("trusted_proxies = [\"10/8\"]"), "trusted_proxies: ");
    fails(&file("node_name = \"relay 1\""), "node_name");
    fails(
        &file("public_url = \"hooks.example.com\""),
        "not a URL such as",
    );
    fails(
        &file("public_url = \"ftp://example.com\""),
        "not a URL such as",
    );
    fails(
        &file("[limits]\nbody_bytes_max = 99999999999"),
        "limits.body_bytes_max",
    );
    fails(
        &file("[limits]\nbody_bytes_in_flight_max = 1"),
        "at least limits.body_bytes_max",
    );
    fails(&file("[limits]\nconnections_max = 0"), "at least 1");
    fails(&file("[store]\nsegment_bytes = 1"), "store.segment_bytes");
    fails(&file("[session]\ngrace_s = 99999"), "session.grace_s");
    for wrong in ["[session]\nheartbeat_s = 0", "[session]\nheartbeat_s = 16"] {
        fails(&file(wrong), "session.heartbeat_s");
    }

    for good in [
        "listen = \"0.0.0.0:8080\"\nallow_plain_http = true",
        "listen = \"0.0.0.0:443\"\ntls_cert = \"a\"\ntls_key = \"b\"",
        "public_url = \"https://hooks.example.com/relay/\"",
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"",
        "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]",
        "node_name = \"relay-1\"",
    ] {
        assert!(load(&file(good)).is_ok(), "{good}");
    }
}

#[test]
fn the_list_of_keys_is_complete() {
    let mut everything = Config {
        public_url: Some(String::new()),
        node_name: Some(String::new()),
        key_file: Some(PathBuf::new()),
        keys_dir: Some(PathBuf::new()),
        ..Config::default()
    };
    everything.tls_cert = everything.key_file.clone();
    everything.tls_key = everything.key_file.clone();
    let mut leaves = Vec::new();
    for (name, value) in toml::Table::try_from(&everything).unwrap() {
        match value {
            toml::Value::Table(section) => {
                leaves.extend(section.keys().map(|key| format!("{name}.{key}")));
            }
            _ => leaves.push(name),
        }
    }
    let mut known: Vec<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    leaves.sort();
    known.sort();
    assert_eq!(leaves, known);
}

#[test]
fn the_documented_file_names_every_key_with_its_default() {
    let text = include_str!("../../../deploy/config/relay-server.toml");
    let parsed: Config = toml::from_str(text).unwrap();
    assert_eq!(parsed, Config::default());

    // What has no default stands in a comment.
    let uncommented: String = text
        .lines()
        .map(|line| {
            line.strip_prefix("#")
                .filter(|rest| !rest.starts_with([' ', '#']))
                .unwrap_or(line)
        })
        .collect::<Vec<_>>()
        .join("\n");
    let table: toml::Table = toml::from_str(&uncommented).unwrap();
    for key in KEYS {
        let found = match key.name.split_once('.') {
            None => table.contains_key(key.name),
            Some((section, name)) => table[section].as_table().unwrap().contains_key(name),
        };
        assert!(found, "{} is not in relay-server.toml", key.name);
    }
    toml::from_str::<Config>(&uncommented).unwrap();
}
