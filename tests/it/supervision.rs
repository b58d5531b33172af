//! How the programs behave as services: what systemd is told, what probes are answered, what is
//! installed.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use hookferry_tests::{Agent, Relay, Service, Supervisor, binaries, eventually, note, ports};

#[tokio::test]
async fn systemd_is_told_when_the_agent_is_ready_lives_and_stops() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let service = Service::start().await;
    let mut supervisor = Supervisor::start();
    relay.kill9();
    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .variable("NOTIFY_SOCKET", &supervisor.address())
        .variable("WATCHDOG_USEC", "600000")
        .run();
    // The loop lives although there is no relay, and the agent is not ready yet.
    supervisor.hears("WATCHDOG=1", 3).await;
    agent.says("No session with the relay").await;
    assert!(!supervisor.was_told("READY=1"), "{:?}", supervisor.said());

    relay.restart().await;
    supervisor.hears("READY=1", 1).await;
    let said = supervisor.said().join("\n");
    assert!(said.contains("STATUS=not connected: E-CONNECT: "), "{said}");
    assert!(said.contains("STATUS=connected to ws://"), "{said}");

    // A loop that hangs answers no more.
    agent.freeze();
    let answers = supervisor.count("WATCHDOG=1");
    tokio::time::timeout(
        std::time::Duration::from_secs(1),
        supervisor.hears("WATCHDOG=1", answers + 2),
    )
    .await
    .expect_err("a frozen agent answers the watchdog");
    agent.thaw();
    let answers = supervisor.count("WATCHDOG=1");
    supervisor.hears("WATCHDOG=1", answers + 1).await;

    agent.terminate().await;
    assert_eq!(agent.exit_code().await, 0, "{}", agent.stderr());
    assert!(supervisor.was_told("STOPPING=1"), "{:?}", supervisor.said());
    assert_eq!(supervisor.count("READY=1"), 1);
}

#[tokio::test]
async fn systemd_is_told_when_the_relay_is_ready_lives_and_stops() {
    let mut supervisor = Supervisor::start();
    let mut relay = Relay::plan()
        .variable("NOTIFY_SOCKET", &supervisor.address())
        .variable("WATCHDOG_USEC", "600000")
        .start()
        .await;
    supervisor.hears("READY=1", 1).await;
    supervisor.hears("WATCHDOG=1", 3).await;
    relay.terminate().await;
    assert_eq!(relay.exit_code().await, 0);
    assert!(supervisor.was_told("STOPPING=1"), "{:?}", supervisor.said());
}

#[tokio::test]
async fn an_absent_relay_does_not_hold_up_the_start_for_ever() {
    let mut supervisor = Supervisor::start();
    let mut agent = Agent::anywhere(&format!("http://{}", ports::free()), "hf_agent_x")
        .forward("billing", "http://127.0.0.1:2")
        .variable("NOTIFY_SOCKET", &supervisor.address())
        .flag("--observability-ready-within", "200ms")
        .run();
    supervisor.hears("READY=1", 1).await;
    let said = supervisor.said().join("\n");
    assert!(
        said.contains("STATUS=not connected to the relay yet"),
        "{said}"
    );
    assert!(agent.is_running());
}

#[tokio::test]
async fn probes_and_commands_are_answered() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let mut service = Service::start().await;
    let listener = ports::free().to_string();
    let flags = ["--observability-listen", &listener];
    assert_eq!(command("ready", &flags).0, 1);

    let mut agent = Agent::plan(&relay, &journey, &service.url())
        .flag("--observability-listen", &listener)
        .run();
    eventually("the agent to be ready", async || {
        (command("ready", &flags).0 == 0).then_some(())
    })
    .await;
    relay.provider().send(&journey.post()).await.accepted();
    service.next().await;
    let report = eventually("the delivery to be counted", async || {
        let (code, text) = command("status", &[&flags[..], &["--output", "json"]].concat());
        assert_eq!(code, 0, "{text}");
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        (report["destinations"][0]["delivered"] == 1).then_some(report)
    })
    .await;
    assert_eq!(report["connected"], true, "{report}");
    let (_, text) = command("status", &flags);
    assert!(text.contains("connected to ws://"), "{text}");
    assert!(text.contains("\nbilling "), "{text}");

    agent.terminate().await;
    agent.exit_code().await;
    let (code, text) = command("status", &flags);
    assert!(code == 1 && text.contains("E-AGENT-UNREACHABLE"), "{text}");
}

fn command(verb: &str, flags: &[&str]) -> (i32, String) {
    let mut command = Command::new(binaries::relay_agent());
    let output = command.arg(verb).args(flags).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[test]
fn a_users_service_is_set_up_and_taken_down() {
    let home = tempfile::tempdir().unwrap();
    let calls = home.path().join("calls");
    let systemctl = home.path().join("systemctl");
    fs::write(
        &systemctl,
        format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display()),
    )
    .unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let config = home.path().join("hookferry/agent.toml");
    fs::create_dir(config.parent().unwrap()).unwrap();
    let token = home.path().join("given");
    fs::write(&token, "hf_agent_x\n").unwrap();
    let run = |arguments: &[&str]| service(home.path(), arguments);
    let given = token.display().to_string();
    let install = ["install", "--user", "--token-file", &given];

    // Nothing is written for a service that could not start.
    fs::write(&config, "server = \"https://a\"\n").unwrap();
    let (code, text) = run(&install);
    assert!(
        code == 4 && text.contains("there is nothing to forward"),
        "{text}"
    );
    assert!(!calls.exists() && !home.path().join("systemd").exists());

    let forward = "[[forward]]\ndestination = \"a\"\nto = \"http://127.0.0.1:1\"\n";
    fs::write(&config, format!("server = \"https://a\"\n{forward}")).unwrap();
    let (code, text) = run(&install);
    assert_eq!(code, 0, "{text}");
    let unit = home.path().join("systemd/user/relay-agent.service");
    let shown = fs::read_to_string(&unit).unwrap();
    assert!(
        shown.contains(&format!("--config {}", config.display())),
        "{shown}"
    );
    let kept = home.path().join("hookferry/agent.token");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "hf_agent_x\n");
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Once more changes nothing; another unit in its place is not overwritten.
    assert_eq!(run(&install).0, 0);
    fs::write(&unit, "mine").unwrap();
    let (code, text) = run(&install);
    assert!(code == 1 && text.contains("says something else"), "{text}");

    assert_eq!(run(&["uninstall", "--user"]).0, 0);
    assert!(!unit.exists() && kept.exists() && config.exists());
    let enabled = "--user daemon-reload\n--user enable --now relay-agent.service\n";
    let disabled = "--user disable --now relay-agent.service\n--user daemon-reload\n";
    assert_eq!(
        fs::read_to_string(&calls).unwrap(),
        format!("{enabled}{enabled}{disabled}")
    );
}

fn service(home: &Path, arguments: &[&str]) -> (i32, String) {
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(binaries::relay_agent())
        .arg("service")
        .args(arguments)
        .env("XDG_CONFIG_HOME", home)
        .env("PATH", format!("{}:{path}", home.display()))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[test]
fn units_leave_little_open() {
    for unit in ["relay-agent.service", "relay-server.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/systemd")
            .join(unit);
        let mut analyze = Command::new("systemd-analyze");
        let analyze = analyze.args(["security", "--offline=yes", "--threshold=20"]);
        match analyze.arg(path).output() {
            Ok(output) => assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            ),
            Err(error) => note(&format!("{unit} is not judged: systemd-analyze: {error}")),
        }
    }
}
