//! Giving the journal's files back.
//!
//! From its beginning on, files go in which nothing is needed any more. Behind what is still needed, files
//! that are mostly empty are written anew, several into one: what matters keeps its sequence, its time and
//! its content, and what does not is a note of how many records stood there. The new file begins where
//! the first of the old ones does, and as the later copy it counts from the moment its first page says so;
//! a crash before or after leaves one of the two to be removed later.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tracing::{info, warn};

use super::{
    super::{
        core::{Core, closed},
        journal::{
            Position,
            erasing::Erasing,
            payload::{DeliveryRef, End, Lost, Park, Repeat, Requeue, Settle},
            record::{self, Header, Kind},
            recovery,
            segment::{self, DATA_AT, Found, OPENED_AT, Segment, SegmentError},
        },
        projection::{
            chores::{self, Chore, Needed},
            queries,
        },
    },
    sweep::Occupied,
};
use crate::{
    lifecycle::KeyDigest,
    store::{DestinationKey, StoreError, Swept},
};

/// A record needs about as much beside the bytes that are counted of an event: its own head, and what
/// settled it.
const BESIDE_BYTES: u64 = 1024;

/// Files written into one at most.
const RUN_MAX: usize = 64;

impl From<SegmentError> for StoreError {
    fn from(error: SegmentError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A file of the journal that is not written to any more.
struct Closed {
    segment: Segment,
    first: u64,
    next: u64,
    /// A later copy counts in its place.
    is_shadowed: bool,
}

impl Core {
    /// Removes and rewrites files in which little or nothing is left.
    pub(super) async fn give_back(
        self: &Arc<Self>,
        occupied: &Occupied,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let closed = self.closed_segments().await?;
        let first_kept = self.projection.read(chores::first_kept).await?;
        let remembered = self.projection.read(chores::remembered_seqs).await?;
        let first_kept = first_kept.unwrap_or(u64::MAX);
        let mut end = occupied.end;
        let mut rest = closed;
        if !rest.is_empty() {
            // What is gone from the tables stays gone before it goes from the journal.
            self.projection.have_done(Chore::Sync).await?;
        }
        while rest.first().is_some_and(|one| one.next <= first_kept) {
            if self.stops_keys(&rest[0]).await? {
                end = end.max(first_kept);
                break;
            }
            let one = rest.remove(0);
            self.remove(&one.segment, swept).await?;
        }
        for one in rest
            .extract_if(.., |one| one.is_shadowed)
            .collect::<Vec<_>>()
        {
            self.finish_copy(&one, swept).await?;
        }
        rest.retain(|one| one.next <= end);
        for run in runs(rest, occupied, &remembered, self.space.segment_bytes()) {
            self.rewrite(run, swept).await?;
        }
        Ok(())
    }

    /// All but the one that is being written, oldest first.
    async fn closed_segments(self: &Arc<Self>) -> Result<Vec<Closed>, StoreError> {
        let fs = self.space.fs();
        let segments = tokio::task::spawn_blocking(move || recovery::in_use(&*fs));
        let segments = segments.await.map_err(|_| closed())??;
        let applied = self.projection.applied();
        let firsts: Vec<u64> = segments.iter().filter_map(|one| one.first_seq).collect();
        let spans = firsts.windows(2).map(|pair| (pair[0], pair[1]));
        Ok(segments
            .into_iter()
            .zip(spans)
            .map(|(segment, (first, next))| Closed {
                segment,
                first,
                next,
                is_shadowed: first == next,
            })
            .take_while(|one| one.next <= applied + 1)
            .collect())
    }

    async fn remove(
        self: &Arc<Self>,
        segment: &Segment,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let (fs, reader) = (self.space.fs(), self.reader.clone());
        let (number, bytes) = (segment.number, segment.bytes);
        let removed = tokio::task::spawn_blocking(move || {
            reader.forget(number);
            // In this order: what is left has no gap.
            fs.remove(number).and_then(|()| fs.sync_dir())
        });
        let removed = removed.await.map_err(|_| closed())?;
        removed.map_err(|error| {
            StoreError::Unavailable(format!("segment {number} could not be removed: {error}"))
        })?;
        info!(
            segment = number,
            bytes, "nothing in a segment is needed any more"
        );
        swept.segments_removed += 1;
        swept.bytes_freed += bytes;
        Ok(())
    }

    /// Whether a file says of a key that it stops, and it still does.
    async fn stops_keys(self: &Arc<Self>, one: &Closed) -> Result<bool, StoreError> {
        let parked = self.projection.read(queries::parked).await?;
        if parked.is_empty() {
            return Ok(false);
        }
        let parked: HashSet<(DestinationKey, KeyDigest)> = parked.into_iter().collect();
        let parks = self.found(one).await?.found.into_iter();
        let mut parks = parks
            .filter(|found| found.header.kind == Kind::Park)
            .filter_map(|found| Park::decode(&found.payload));
        Ok(parks.any(|park| park.parked && parked.contains(&(park.key, park.order.digest))))
    }

    async fn found(self: &Arc<Self>, one: &Closed) -> Result<segment::Scan, StoreError> {
        let segment = one.segment.clone();
        let read = tokio::task::spawn_blocking(move || {
            let data = segment.read_all();
            data.map(|data| segment::scan(&data, segment.uid))
        });
        let read = read.await.map_err(|_| closed())?;
        read.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// A crash came between a copy and the removal of what was copied.
    async fn finish_copy(
        self: &Arc<Self>,
        shadowed: &Closed,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let fs = self.space.fs();
        let segments = tokio::task::spawn_blocking(move || recovery::in_use(&*fs));
        let segments = segments.await.map_err(|_| closed())??;
        let copy = segments
            .into_iter()
            .rfind(|one| one.first_seq == Some(shadowed.first));
        let Some(copy) = copy.filter(|copy| copy.number != shadowed.segment.number) else {
            return Ok(());
        };
        let (number, first) = (copy.number, shadowed.first);
        let copy = Closed {
            segment: copy,
            first,
            next: u64::MAX,
            is_shadowed: false,
        };
        let accepts = self.found(&copy).await?.found.into_iter();
        let accepts = accepts.filter(|found| found.header.kind == Kind::Accept);
        let moved: HashMap<u64, u64> = accepts
            .map(|found| (found.header.seq, found.offset))
            .collect();
        self.moved(number, &moved, std::slice::from_ref(shadowed))
            .await?;
        self.remove(&shadowed.segment, swept).await
    }

    /// Writes what is needed of some files that follow each other into one.
    async fn rewrite(
        self: &Arc<Self>,
        run: Vec<Closed>,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let (Some(first), Some(next)) =
            (run.first().map(|it| it.first), run.last().map(|it| it.next))
        else {
            return Ok(());
        };
        let mut found = Vec::new();
        for one in &run {
            let scan = self.found(one).await?;
            if !scan.bad.is_empty() {
                warn!(
                    segment = one.segment.number,
                    "a damaged segment is left as it is"
                );
                return Ok(());
            }
            found.extend(scan.found.into_iter().filter(|it| it.header.seq < one.next));
        }
        if !follows(&found, first, next) {
            warn!(
                first,
                next, "records are missing; see `relay-server store check`"
            );
            return Ok(());
        }
        let replays = found.iter().filter(|it| it.header.kind == Kind::Deliver);
        let replays: Vec<u64> = replays.map(|it| it.header.seq).collect();
        let needed = self
            .projection
            .read(move |connection| chores::needed(connection, first, next, &replays))
            .await?;
        let older = found
            .iter()
            .filter_map(delivery_seq)
            .filter(|seq| *seq < first);
        let alive = self.present(older.collect()).await?;
        let plan = Plan::of(found, first, next, &needed, alive);
        let before: u64 = run.iter().map(|one| one.segment.bytes).sum();
        let after = plan.bytes();
        if run.len() == 1 && after > before / 2 {
            // Less is gone than it seemed.
            return Ok(());
        }
        let (fs, number) = (self.space.fs(), self.space.number());
        let written = tokio::task::spawn_blocking(move || plan.write(&*fs, number));
        let moved = written.await.map_err(|_| closed())?;
        let moved = moved.map_err(|error| {
            StoreError::Unavailable(format!("segment {number} could not be written: {error}"))
        })?;
        self.moved(number, &moved, &run).await?;
        for one in &run {
            self.remove(&one.segment, swept).await?;
        }
        swept.segments_removed -= run.len() as u64;
        swept.segments_rewritten += run.len() as u64;
        swept.bytes_freed = swept.bytes_freed.saturating_sub(after);
        Ok(())
    }

    /// Which of some deliveries older files still speak of: what became of them must not be forgotten.
    async fn present(
        self: &Arc<Self>,
        mut asked: BTreeSet<u64>,
    ) -> Result<HashSet<u64>, StoreError> {
        let mut present = HashSet::new();
        if asked.is_empty() {
            return Ok(present);
        }
        for one in self.closed_segments().await? {
            if one.is_shadowed || asked.range(one.first..one.next).next().is_none() {
                continue;
            }
            for found in self.found(&one).await?.found {
                let seq = found.header.seq;
                match found.header.kind {
                    Kind::Accept => {
                        let next = seq + recovery::numbers(Kind::Accept, &found.payload);
                        present.extend(asked.range(seq..next));
                    }
                    Kind::Deliver => present.extend(asked.get(&seq)),
                    _ => {}
                }
            }
            asked.retain(|seq| !(one.first..one.next).contains(seq));
        }
        Ok(present)
    }

    /// Tells everybody where events are now, and makes sure that it is remembered.
    async fn moved(
        self: &Arc<Self>,
        number: u32,
        moved: &HashMap<u64, u64>,
        from: &[Closed],
    ) -> Result<(), StoreError> {
        let at = |offset: u64| Position {
            segment: number,
            offset,
        };
        for one in from {
            let accepts = self.found(one).await?.found.into_iter();
            let accepts = accepts.filter(|found| found.header.kind == Kind::Accept);
            let places = accepts.filter_map(|found| {
                let to = moved.get(&found.header.seq)?;
                Some((found.offset, at(*to)))
            });
            self.reader.moved(one.segment.number, places.collect());
        }
        let rows = moved.iter().map(|(seq, to)| (*seq, at(*to).pack()));
        let rows: Vec<(u64, i64)> = rows.collect();
        for rows in rows.chunks(4096) {
            self.projection
                .have_done(Chore::Move(rows.to_vec()))
                .await?;
        }
        self.projection.have_done(Chore::Sync).await?;
        Ok(())
    }
}

/// Files that follow each other and are worth writing into one.
fn runs(
    closed: Vec<Closed>,
    occupied: &Occupied,
    remembered: &[u64],
    segment_bytes: u64,
) -> Vec<Vec<Closed>> {
    let needed = |one: &Closed| {
        let from = occupied.kept.partition_point(|(seq, _)| *seq < one.first);
        let to = occupied.kept.partition_point(|(seq, _)| *seq < one.next);
        let kept = &occupied.kept[from..to];
        let remembered = remembered.partition_point(|seq| *seq < one.next)
            - remembered.partition_point(|seq| *seq < one.first);
        let bytes: u64 = kept.iter().map(|(_, bytes)| bytes + BESIDE_BYTES).sum();
        // Of what is only remembered the size is not known: a few kilobytes mostly.
        bytes + remembered as u64 * 4 * BESIDE_BYTES
    };
    let is_sparse = |one: &Closed| needed(one) <= one.segment.bytes / 2;
    let mut runs = Vec::new();
    let mut run: Vec<Closed> = Vec::new();
    let (mut bytes, mut needs) = (0, 0);
    let mut end = |run: &mut Vec<Closed>, bytes: &mut u64, needs: &mut u64| {
        let run = std::mem::take(run);
        // A small file alone is not written again and again.
        if run.len() > 1
            || run
                .iter()
                .any(|one| is_sparse(one) && one.segment.bytes > segment_bytes / 8)
        {
            runs.push(run);
        }
        (*bytes, *needs) = (0, 0);
    };
    for one in closed {
        let need = needed(&one);
        let is_small = one.segment.bytes <= segment_bytes / 8;
        let fits = needs + need <= segment_bytes && run.len() < RUN_MAX;
        let is_worth = needs + need <= (bytes + one.segment.bytes) / 2 || is_small;
        if !(fits && is_worth) {
            end(&mut run, &mut bytes, &mut needs);
            if need > one.segment.bytes / 2 && !is_small {
                continue;
            }
        }
        bytes += one.segment.bytes;
        needs += need;
        run.push(one);
    }
    end(&mut run, &mut bytes, &mut needs);
    runs
}

/// Whether nothing is missing among records.
fn follows(found: &[Found], first: u64, next: u64) -> bool {
    let mut expected = first;
    found.iter().all(|found| {
        let is_next = found.header.seq == expected;
        expected += recovery::numbers(found.header.kind, &found.payload);
        is_next
    }) && expected == next
}

/// The delivery of which a record says what became.
fn delivery_seq(found: &Found) -> Option<u64> {
    let of = |delivery: DeliveryRef| delivery.seq;
    match found.header.kind {
        Kind::Settle => Settle::decode(&found.payload).map(|settle| of(settle.delivery)),
        Kind::End => End::decode(&found.payload).map(|end| of(end.delivery)),
        Kind::Reopen => Requeue::decode(&found.payload).map(|requeue| requeue.seq),
        _ => None,
    }
}

/// A file as it is to be.
struct Plan {
    found: Vec<Found>,
    first: u64,
}

impl Plan {
    /// `alive` are deliveries that records elsewhere make. What became of a delivery is needed for as long
    /// as the record that makes it is there: else it would seem to be owed again.
    fn of(
        found: Vec<Found>,
        first: u64,
        next: u64,
        needed: &Needed,
        mut alive: HashSet<u64>,
    ) -> Self {
        let mut plan = Self {
            found: Vec::new(),
            first,
        };
        let mut expected = first;
        let mut time = 0;
        for found in found {
            let seq = found.header.seq;
            let count = recovery::numbers(found.header.kind, &found.payload);
            let is_needed = match found.header.kind {
                Kind::Batch | Kind::Dropped => false,
                Kind::Accept => needed.events.contains(&seq),
                Kind::Deliver => needed.deliveries.contains(&seq),
                Kind::Repeat => Repeat::decode(&found.payload).is_some_and(|repeat| {
                    repeat.event_seq < first || needed.events.contains(&repeat.event_seq)
                }),
                Kind::Settle | Kind::End | Kind::Reopen => {
                    delivery_seq(&found).is_none_or(|seq| alive.contains(&seq))
                }
                // Few and small, and later ones may undo them.
                Kind::EndDestination | Kind::ForgetSource | Kind::Park | Kind::Lost => true,
                // What was noted to be overwritten is overwritten: none is under way now.
                Kind::Erase => {
                    !matches!(Erasing::decode(&found.payload), Some(Erasing::Spots { .. }))
                }
            };
            if is_needed {
                if matches!(found.header.kind, Kind::Accept | Kind::Deliver) {
                    alive.extend(seq..seq + count);
                }
                plan.bridge(expected, seq, found.header.time);
                expected = seq + count;
                time = found.header.time;
                plan.found.push(found);
            }
        }
        plan.bridge(expected, next, time);
        plan
    }

    /// Notes that what stood between two sequences is not needed.
    fn bridge(&mut self, from: u64, to: u64, time: u64) {
        if to <= from {
            return;
        }
        let payload = Lost { count: to - from }.encode();
        self.found.push(Found {
            offset: 0,
            header: Header {
                kind: Kind::Dropped,
                #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
                payload_bytes: payload.len() as u32,
                seq: from,
                time,
                payload_crc: crc32c::crc32c(&payload),
            },
            payload,
        });
    }

    fn bytes(&self) -> u64 {
        let spans: usize = self.found.iter().map(|found| found.header.span()).sum();
        DATA_AT + spans as u64
    }

    /// Makes it durable, then valid. Says where events are, by sequence.
    fn write(
        &self,
        fs: &dyn super::super::JournalFs,
        number: u32,
    ) -> std::io::Result<HashMap<u64, u64>> {
        let segment = Segment::create(fs, number, self.bytes())?;
        let mut buffer = Vec::new();
        let mut moved = HashMap::new();
        for found in &self.found {
            if found.header.kind == Kind::Accept {
                moved.insert(found.header.seq, DATA_AT + buffer.len() as u64);
            }
            record::write(&mut buffer, segment.uid, &found.header, &found.payload);
        }
        let file = &segment.file;
        file.write_all_at(&buffer, DATA_AT)?;
        file.sync()?;
        file.write_all_at(&segment.opening(self.first), OPENED_AT)?;
        file.sync()?;
        Ok(moved)
    }
}
