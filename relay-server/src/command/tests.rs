use std::{
    net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration,
};

use clap::Parser as _;

use super::*;
use crate::{
    api::{self, ApiState},
    args::{Cli, InitArgs},
    clock::{Clock as _, SystemClock},
    dispatch::DispatchHandle,
    ingress::Ingress,
    lifecycle::Meaning,
    store::{Due, Settings, memory::Memory},
    tenancy::{KeySource, OldSignatures, SecretKey, Tenancy, TenancyConfig, create_operator_token},
};

/// An API over real sockets, and the files a person at the command line has.
struct Desk {
    addr: SocketAddr,
    files: tempfile::TempDir,
    tenancy: Arc<Tenancy>,
}

impl Desk {
    async fn new() -> Self {
        let clock = Arc::new(SystemClock);
        let store = Memory::new(clock.clone(), Arc::new(Due::default()));
        let operator = create_operator_token(&*store, "operator", clock.now())
            .await
            .unwrap();
        let key = SecretKey::from_bytes(&[1; 32]);
        let config = TenancyConfig::default();
        let tenancy = Tenancy::open(store.clone(), store.clone(), key, clock.clone(), config);
        let tenancy = Arc::new(tenancy.await.unwrap());
        let replays = crate::replays::Replays::open(
            store.clone(),
            store.clone(),
            store.clone(),
            Arc::clone(&tenancy),
        );
        let replays = Arc::new(replays.await.unwrap());
        let router = api::router(ApiState {
            ingress: Arc::new(Ingress::for_tests(&tenancy, store.clone())),
            replays: Arc::clone(&replays),
            registry: Arc::default(),
            dispatch: DispatchHandle::new(clock, Box::new(Arc::clone(&tenancy))),
            tenancy: Arc::clone(&tenancy),
            events: store.clone(),
            queries: store.clone(),
            settings: store.clone(),
            keeping: store,
            public_url: "http://relay".to_owned(),
            key_source: KeySource::File("/nonexistent/secret_key".into()),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let files = tempfile::tempdir().unwrap();
        std::fs::write(
            files.path().join("operator"),
            format!("{}\n", operator.expose()),
        )
        .unwrap();
        std::fs::write(files.path().join("secret"), "whsec_x\n").unwrap();
        Self {
            addr,
            files,
            tenancy,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs a command; `@name` stands for a file of the desk, `_` for a space within a word.
    async fn run(&self, line: &str) -> Result<(), Failure> {
        let line = line.replace('@', &format!("{}/", self.files.path().display()));
        let mut words = vec!["relay-server".to_owned()];
        words.extend(line.split_whitespace().map(|word| word.replace('_', " ")));
        words.extend(["--server".to_owned(), format!("http://{}", self.addr)]);
        if !line.contains("--token-file") {
            words.extend([
                "--token-file".to_owned(),
                self.path("operator").display().to_string(),
            ]);
        }
        let (connection, call) = match Cli::try_parse_from(words).unwrap().command {
            Command::Tenant(it) => (it.connection, calls::tenant(it.command)),
            Command::Source(it) => (it.connection, calls::source(it.command)),
            Command::Destination(it) => (it.connection, calls::destination(it.command)),
            Command::Route(it) => (it.connection, calls::route(it.command)),
            Command::Token(it) => (it.connection, calls::token(it.command)),
            Command::Events(it) => (it.connection, calls::events(it.command)),
            Command::Deliveries(it) => (it.connection, calls::deliveries(it.command)),
            other => panic!("{other:?}"),
        };
        talk(&connection, call).await
    }

    async fn fails(&self, line: &str, exit_code: u8, part: &str) {
        let failure = self.run(line).await.expect_err(line);
        let text = failure.to_string();
        assert!(text.contains(part), "{text}");
        assert_eq!(failure.exit_code(), ExitCode::from(exit_code), "{text}");
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told from start to end")]
async fn a_relay_is_set_up_from_the_command_line() {
    let desk = Desk::new().await;
    for line in [
        "tenant create acme",
        "tenant update acme --rate-per-second 100",
        "tenant list",
        "source create stripe --tenant acme --preset stripe --secret-file @secret --ip-allow 10.0.0.0/8",
        "source rotate-secret stripe --tenant acme --secret-file @secret --drop-old",
        "source update stripe --tenant acme --rate-per-second 9 --dedupe-body-hash --disable",
        "source list --tenant acme",
        "source get stripe --tenant acme",
        "destination create billing --tenant acme --timeout-ms 5000 --attempts-max 3 --retry-schedule-ms 1,2",
        "destination update billing --tenant acme --status-dead 4xx --status-retry 404,429",
        "destination update billing --tenant acme --old-signatures add",
        "destination signing-key rotate billing --tenant acme --overlap-s 60",
        "destination signing-key show billing --tenant acme",
        "destination update billing --tenant acme --in-flight-max 4 --age-max-s 60 --breaker-failures 0",
        "destination update billing --tenant acme --in-flight-max 0 --maintenance sun_02:00-04:00",
        "destination pause billing --tenant acme --until 2099-01-31T00:00:00Z --reason upgrade",
        "destination get billing --tenant acme",
        "destination list --tenant acme -o ndjson",
        "route create --tenant acme --source stripe --destination billing",
        "route list --tenant acme",
        "token create agent --tenant acme --kind agent --scope connect --destination billing --write-to @agent",
        "token list --tenant acme -o json",
        "events list --tenant acme --state dead --source stripe",
        "deliveries list --tenant acme --dead",
        "route delete stripe-billing --tenant acme",
    ] {
        desk.run(line)
            .await
            .unwrap_or_else(|failure| panic!("{line}: {failure}"));
    }

    let directory = desk.tenancy.directory();
    let tenant = directory
        .tenant_by_name(&"acme".parse().unwrap())
        .unwrap()
        .id;
    let source = directory
        .source_by_name(tenant, &"stripe".parse().unwrap())
        .unwrap();
    assert_eq!(source.source.settings.rate_per_second, Some(9));
    assert!(source.source.settings.dedupe.body_hash && !source.source.settings.enabled);
    assert_eq!(source.source.secrets.len(), 1);
    let destination = directory.destination_by_name(tenant, &"billing".parse().unwrap());
    assert_eq!(destination.unwrap().signing_keys.len(), 2);
    let policy = &destination.unwrap().policy;
    assert_eq!(policy.old_signatures, OldSignatures::Add);
    assert_eq!(policy.retry.schedule_ms, [1, 2]);
    assert_eq!(policy.status.meaning(404), Meaning::Retry);
    assert_eq!(policy.status.meaning(422), Meaning::Dead);
    let flow = &policy.flow;
    assert_eq!((flow.in_flight_max, flow.breaker.failures), (None, 0));
    assert_eq!(flow.age_max, Some(Duration::from_mins(1)));
    assert_eq!(flow.maintenance.texts(), ["sun 02:00-04:00"]);
    assert_eq!(
        directory.tenant(tenant).unwrap().limits.rate_per_second,
        Some(100)
    );
    desk.run("destination resume billing --tenant acme")
        .await
        .unwrap();
    let token = std::fs::read_to_string(desk.path("agent")).unwrap();
    assert!(
        directory
            .authenticate(token.trim(), desk.tenancy.now())
            .is_ok()
    );
    let mode = std::fs::metadata(desk.path("agent"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn failures_have_a_code_and_an_exit_code() {
    let desk = Desk::new().await;
    std::fs::write(desk.path("wrong"), "hf_api_nonsense").unwrap();
    std::fs::write(desk.path("blank"), " \n").unwrap();
    desk.run("tenant create acme").await.unwrap();

    desk.fails("tenant list --token-file @wrong", 3, "E-UNAUTHORISED")
        .await;
    desk.fails("source list", 1, "E-TENANT-MISSING").await;
    desk.fails("source get nope --tenant acme", 1, "E-NOT-FOUND")
        .await;
    desk.fails("tenant create acme", 1, "E-NAME-TAKEN").await;
    desk.fails(
        "source create a --tenant acme --preset stripe",
        1,
        "needs a signing secret",
    )
    .await;
    desk.fails(
        "source create a --tenant acme --preset stripe --secret-file @blank",
        1,
        "blank",
    )
    .await;
    desk.fails(
        "source create a --tenant acme --preset stripe --secret-file @none",
        1,
        "cannot read",
    )
    .await;
    desk.fails("source rotate-secret a --tenant acme", 1, "--secret-file")
        .await;
    desk.fails(
        "source create a --tenant acme --preset none --var x",
        1,
        "NAME=VALUE",
    )
    .await;
    desk.fails(
        "destination create a --tenant acme --status-dead 404,4x",
        1,
        "status.dead[1]",
    )
    .await;
    desk.fails(
        "token create t --tenant acme --kind agent --write-to @wrong",
        1,
        "cannot write",
    )
    .await;

    let mut closed = Desk::new().await;
    closed.addr = SocketAddr::from(([127, 0, 0, 1], 1));
    closed.fails("tenant list", 5, "E-UNREACHABLE").await;
}

#[test]
fn strangers_cannot_write_to_the_terminal() {
    let mut table = output::Table::new(&["NAME", "ID"]);
    table.row(["a".to_owned(), "1".to_owned()]);
    table.row(["longer".to_owned(), String::new()]);
    assert_eq!(table.to_string(), "NAME    ID\na       1\nlonger\n");

    let value = serde_json::json!({ "type": "a\u{1b}[31m\nb", "headers": [{ "name": "X", "value": "1" }], "none": null });
    let mut text = String::new();
    output::fields(&value, 0, &mut text);
    assert_eq!(
        text,
        "headers:\n  - X: 1\nnone: -\ntype: a\\u{1b}[31m\\nb\n"
    );
}

#[test]
fn paths_and_queries_are_encoded() {
    assert_eq!(calls::encode("a-b_c.d~9"), "a-b_c.d~9");
    assert_eq!(calls::encode("../a b&c=ä"), "..%2Fa%20b%26c%3D%C3%A4");
}

#[tokio::test]
async fn init_creates_everything_once() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let config = home.path().join("etc/server.toml");
    let store = Memory::new(Arc::new(SystemClock), Arc::new(Due::default()));
    let run = |token: &str, data: &Path| {
        let args = InitArgs {
            data_dir: Some(data.to_owned()),
            token_file: Some(home.path().join(token)),
        };
        let (store, config) = (Arc::clone(&store), config.clone());
        async move {
            let open = async |_: PathBuf| Ok(store as Arc<dyn Settings>);
            init::init(&args, Some(&config), open).await
        }
    };

    run("first", &data).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("secret_key")), 0o600);
    assert_eq!(mode(&home.path().join("first")), 0o600);
    let loaded = load_config(Some(&config), &Overrides::default()).unwrap();
    assert_eq!(loaded.config.data_dir, data);
    SecretKey::read(&loaded.config.key_file()).unwrap();

    let key = std::fs::read(data.join("secret_key")).unwrap();
    let again = run("second", &data).await.unwrap_err().to_string();
    assert!(again.contains("initialised before"), "{again}");
    let elsewhere = run("second", &home.path().join("other"))
        .await
        .unwrap_err()
        .to_string();
    assert!(elsewhere.contains("let them agree"), "{elsewhere}");
    assert_eq!(std::fs::read(data.join("secret_key")).unwrap(), key);

    std::fs::remove_file(data.join("secret_key")).unwrap();
    let lost = run("second", &data).await.unwrap_err().to_string();
    assert!(lost.contains("restore it from your backup"), "{lost}");
    assert!(!data.join("secret_key").exists());
    assert!(!home.path().join("second").exists());
}

#[test]
fn configuration_errors_end_with_4() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("server.toml");
    std::fs::write(&path, "lisen = 1").unwrap();
    let failure = load_config(Some(&path), &Overrides::default()).unwrap_err();
    assert_eq!(failure.exit_code(), ExitCode::from(4));
    assert!(
        failure
            .to_string()
            .contains("server.toml:1: unknown key `lisen`; did you mean `listen`?")
    );
}

#[tokio::test]
async fn test_events_are_sent_from_the_command_line() {
    let desk = Desk::new().await;
    for line in [
        "tenant create acme",
        "source create stripe --tenant acme --preset stripe --secret-file @secret",
        "source create asana --tenant acme --preset asana",
        "source test stripe --tenant acme --event charge.failed --header X-A:1 --path /x",
        "source test stripe --tenant acme --data {} --content-type application/json -o json",
    ] {
        desk.run(line)
            .await
            .unwrap_or_else(|failure| panic!("{line}: {failure}"));
    }
    desk.fails("source test nothing --tenant acme", 1, "E-NOT-FOUND")
        .await;
    desk.fails("source test asana --tenant acme", 1, "awaits")
        .await;
    let line = "source test stripe --tenant acme --header none";
    desk.fails(line, 1, "NAME: VALUE").await;
    let line = "source handshake-secret stripe --tenant acme";
    desk.fails(line, 1, "E-NOT-FOUND").await;
}

#[test]
fn the_body_of_a_test_is_a_text_or_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\xff\x00").unwrap();
    let body = |data: String| {
        let words = ["relay-server", "source", "test", "s", "--data", &data];
        let Command::Source(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command");
        };
        calls::source(args.command).map(|call| call.body.unwrap().to_string())
    };
    let from_file = format!("@{}", file.path().display());
    assert_eq!(body(from_file).unwrap(), r#"{"body_base64":"/wA="}"#);
    assert_eq!(body("{}".to_owned()).unwrap(), r#"{"body":"{}"}"#);
    assert!(body("@/nowhere".to_owned()).is_err());
}
