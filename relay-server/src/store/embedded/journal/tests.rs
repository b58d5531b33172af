//! The journal against a disk that forgets, tears and lies.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use protocol::id::TenantId;

use super::{
    Position, ReadError, Reader,
    fs::JournalFs,
    intake::{Intake, Op},
    record::Kind,
    recovery::{self, Damage, Recovered},
    segment::{Segment, SegmentError},
    sim::SimFs,
    space::Space,
    writer::{Sink, Writer, Written},
};
use crate::{
    clock::{ManualClock, Timestamp},
    store::StoreError,
};

const SEGMENT: u64 = 16 * 1024;

/// Remembers what was confirmed.
#[derive(Debug, Default)]
struct Confirmed(Mutex<Vec<(u64, Position, Bytes)>>);

impl Sink<Bytes> for Confirmed {
    fn written(&self, batch: Vec<Written<Bytes>>) {
        let mut all = self.0.lock().unwrap();
        all.extend(batch.into_iter().map(|it| (it.seq, it.position, it.effect)));
    }

    fn refused(&self, _: Vec<Bytes>, _: &StoreError) {}
}

struct Journal {
    writer: Writer<Bytes, Confirmed>,
    confirmed: Arc<Confirmed>,
    failed: Arc<OnceLock<String>>,
}

fn go_on(fs: &SimFs, recovered: &Recovered) -> Journal {
    let shared: Arc<dyn JournalFs> = Arc::new(fs.clone());
    let segment = recovered.segments.last().unwrap().clone();
    let confirmed = Arc::new(Confirmed::default());
    let failed = Arc::new(OnceLock::new());
    let writer = Writer {
        intake: Arc::new(Intake::default()),
        sink: confirmed.clone(),
        space: Space::new(shared, SEGMENT, 0, segment.number + 1),
        clock: Arc::new(ManualClock::at(Timestamp(5))),
        failed: failed.clone(),
        segment,
        offset: recovered.offset,
        next_seq: recovered.next_seq,
        buffer: Vec::new(),
    };
    Journal {
        writer,
        confirmed,
        failed,
    }
}

fn recover(fs: &SimFs) -> Recovered {
    let shared: Arc<dyn JournalFs> = Arc::new(fs.clone());
    recovery::recover(&shared, SEGMENT).unwrap()
}

impl Journal {
    fn batch(&mut self, payloads: &[Bytes]) {
        let tenant = TenantId::from_u128(1);
        let ops = payloads
            .iter()
            .map(|payload| Op::new(Kind::Settle, tenant, payload.clone(), 1, payload.clone()))
            .collect();
        self.writer.write_all(ops);
    }

    fn confirmed(&self) -> Vec<(u64, Bytes)> {
        let all = self.confirmed.0.lock().unwrap();
        all.iter()
            .map(|(seq, _, payload)| (*seq, payload.clone()))
            .collect()
    }
}

fn payload(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

/// Everything but batch records, and the damage.
fn read_all(recovered: &Recovered) -> (Vec<(u64, Bytes)>, Vec<Damage>) {
    let mut records = Vec::new();
    let mut damages = Vec::new();
    for (at, segment) in recovered.segments.iter().enumerate() {
        let next = recovered.segments.get(at + 1).and_then(|it| it.first_seq);
        let found = recovery::replay(segment, next, |record| {
            if record.found.header.kind != Kind::Batch {
                records.push((record.found.header.seq, record.found.payload));
            }
        });
        damages.extend(found.unwrap());
    }
    (records, damages)
}

#[test]
fn records_survive_a_kill_and_positions_find_them() {
    let fs = SimFs::new();
    let mut journal = go_on(&fs, &recover(&fs));
    for number in 0..200 {
        journal.batch(&[payload(&format!("{number}")), payload(&"x".repeat(300))]);
    }
    assert!(fs.list().unwrap().len() > 3, "segments were rolled");
    let reader = Reader::new(Arc::new(fs.clone()));
    for (seq, position, bytes) in journal.confirmed.0.lock().unwrap().iter() {
        let (header, read) = reader.read(*position).unwrap();
        assert_eq!((header.seq, &read), (*seq, bytes));
    }
    let (records, damages) = read_all(&recover(&fs.after_kill()));
    assert_eq!(records, journal.confirmed());
    assert_eq!(damages, []);
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let fs = SimFs::new();
    let mut journal = go_on(&fs, &recover(&fs));
    let large = Bytes::from(vec![7; 3 * usize::try_from(SEGMENT).unwrap()]);
    journal.batch(&[payload("before"), large, payload("after")]);

    let (records, damages) = read_all(&recover(&fs.after_kill()));
    assert_eq!(records, journal.confirmed());
    assert_eq!((records.len(), damages), (3, vec![]));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_else_is() {
    let fs = SimFs::new();
    let recovered = recover(&fs);
    let number = recovered.segments[0].number;
    let mut journal = go_on(&fs, &recovered);
    journal.batch(&[payload("first"), payload("second")]);
    let start = usize::try_from(journal.writer.offset).unwrap();
    journal.batch(&[payload("third"), payload("a longer fourth")]);
    let end = usize::try_from(journal.writer.offset).unwrap();
    let whole = fs.bytes(number);
    let all = journal.confirmed();

    for cut in start..=end {
        let torn = fs.after_kill();
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        torn.put(number, bytes);
        let recovered = recover(&torn);
        let (records, damages) = read_all(&recovered);

        assert!(all.starts_with(&records), "cut at {cut}");
        assert!(records.len() >= 2, "cut at {cut}: a synced record is gone");
        assert_eq!(damages, [], "cut at {cut}");
        let mut journal = go_on(&torn, &recovered);
        journal.batch(&[payload("fifth")]);
        let (later, damages) = read_all(&recover(&torn.after_kill()));
        assert_eq!(later.len(), records.len() + 1, "cut at {cut}");
        assert_eq!(damages, [], "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_is_reported_and_alters_nothing() {
    let fs = SimFs::new();
    let recovered = recover(&fs);
    let number = recovered.segments[0].number;
    let mut journal = go_on(&fs, &recovered);
    for text in ["first", "second", "third", "fourth"] {
        journal.batch(&[payload(text)]);
    }
    let vouched = usize::try_from(journal.writer.offset).unwrap();
    journal.batch(&[]);
    let all = journal.confirmed();
    let whole = fs.bytes(number);

    for at in 4096..vouched {
        let damaged = fs.after_kill();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.put(number, bytes);
        let (records, damages) = read_all(&recover(&damaged));
        assert!(records.iter().all(|record| all.contains(record)), "{at}");
        assert!(records.len() >= 3, "{at}: one record at most is lost");
        if records.len() < all.len() {
            assert_eq!(damages.len(), 1, "{at}: reported");
            assert!((damages[0].offset..=damages[0].offset + 64).contains(&(at as u64)));
        }
    }
}

#[test]
fn damage_is_noticed_on_reading() {
    let fs = SimFs::new();
    let recovered = recover(&fs);
    let number = recovered.segments[0].number;
    let mut journal = go_on(&fs, &recovered);
    journal.batch(&[payload("one of many")]);
    let position = journal.confirmed.0.lock().unwrap()[0].1;
    let whole = fs.bytes(number);
    let start = usize::try_from(position.offset).unwrap();

    for at in start..start + 43 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs.put(number, bytes);
        let read = Reader::new(Arc::new(fs.clone())).read(position);
        assert!(matches!(read, Err(ReadError::Damaged(_))), "{at}");
    }
}

#[test]
fn a_start_that_dies_at_any_moment_loses_nothing() {
    let fs = SimFs::new();
    let mut journal = go_on(&fs, &recover(&fs));
    for number in 0..5 {
        journal.batch(&[payload(&format!("{number}")), payload("and another")]);
    }
    let all = journal.confirmed();
    let crashed = fs.after_kill();
    let before = crashed.operations();
    recover(&crashed);
    let operations = crashed.operations() - before;
    assert!(operations > 4);

    for dies_after in 0..operations {
        for luck in [0, usize::MAX, 100] {
            let disk = fs.after_kill();
            // What was confirmed before is durable, whatever the start does.
            disk.die_after(dies_after);
            let shared: Arc<dyn JournalFs> = Arc::new(disk.clone());
            // The last operation only gives space back: without it the start succeeds.
            let _ = recovery::recover(&shared, SEGMENT);
            let disk = disk.after_power_loss(|length| luck.min(length));
            let (records, damages) = read_all(&recover(&disk));
            assert_eq!(records, all, "after {dies_after} operations, luck {luck}");
            assert_eq!(damages, []);
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let fs = SimFs::new();
    let mut journal = go_on(&fs, &recover(&fs));
    journal.batch(&[payload("kept")]);
    fs.fail_syncs();
    journal.batch(&[payload("nobody knows")]);
    assert!(journal.failed.get().is_some());
    let operations = fs.operations();
    journal.batch(&[payload("refused")]);

    assert_eq!(fs.operations(), operations, "the sync is not tried again");
    assert_eq!(journal.confirmed(), [(2, payload("kept"))]);
}

#[test]
fn a_page_torn_before_anything_counted_is_unused() {
    let fs = SimFs::new();
    let segment = Segment::create(&fs, 1, 16 * 1024).unwrap();
    let whole = fs.bytes(1);
    let load = |bytes: &[u8]| {
        fs.put(1, bytes.to_vec());
        Segment::load(&fs, 1)
    };

    for kept in 1..44 {
        let mut torn = vec![0; whole.len()];
        torn[..kept].copy_from_slice(&whole[..kept]);
        // A checksum that ends in zeroes is complete without them.
        if torn[..512] == whole[..512] {
            continue;
        }
        assert!(
            matches!(load(&torn), Ok(None)),
            "{kept} bytes of the first sector"
        );
    }
    let opening = segment.opening(7);
    for kept in 1..20 {
        let mut torn = whole.clone();
        torn[512..512 + kept].copy_from_slice(&opening[..kept]);
        if torn[512..532] == opening[..20] {
            continue;
        }
        assert!(
            matches!(load(&torn), Ok(None)),
            "{kept} bytes of the second sector"
        );
    }

    for at in [3, 520] {
        let mut damaged = whole.clone();
        damaged[512..532].copy_from_slice(&opening[..20]);
        damaged[at] ^= 1;
        damaged[5000] = 1;
        assert!(
            matches!(load(&damaged), Err(SegmentError::Damaged(1))),
            "byte {at}, but in use"
        );
    }
}
