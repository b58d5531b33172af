//! Backup, restore, check and repair, as an operator does them.

use std::{fs, path::Path, process::Output};

use hookferry_tests::{Agent, Journey, Relay, Service};

fn run(relay: &Relay, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(hookferry_tests::binaries::relay_server());
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(relay.data_dir());
    command.output().unwrap()
}

#[track_caller]
fn ok(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn post(relay: &Relay, journey: &Journey, numbers: std::ops::Range<usize>) -> Vec<String> {
    let mut events = Vec::new();
    for number in numbers {
        let request = journey.post().body(format!("event {number}"));
        events.push(relay.provider().send(&request).await.accepted());
    }
    events
}

#[tokio::test]
async fn a_restored_relay_goes_on_where_its_backup_was() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("none").await;
    let events = post(&relay, &journey, 0..30).await;
    let files = tempfile::tempdir().unwrap();
    let (backup, key) = (files.path().join("backup.tar"), files.path().join("key"));
    let name = backup.display().to_string();
    ok(&run(&relay, &["backup", &name]));
    assert!(
        !run(&relay, &["backup", &name]).status.success(),
        "it exists"
    );
    post(&relay, &journey, 30..35).await;

    // The machine is gone; the key was kept apart.
    relay.kill9();
    fs::copy(relay.data_dir().join("secret_key"), &key).unwrap();
    fs::remove_dir_all(relay.data_dir()).unwrap();
    fs::create_dir(relay.data_dir()).unwrap();
    fs::copy(&key, relay.data_dir().join("secret_key")).unwrap();
    let told = ok(&run(&relay, &["restore", &name]));
    assert!(told.contains("restored"), "{told}");
    assert!(ok(&run(&relay, &["store", "check"])).contains("all is whole"));

    relay.restart().await;
    let mut service = Service::start().await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let mut arrived = Vec::new();
    for _ in &events {
        arrived.push(service.next().await.event());
    }
    arrived.sort();
    let mut expected = events;
    expected.sort();
    assert_eq!(arrived, expected);
    let fresh = post(&relay, &journey, 40..41).await;
    assert_eq!(service.next().await.event(), fresh[0]);
}

#[tokio::test]
async fn damage_is_told_and_repaired() {
    let mut relay = Relay::start().await;
    let journey = relay.journey("none").await;
    post(&relay, &journey, 0..20).await;
    assert!(ok(&run(&relay, &["store", "stats"])).contains("accept"));
    assert!(
        !run(&relay, &["store", "repair"]).status.success(),
        "a relay runs on it"
    );
    relay.terminate().await;
    relay.exit_code().await;
    flip(&relay.data_dir().join("journal"), b"event 7");

    let checked = run(&relay, &["store", "check"]);
    assert_eq!(checked.status.code(), Some(1));
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        told.contains("are damaged") && told.contains("missing"),
        "{told}"
    );
    let repaired = ok(&run(&relay, &["store", "repair"]));
    assert!(repaired.contains("lost      1 records"), "{repaired}");
    ok(&run(&relay, &["store", "check"]));
    ok(&run(&relay, &["store", "rebuild"]));

    relay.restart().await;
    let mut service = Service::start().await;
    let _agent = Agent::run(&relay, &journey, &service.url());
    let mut bodies = Vec::new();
    for _ in 0..19 {
        bodies.push(String::from_utf8(service.next().await.body).unwrap());
    }
    assert!(!bodies.contains(&"event 7".to_owned()));
}

/// Flips a bit of some bytes wherever they stand.
fn flip(directory: &Path, needle: &[u8]) {
    let mut flipped = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        while let Some(at) = bytes.windows(needle.len()).position(|it| it == needle) {
            bytes[at] ^= 1;
            flipped += 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(flipped > 0);
}
