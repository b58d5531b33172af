//! What wins, what is refused, and what is shown.

use std::collections::HashMap;

use clap::Parser;

use super::*;
use crate::{
    args::{Args, Command, ConfigCommand},
    config::{CONCURRENCY_DEFAULT, TIMEOUT_DEFAULT, Trust, WINDOW_BYTES_DEFAULT},
};

/// Surroundings that a test makes up.
#[derive(Default)]
struct Fake {
    variables: HashMap<&'static str, OsString>,
    input: &'static str,
}

impl Environment for Fake {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn host_name(&self) -> Option<String> {
        Some("laptop".to_owned())
    }

    fn standard_input(&self) -> std::io::Result<String> {
        Ok(self.input.to_owned())
    }
}

const FILE: &str = r#"
    server = "https://file.example"
    grace = "7s"
    [[forward]]
    destination = "ci"
    to = "http://ci.internal:8080/hook/"
    timeout = "5s"
"#;

fn run(file: &str, flags: &[&str], mut fake: Fake) -> Result<Loaded, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, file).unwrap();
    fake.variables.insert("HOME", "/home/test".into());
    fake.variables
        .entry("HOOKFERRY_TOKEN")
        .or_insert("hf_agent_env".into());
    let command = ["relay-agent", "config", "check", "--config"].map(OsString::from);
    let flags = flags.iter().map(OsString::from);
    let arguments = command.into_iter().chain([path.into()]).chain(flags);
    let Command::Config(ConfigCommand::Check(args)) =
        Args::try_parse_from(arguments).unwrap().command
    else {
        panic!("another command");
    };
    Loaded::run(&args, &fake)
}

fn listen(flags: &[&str], fake: Fake) -> Result<Loaded, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "").unwrap();
    let command = ["relay-agent", "listen", "--source", "a", "--config"].map(OsString::from);
    let arguments = command
        .into_iter()
        .chain([path.into()])
        .chain(flags.iter().map(OsString::from));
    let Command::Listen(args) = Args::try_parse_from(arguments).unwrap().command else {
        panic!("another command");
    };
    Loaded::listen(&args, &fake)
}

fn wrong(result: Result<Loaded, Failure>, part: &str) {
    let failure = result.err().unwrap();
    assert!(
        failure.to_string().contains(part),
        "{part:?} is missing in {failure}"
    );
    assert_eq!(failure.code.exit().code(), 4);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_default() {
    let loaded = run(FILE, &["--server", "https://flag.example"], Fake::default()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.link.server.to_string(), "https://flag.example");
    assert_eq!(config.grace, Duration::from_secs(7));
    assert_eq!(config.link.name, "laptop");
    assert_eq!(config.status, Some("127.0.0.1:9091".parse().unwrap()));
    let Serve::Destinations(lanes) = &config.serve else {
        panic!("listens");
    };
    assert_eq!(lanes[0].0, "ci");
    assert_eq!(
        lanes[0].1.target.to_string(),
        "http://ci.internal:8080/hook"
    );
    assert_eq!(
        (lanes[0].1.timeout, lanes[0].1.concurrency),
        (Duration::from_secs(5), 16)
    );
}

#[test]
fn check_shows_origins_and_no_secret() {
    let shown = run(FILE, &["--grace", "3s"], Fake::default())
        .unwrap()
        .to_string();
    for line in [
        "server                 https://file.example  (file)",
        "grace                  3s  (flag or environment)",
        "journal                true  (default)",
        "token                  ***  (environment)",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in {shown}");
    }
    assert!(!shown.contains("hf_agent_env"));
}

#[test]
fn tokens_come_from_many_places_but_no_flag() {
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("token"), "hf_agent_credential\n").unwrap();
    let token_file = credentials.path().join("other");
    std::fs::write(&token_file, "hf_agent_file").unwrap();
    let token_file = token_file.to_str().unwrap().to_owned();
    let fake = |variables: &[(&'static str, &str)]| Fake {
        variables: variables
            .iter()
            .map(|(name, value)| (*name, OsString::from(value)))
            .collect(),
        input: "hf_agent_stdin",
    };
    let server = ["--server", "https://a"];
    let directory = credentials.path().to_str().unwrap();
    let credential = [("CREDENTIALS_DIRECTORY", directory)];
    let both = [credential[0], ("HOOKFERRY_TOKEN", "hf_agent_env")];
    let with_file = [server[0], server[1], "--token-file", &token_file];
    let with_stdin = [&with_file[..], &["--token-stdin"]].concat();
    for (flags, variables, expected) in [
        (&server[..], &credential[..], "hf_agent_credential"),
        (&server[..], &both[..], "hf_agent_env"),
        (&with_file[..], &both[..], "hf_agent_file"),
        (&with_stdin[..], &both[..], "hf_agent_stdin"),
    ] {
        let loaded = listen(flags, fake(variables)).unwrap();
        assert_eq!(loaded.config.link.token.reveal(), expected);
    }
    wrong(listen(&server, Fake::default()), "E-TOKEN-MISSING");
}

#[test]
fn plain_http_leaves_this_machine_only_when_allowed() {
    let plain = FILE.replace("https://", "http://");
    wrong(run(&plain, &[], Fake::default()), "not encrypted");
    assert!(run(&plain, &["--allow-plain-http"], Fake::default()).is_ok());
    let local = FILE.replace("https://file.example", "http://127.0.0.1:8080");
    assert!(run(&local, &[], Fake::default()).is_ok());
}

#[test]
fn impossible_values_are_named() {
    let cases = [
        ("server = \"https://a\"", "nothing to forward"),
        (&FILE.replace("5s", "5"), "timeout"),
        (&FILE.replace("hook/", "hook?a=b"), "must not have a query"),
        (
            &FILE.replace("timeout = \"5s\"", "concurrency = 0"),
            "between 1 and",
        ),
        (
            &FILE.replace("https://file.example", "file.example"),
            "server",
        ),
        (
            &format!("{FILE}[[forward]]\ndestination=\"ci\"\nto=\"http://x\""),
            "named twice",
        ),
        (
            &format!("{FILE}[observability]\nlisten = \"everywhere\""),
            "observability.listen",
        ),
    ];
    for (file, part) in cases {
        wrong(run(file, &[], Fake::default()), part);
    }
}

#[test]
fn proxies_are_shown_without_their_password_and_certificates_come_in_pairs() {
    let fake = || Fake {
        variables: HashMap::from([("HTTPS_PROXY", "http://u:sEcret@proxy.corp:3128".into())]),
        input: "",
    };
    let loaded = run(FILE, &[], fake()).unwrap();
    let shown = loaded.to_string();
    let line = "proxy                  http://proxy.corp:3128  (HTTPS_PROXY)";
    assert!(shown.contains(line), "{shown}");
    assert!(!format!("{shown}{loaded:?}").contains("sEcret"));
    let loaded = run(FILE, &["--proxy", "off"], fake()).unwrap();
    assert_eq!(loaded.config.link.proxy, None);

    wrong(
        run(FILE, &["--client-cert-file", "x"], Fake::default()),
        "needs its key",
    );
    wrong(
        run(FILE, &["--client-key-file", "x"], Fake::default()),
        "no client certificate",
    );
    let both = ["--client-cert-file", "x", "--client-key-file", "y"];
    let loaded = run(FILE, &both, Fake::default()).unwrap();
    assert!(loaded.config.link.client_certificate.is_some());
}

#[test]
fn a_port_means_this_machine() {
    let token = || Fake {
        variables: HashMap::from([("HOOKFERRY_TOKEN", "hf_agent_x".into())]),
        input: "",
    };
    for (flags, expected) in [
        (&["--server", "https://a"][..], "http://127.0.0.1:3000"),
        (&["--server", "https://a", "8080"], "http://127.0.0.1:8080"),
        (
            &["--server", "https://a", "8080", "--path", "/hook"],
            "http://127.0.0.1:8080/hook",
        ),
        (
            &["--server", "https://a", "localhost:8080/x"],
            "http://localhost:8080/x",
        ),
        (
            &["--server", "https://a", "https://svc/x/"],
            "https://svc/x",
        ),
        (
            &["--server", "https://a", "unix:/a.sock", "--path", "/x"],
            "unix:/a.sock:/x",
        ),
    ] {
        let Serve::Listen { lane, .. } = listen(flags, token()).unwrap().config.serve else {
            panic!("serves destinations");
        };
        assert_eq!(lane.target.to_string(), expected);
    }
    wrong(
        listen(&["--server", "https://a", "--filter", "{"], token()),
        "--filter: it is no JSON",
    );
    let flags = ["--server", "https://a", "--filter", r#"{"method": "PUT"}"#];
    let Serve::Listen { filter, .. } = listen(&flags, token()).unwrap().config.serve else {
        panic!("serves destinations");
    };
    assert_eq!(filter, Some(serde_json::json!({ "method": "PUT" })));
    wrong(
        listen(&["--server", "https://a", "ftp://x"], token()),
        "must start with http://",
    );
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = include_str!("../../../../deploy/config/relay-agent.toml");
    let uncommented: String = example
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let file = FileConfig::parse(&uncommented, Path::new("relay-agent.toml")).unwrap();
    assert_eq!(file.grace.as_deref(), Some("20s"));
    assert_eq!(file.journal, Some(true));
    assert_eq!(file.limits.window_bytes, Some(WINDOW_BYTES_DEFAULT));
    assert_eq!(file.observability.listen.as_deref(), Some("127.0.0.1:9091"));
    assert_eq!(file.forward[0].concurrency, Some(CONCURRENCY_DEFAULT));
    assert_eq!(
        file.forward[0].timeout.as_deref().map(parse_duration),
        Some(Ok(TIMEOUT_DEFAULT))
    );
    for table in [
        "",
        "[[forward]]",
        "[tls]",
        "[proxy]",
        "[limits]",
        "[observability]",
    ] {
        let shown = section(&uncommented, table);
        for key in keys(table) {
            // `forward` and the tables are what is looked at one by one.
            let is_table = uncommented.contains(&format!("[{key}]"));
            let is_shown = shown.contains(&format!("\n{key} = "));
            assert!(is_table || is_shown, "{key} is missing in {table:?}");
        }
    }
    // As it is shipped, only the lines that have no default are set.
    assert!(FileConfig::parse(example, Path::new("relay-agent.toml")).is_ok());
}

/// The part of a file from the head of a table to the next one.
fn section<'a>(text: &'a str, table: &str) -> &'a str {
    let head = format!("\n{table}\n");
    let start = if table.is_empty() {
        0
    } else {
        text.find(&head).unwrap() + head.len() - 1
    };
    let rest = &text[start..];
    rest.find("\n[").map_or(rest, |end| &rest[..end])
}

/// Every key a table may have, as the error about an unknown one lists them.
fn keys(table: &str) -> Vec<String> {
    let text = format!("{table}\nthere_is_no_such_key_at_all = 1\n");
    let failure = FileConfig::parse(&text, Path::new("x")).unwrap_err();
    let fix = failure.fix.unwrap();
    let list = fix.strip_prefix("the keys here are ").unwrap();
    list.split(", ").map(str::to_owned).collect()
}

fn lane(lines: &str) -> Result<crate::config::Lane, Failure> {
    let (forward, limits) = lines.split_once("[limits]").unwrap_or((lines, ""));
    let text = format!(
        "server = \"https://a\"\n[[forward]]\ndestination = \"ci\"\n{forward}\n[limits]\n{limits}"
    );
    let loaded = run(&text, &[], Fake::default())?;
    let Serve::Destinations(mut lanes) = loaded.config.serve else {
        panic!("listens");
    };
    Ok(lanes.remove(0).1)
}

#[test]
fn a_service_has_its_own_host_and_trust() {
    let own = lane("to = \"unix:/run/app.sock:/hook\"\nhost = \"app.corp:8080\"").unwrap();
    assert_eq!(own.target.to_string(), "unix:/run/app.sock:/hook");
    assert_eq!(own.host.unwrap(), "app.corp:8080");
    assert_eq!(own.tls.trust, Trust::System);

    let own = lane(
        "to = \"https://a\"\nca_file = \"ca.pem\"\nclient_cert_file = \"c\"\nclient_key_file = \"k\"",
    );
    let own = own.unwrap();
    assert_eq!(own.tls.trust, Trust::Only("ca.pem".into()));
    assert!(own.tls.client_certificate.is_some() && !own.is_insecure());
    assert!(
        lane("to = \"https://a\"\ninsecure = true")
            .unwrap()
            .is_insecure()
    );

    for (lines, part) in [
        ("to = \"http://a\"\ninsecure = true", "forward ci: insecure"),
        ("to = \"http://a\"\nca_file = \"x\"", "speaks no TLS"),
        ("to = \"unix:/a\"\nca_file = \"x\"", "speaks no TLS"),
        (
            "to = \"https://a\"\ninsecure = true\nca_file = \"x\"",
            "is verified",
        ),
        (
            "to = \"https://a\"\nclient_cert_file = \"x\"",
            "needs its key",
        ),
        ("to = \"http://a\"\nhost = \"a b\"", "forward ci: host"),
        ("to = \"http://a\"\nhost = \"u@a\"", "is not a host"),
        ("to = \"unix:app.sock\"", "unix:/SOCKET"),
    ] {
        let failure = lane(lines).unwrap_err();
        assert!(failure.to_string().contains(part), "{part}: {failure}");
    }
}

#[test]
fn targets_that_never_can_pass_are_errors() {
    assert!(lane("to = \"http://a\"[limits]allow_targets = [\"a:80\"]").is_ok());
    for (lines, part) in [
        (
            "to = \"http://169.254.169.254/x\"",
            "cloud metadata service",
        ),
        (
            "to = \"http://b\"[limits]allow_targets = [\"a\"]",
            "forward ci: to: http://b is not covered by limits.allow_targets",
        ),
        (
            "to = \"http://192.0.2.1\"[limits]allow_targets = [\"10.0.0.0/8\"]",
            "192.0.2.1:80 is not covered",
        ),
        (
            "to = \"http://a\"[limits]allow_targets = [\"a:b\"]",
            "limits.allow_targets: \"a:b\" is no target",
        ),
        ("to = \"http://a\"[limits]allow_targets = []", "not covered"),
    ] {
        let failure = lane(lines).unwrap_err();
        assert!(failure.to_string().contains(part), "{part}: {failure}");
    }
}

#[test]
fn what_is_insecure_is_marked() {
    let file = FILE.replace("http://ci", "https://ci") + "insecure = true";
    let shown = run(&file, &[], Fake::default()).unwrap().to_string();
    assert!(
        shown.contains("INSECURE: its certificate is not verified"),
        "{shown}"
    );
}
