//! Damage is found where it is, repaired without touching what is whole, and copies are whole.

use std::path::Path;

use protocol::id::{DeliveryId, EventId};

use super::{
    super::{Embedded, EmbeddedConfig},
    *,
};
use crate::{
    lifecycle::{DeliveryState, Verdict},
    store::{
        Settled, StoreError,
        conformance::{Backend, Stage, TENANT},
    },
};

async fn stage_in(directory: &Path) -> Stage {
    let directory = directory.to_owned();
    Stage::set(
        Box::new(move |clock, due| {
            let config = EmbeddedConfig {
                segment_bytes: 16 * 1024,
                free_bytes_min: 0,
                ..EmbeddedConfig::new(&directory)
            };
            Box::pin(async { Backend::of(Embedded::open(config, clock, due).unwrap()) })
        }),
        true,
    )
    .await
}

/// A closed store with some segments: events, of which every third was delivered.
async fn store_in(directory: &Path) -> (Stage, Vec<(EventId, DeliveryId)>) {
    let mut stage = stage_in(directory).await;
    let mut accepted = Vec::new();
    for number in 0..60 {
        accepted.push(stage.accept().await);
        if number % 3 == 0 {
            let lease = stage.claim_one().await;
            assert_eq!(
                stage.settle(&lease, Verdict::Deliver).await,
                Settled::Applied
            );
        }
        if number % 20 == 19 {
            stage.pause().await;
        }
    }
    stage.store.events.close().await;
    (stage, accepted)
}

fn segment_path(directory: &Path, number: u32) -> std::path::PathBuf {
    directory.join(format!("journal/{number:08}.seg"))
}

/// Flips a bit of every occurrence of some bytes, and says in which segments.
fn damage(directory: &Path, needle: &[u8]) -> Vec<u32> {
    let look = check(directory).unwrap();
    let mut hit = Vec::new();
    for segment in look.segments {
        let path = segment_path(directory, segment.number);
        let mut bytes = std::fs::read(&path).unwrap();
        let mut found = false;
        while let Some(at) = bytes.windows(needle.len()).position(|it| it == needle) {
            bytes[at] ^= 1;
            found = true;
        }
        if found {
            std::fs::write(&path, bytes).unwrap();
            hit.push(segment.number);
        }
    }
    hit
}

#[tokio::test]
async fn a_whole_store_has_no_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let (_stage, accepted) = store_in(directory.path()).await;

    let look = check(directory.path()).unwrap();
    assert_eq!(look.troubles, []);
    assert!(!look.in_use && look.segments.len() > 2);
    assert_eq!(look.records["accept"], accepted.len() as u64);
    assert_eq!(look.records["settle"], 20);
    assert_eq!(look.first_seq, 1);
    // What is behind it is only the batch record of a quiet writer.
    assert!(
        look.projection
            .applied_seq
            .is_some_and(|applied| applied + 1 >= look.last_seq)
    );
    let repaired = repair(directory.path()).unwrap();
    assert!(repaired.set_aside.is_empty() && repaired.lost == 0 && !repaired.projection_removed);
}

#[tokio::test]
async fn a_running_store_can_be_looked_at_but_not_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let mut stage = stage_in(directory.path()).await;
    stage.accept().await;

    let look = check(directory.path()).unwrap();
    assert!(look.in_use && look.troubles.is_empty(), "{look:?}");
    for refused in [
        repair(directory.path()).err(),
        rebuild(directory.path(), |_| {}).err(),
    ] {
        assert!(matches!(
            refused,
            Some(UpkeepError::Open(OpenError::InUse(_)))
        ));
    }
    assert!(matches!(
        check(&directory.path().join("x")),
        Err(UpkeepError::NoStore(_))
    ));
}

#[tokio::test]
async fn damage_is_named_repaired_and_only_what_was_there_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (mut stage, accepted) = store_in(directory.path()).await;
    let (victim, delivery) = accepted[55];
    let hit = damage(
        directory.path(),
        format!("body \0\u{7f} of {victim}").as_bytes(),
    );
    assert!(!hit.is_empty());

    let look = check(directory.path()).unwrap();
    let damaged = |trouble: &Trouble| matches!(trouble, Trouble::Damage { segment, .. } if hit.contains(segment));
    assert!(look.troubles.iter().any(damaged), "{:?}", look.troubles);
    let missing = |trouble: &Trouble| matches!(trouble, Trouble::Missing { first, next, .. } if next - first == 1);
    assert!(look.troubles.iter().any(missing), "{:?}", look.troubles);

    let repaired = repair(directory.path()).unwrap();
    assert_eq!(repaired.lost, 1);
    assert_eq!(repaired.set_aside.len(), 1);
    let aside = directory
        .path()
        .join(format!("journal/damaged/{:08}.seg", repaired.set_aside[0]));
    assert!(aside.is_file(), "nothing is thrown away");
    let look = check(directory.path()).unwrap();
    assert_eq!(
        (look.troubles, look.records.get("lost")),
        (vec![], Some(&1))
    );

    // All else is there, byte for byte, at its new place; what is lost is quarantined, visibly, as
    // soon as it would be handed out.
    stage.pause().await;
    for (event, _) in &accepted {
        let found = stage.store.queries.event(TENANT, *event).await;
        match *event == victim {
            true => assert!(matches!(found, Err(StoreError::Corrupt(_)))),
            false => assert_eq!(found.unwrap().unwrap().event.id, *event),
        }
    }
    let handed = stage.claim(100).await;
    assert!(handed.iter().all(|lease| lease.event.id != victim) && handed.len() >= 38);
    assert_eq!(
        stage.state(delivery).await,
        Some(DeliveryState::Quarantined)
    );
}

#[tokio::test]
async fn a_segment_without_its_first_page_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let (mut stage, accepted) = store_in(directory.path()).await;
    let victim = check(directory.path()).unwrap().segments[1].number;
    let path = segment_path(directory.path(), victim);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let look = check(directory.path()).unwrap();
    assert!(look.troubles.contains(&Trouble::Header { segment: victim }));
    let config = EmbeddedConfig::new(directory.path());
    let opened = Embedded::open(config, stage.clock.clone(), stage.due.clone());
    assert!(opened.unwrap_err().to_string().contains("store repair"));

    let repaired = repair(directory.path()).unwrap();
    assert!(repaired.set_aside.contains(&victim) && repaired.lost > 0);
    assert_eq!(check(directory.path()).unwrap().troubles, []);
    stage.pause().await;
    let mut there = 0;
    for (event, _) in &accepted {
        there += usize::from(stage.store.queries.event(TENANT, *event).await.is_ok());
    }
    assert!((1..accepted.len()).contains(&there), "{there}");
}

#[tokio::test]
async fn a_torn_tail_is_no_loss_and_a_damaged_projection_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (mut stage, accepted) = store_in(directory.path()).await;
    let last = check(directory.path()).unwrap().segments.pop().unwrap();
    let path = segment_path(directory.path(), last.number);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"half a record");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(directory.path().join("projection.db"), b"nonsense").unwrap();

    let look = check(directory.path()).unwrap();
    assert_eq!(look.troubles.len(), 2, "{:?}", look.troubles);
    assert!(look.troubles.iter().all(|trouble| !trouble.is_loss()));
    let repaired = repair(directory.path()).unwrap();
    assert!(repaired.projection_removed && repaired.lost == 0);

    let mut heard = 0;
    let rebuilt = rebuild(directory.path(), |changes| heard = changes).unwrap();
    assert_eq!((rebuilt.changes, heard), (80, 80));
    stage.pause().await;
    assert_eq!(
        stage.state(accepted[0].1).await,
        Some(DeliveryState::Delivered)
    );
    assert_eq!(
        stage.state(accepted[59].1).await,
        Some(DeliveryState::Pending)
    );
}

#[tokio::test]
async fn a_copy_of_a_running_store_goes_on_where_it_was_taken() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut stage, mut accepted) = store_in(from.path()).await;
    stage.pause().await;
    accepted.push(stage.accept().await);
    let mut copy = Vec::new();
    let backed_up = back_up(from.path(), 5, &mut copy).unwrap();
    let (late, _) = stage.accept().await;
    stage.store.events.close().await;

    let restored = restore(to.path(), copy.as_slice()).unwrap();
    assert_eq!(
        (restored.last_seq, restored.begun_at_ms),
        (backed_up.last_seq, 5)
    );
    assert_eq!(check(to.path()).unwrap().troubles, []);
    let mut stage = stage_in(to.path()).await;
    for (event, _) in &accepted {
        assert!(
            stage
                .store
                .queries
                .event(TENANT, *event)
                .await
                .unwrap()
                .is_some()
        );
    }
    assert!(
        stage
            .store
            .queries
            .event(TENANT, late)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(stage.claim(100).await.len(), accepted.len() - 20);
    stage.accept().await;
    assert!(std::fs::read_dir(from.path()).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("copy")
    }));
}

#[tokio::test]
async fn a_copy_that_is_cut_or_altered_is_refused() {
    let from = tempfile::tempdir().unwrap();
    let (_stage, _) = store_in(from.path()).await;
    let mut copy = Vec::new();
    back_up(from.path(), 0, &mut copy).unwrap();

    // Within a segment, within the settings, no list, and no end. The first segment follows its header,
    // and padding between files is nobody's.
    let settings = copy
        .windows(SQLITE_MAGIC.len())
        .position(|it| it == SQLITE_MAGIC)
        .unwrap();
    let mut altered: Vec<Vec<u8>> = [512 + 100, settings + 5_000]
        .into_iter()
        .map(|at| {
            let mut copy = copy.clone();
            copy[at] ^= 0x40;
            copy
        })
        .collect();
    let list = copy
        .windows(LIST_NAME.len())
        .rposition(|it| it == LIST_NAME)
        .unwrap();
    altered.push(copy[..list].to_vec());
    altered.push(copy[..copy.len() / 2].to_vec());
    for copy in altered {
        let to = tempfile::tempdir().unwrap();
        let refused = restore(to.path(), copy.as_slice());
        assert!(
            matches!(
                refused,
                Err(UpkeepError::Backup(_) | UpkeepError::Io { .. })
            ),
            "{refused:?}"
        );
        assert!(
            matches!(check(to.path()), Err(UpkeepError::NoStore(_))),
            "it is no store"
        );
    }
    assert!(matches!(
        restore(from.path(), copy.as_slice()),
        Err(UpkeepError::NotEmpty(_))
    ));
}

/// How a database file of SQLite begins.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

const LIST_NAME: &[u8] = b"hookferry-backup.json";

#[test]
fn a_copy_cannot_write_elsewhere() {
    for name in [
        "../evil",
        "journal/../../evil",
        "journal/x.seg",
        "/etc/passwd",
        "lock",
    ] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o600);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
        let copy = archive.into_inner().unwrap();
        let to = tempfile::tempdir().unwrap();
        let refused = restore(&to.path().join("data"), copy.as_slice());
        assert!(
            matches!(refused, Err(UpkeepError::Backup(_))),
            "{name}: {refused:?}"
        );
        assert!(!to.path().join("evil").exists());
    }
}
