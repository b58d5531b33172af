//! The command line of the relay: everything a person does, as scripts do it.

use std::{fs, process::Output};

use hookferry_tests::{Agent, Relay, Request, Service, Source, api::Tenant};
use serde_json::Value;

fn run(relay: &Relay, line: &str) -> Output {
    relay.cli().args(line.split(' ')).output().unwrap()
}

/// Runs a command that must succeed, and returns its JSON.
#[track_caller]
fn json(relay: &Relay, line: &str) -> Value {
    let output = run(relay, &format!("{line} --output json"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[tokio::test]
async fn a_journey_can_be_set_up_and_followed_from_the_command_line() {
    let relay = Relay::start().await;
    let mut service = Service::start().await;
    let files = tempfile::tempdir().unwrap();
    let (secret, token) = (files.path().join("secret"), files.path().join("token"));
    fs::write(&secret, "whsec_from a file\n").unwrap();

    json(&relay, "tenant create acme");
    let line = format!(
        "source create shop --preset stripe --tenant acme --secret-file {}",
        secret.display()
    );
    let source = json(&relay, &line);
    json(
        &relay,
        "destination create billing --tenant acme --retry-base-ms 20",
    );
    json(
        &relay,
        "route create --source shop --destination billing --tenant acme",
    );
    let created = json(&relay, "token create laptop --kind agent --tenant acme");
    fs::write(&token, created["token"].as_str().unwrap()).unwrap();

    let url = source["url"].as_str().unwrap();
    let source = Source {
        name: "shop".to_owned(),
        path: url[url.find("/in/").unwrap()..].to_owned(),
        secret: "whsec_from a file".to_owned(),
    };
    let body = r#"{"id":"evt_cli","type":"charge.failed"}"#;
    let request = Request::post(&source).body(body).stripe(&source.secret);
    let event = relay.provider().send(&request).await.accepted();
    let _agent = Agent::anywhere(&relay.url(), created["token"].as_str().unwrap())
        .forward("billing", &service.url())
        .run();
    assert_eq!(service.next().await.event(), event);
    let tenant = Tenant {
        name: "acme".to_owned(),
        api: relay.api().for_tenant("acme"),
    };
    let delivery = tenant.delivery_is(&event, "delivered").await;

    let events = json(&relay, "events list --tenant acme");
    assert_eq!(events["data"][0]["id"], event.as_str());
    assert_eq!(
        json(&relay, &format!("events get {event} --tenant acme"))["type"],
        "charge.failed"
    );
    let raw = run(&relay, &format!("events get {event} --raw --tenant acme"));
    assert_eq!(raw.stdout, body.as_bytes());
    let attempts = json(
        &relay,
        &format!(
            "deliveries attempts {} --tenant acme",
            delivery["id"].as_str().unwrap()
        ),
    );
    assert_eq!(attempts["data"][0]["status"], 200);
    json(&relay, &format!("events replay {event} --tenant acme"));
    assert_eq!(service.next().await.event(), event);
    let dead = json(&relay, "deliveries list --dead --tenant acme");
    assert_eq!(dead["data"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn what_was_created_can_be_listed_and_deleted() {
    let relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let _ = journey;
    for (noun, name) in [
        ("source", "shop"),
        ("destination", "billing"),
        ("route", "shop-billing"),
        ("token", "agents"),
    ] {
        let listed = json(&relay, &format!("{noun} list --tenant acme"));
        assert_eq!(listed["data"][0]["name"], name, "{noun}: {listed}");
        assert!(!listed.to_string().contains("hf_agent_"), "{listed}");
        assert!(!listed.to_string().contains("whsec"), "{listed}");
    }
    for (noun, name) in [
        ("route", "shop-billing"),
        ("token", "agents"),
        ("source", "shop"),
        ("destination", "billing"),
    ] {
        let output = run(&relay, &format!("{noun} delete {name} --tenant acme"));
        assert!(
            output.status.success(),
            "{noun}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed = json(&relay, &format!("{noun} list --tenant acme"));
        assert_eq!(listed["data"].as_array().unwrap().len(), 0, "{listed}");
    }
    assert!(run(&relay, "tenant delete acme").status.success());
}

#[tokio::test]
async fn failures_have_their_exit_codes() {
    let mut relay = Relay::start().await;
    let files = tempfile::tempdir().unwrap();
    let token = files.path().join("token");
    fs::write(&token, "hf_api_nonsense").unwrap();

    let check = |line: &str, expected: i32, says: &str| {
        let output = run(&relay, line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{line}: {stderr}");
        assert!(
            stderr.contains(says),
            "{line}: {says:?} is missing in {stderr}"
        );
    };
    check("source list --tenant nobody", 1, "E-NOT-FOUND");
    check("source list", 1, "E-TENANT-MISSING");
    check("nonsense", 2, "nonsense");
    check(
        &format!("tenant list --token-file {}", token.display()),
        3,
        "E-UNAUTHORISED",
    );
    let config = files.path().join("server.toml");
    fs::write(
        &config,
        "listen = \"127.0.0.1:0\"\n\nadmin_listn = \"127.0.0.1:0\"\n",
    )
    .unwrap();
    for command in ["serve", "config check"] {
        let line = format!("{command} --config {}", config.display());
        check(&line, 4, "server.toml:3");
        check(&line, 4, "admin_listen");
    }
    relay.kill9();
    let output = run(&relay, "tenant list");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

#[tokio::test]
async fn plain_http_to_other_hosts_must_be_asked_for() {
    let relay = Relay::start().await;
    let output = run(
        &relay,
        "serve --listen 0.0.0.0:0 --admin-listen 127.0.0.1:0 --data-dir /nonexistent",
    );
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("allow") && stderr.contains("tls"),
        "{stderr}"
    );
}

#[tokio::test]
async fn secrets_are_not_readable_on_disk() {
    let relay = Relay::start().await;
    let journey = relay.journey("stripe").await;
    let request = journey.post().body("{}").stripe(&journey.source.secret);
    relay.provider().send(&request).await.accepted();
    let secrets = [
        journey.source.secret.as_bytes(),
        journey.token.as_bytes(),
        relay.token().as_bytes(),
    ];
    let mut directories = vec![relay.data_dir()];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            files += 1;
            for secret in secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a secret is readable in {}", path.display());
            }
        }
    }
    assert!(files > 2, "the data directory was searched");
}

#[tokio::test]
async fn init_changes_nothing_twice() {
    let relay = Relay::start().await;
    let config = relay.data_dir().with_file_name("server.toml");
    let before = fs::read(&config).unwrap();
    let output = run(
        &relay,
        &format!(
            "init --data-dir {} --config {}",
            relay.data_dir().display(),
            config.display()
        ),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read(&config).unwrap(), before);
}

#[tokio::test]
async fn the_key_for_secrets_is_rotated_while_events_come() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("stripe").await;
    let request = |body: &str| journey.post().body(body).stripe(&journey.source.secret);
    let key_file = relay.data_dir().join("secret_key");
    let old = fs::read_to_string(&key_file).unwrap();
    let config = relay.data_dir().with_file_name("server.toml");
    let rotate = format!("secret-key rotate --config {}", config.display());

    let rotated = json(&relay, &rotate);
    assert_eq!(rotated["resealed"], 1, "{rotated}");
    let new = fs::read_to_string(&key_file).unwrap();
    assert!(!new.contains(old.trim()) && new.lines().count() == 1);
    let listed = json(&relay, "secret-key list");
    assert_eq!(listed["data"][0]["secrets"], 1, "{listed}");
    assert!(!listed.to_string().contains(new.trim()));
    let audited = json(&relay, "audit list --action secret_keys.reload");
    assert_eq!(audited["data"][0]["remote"], "127.0.0.1", "{audited}");
    let exported = run(&relay, "audit export --action sources.create");
    let exported: Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(exported["tenant_name"], "acme", "{exported}");
    relay.provider().send(&request("{}")).await.accepted();

    // Neither a wrong key nor none starts anything, or changes anything.
    relay.terminate().await;
    relay.exit_code().await;
    let serve = format!(
        "serve --config {} --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0",
        config.display()
    );
    let refused = |says: &str| {
        let output = run(&relay, &serve);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(
            stderr.contains("E-SECRET-KEY") && stderr.contains(says),
            "{stderr}"
        );
    };
    fs::write(&key_file, &old).unwrap();
    refused("1 stored secrets");
    fs::remove_file(&key_file).unwrap();
    refused("cannot read the key file");

    // The new key as a further line is found, and the first one takes over.
    fs::write(&key_file, format!("{old}{new}")).unwrap();
    let mut mode = fs::metadata(&key_file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
    fs::set_permissions(&key_file, mode).unwrap();
    relay.restart().await;
    let listed = json(&relay, "secret-key list");
    assert_eq!(listed["data"][0]["secrets"], 1, "{listed}");
    assert_eq!(listed["data"][1]["secrets"], 0, "{listed}");
    relay.provider().send(&request("{} ")).await.accepted();
}

#[tokio::test]
async fn a_file_is_applied_and_applying_it_again_changes_nothing() {
    let relay = Relay::start().await;
    json(&relay, "tenant create acme");
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("whsec.txt"), "whsec_one\n").unwrap();
    let file = files.path().join("config.toml");
    let declare = |timeout: u32| {
        let text = format!(
            "[sources.shop]\npreset = \"stripe\"\nsecret_file = \"whsec.txt\"\n\n\
             [destinations.billing]\ntimeout_ms = {timeout}\n\n\
             [routes.shop-billing]\nsource = \"shop\"\ndestination = \"billing\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    let apply = format!("apply --tenant acme -f {}", file.display());
    let changes = |line: &str| -> Vec<String> {
        let steps = json(&relay, line);
        let steps = steps["data"].as_array().unwrap().iter();
        steps
            .map(|step| step["change"].as_str().unwrap().to_owned())
            .collect()
    };
    declare(5_000);
    assert_eq!(changes(&format!("{apply} --dry-run")), ["created"; 3]);
    let listed = json(&relay, "source list --tenant acme");
    assert_eq!(
        listed["data"].as_array().unwrap().len(),
        0,
        "a dry run makes nothing"
    );
    assert_eq!(changes(&apply), ["created"; 3]);
    assert_eq!(changes(&apply), ["same"; 3]);
    declare(6_000);
    let output = run(&relay, &format!("{apply} --dry-run"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("~ destination billing\n    timeout_ms: 5000 -> 6000"),
        "{shown}"
    );
    assert!(shown.contains("= source shop"), "{shown}");
    assert_eq!(changes(&apply), ["same", "changed", "same"]);
    fs::write(files.path().join("whsec.txt"), "whsec_two\n").unwrap();
    assert_eq!(changes(&apply), ["changed", "same", "same"]);
    fs::write(&file, "[sources.shop]\nsecret = \"x\"\n").unwrap();
    assert!(!run(&relay, &apply).status.success());
}
