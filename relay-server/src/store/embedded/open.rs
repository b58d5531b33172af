//! Opening a store: recover the journal, bring the projection up to it, fill the memory, start.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Notify;
use tracing::info;

use super::{
    Embedded, EmbeddedConfig,
    core::{Core, Does, Effect},
    dedupe::{Dedupe, PER_TENANT_MAX},
    desk::{Desks, Limits},
    journal::{
        Reader,
        fs::{JournalFs, RealFs},
        intake::{Intake, Op},
        payload::End,
        record::Kind,
        recovery::{self, Damage, Recovered},
        segment::{Segment, SegmentError},
        space::Space,
        writer::Writer,
    },
    keeping::Ledger,
    projection::{self, Projection, Projector, apply::Change, chores, queries},
    settings::{OpenSettingsError, SettingsDb},
};
use crate::{
    clock::Clock,
    lifecycle::EndReason,
    store::{Due, StoreError},
};

/// No provider id is remembered longer, whatever its source says.
const DEDUPE_WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Records replayed into the projection in one transaction.
const REPLAY_BATCH: usize = 8192;

/// A segment holds at least this, whatever the configuration says.
const SEGMENT_BYTES_MIN: u64 = 16 * 1024;

/// A segment holds at most this: positions in it have 31 bits.
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another relay runs on it.
    #[error("{path} is in use by another relay; stop it or choose another directory", path = .0.display())]
    InUse(PathBuf),
    /// The journal.
    #[error("the journal cannot be recovered: {0}")]
    Journal(String),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] OpenSettingsError),
    /// The projection.
    #[error("the projection cannot be brought up to date: {0}")]
    Projection(#[from] rusqlite::Error),
    /// Reading it back.
    #[error("the store cannot be read back: {0}")]
    Read(#[from] StoreError),
}

impl From<SegmentError> for OpenError {
    fn from(error: SegmentError) -> Self {
        Self::Journal(error.to_string())
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

impl Embedded {
    /// Opens the store in a directory, recovering what a crash left. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// Says what is wrong and where; nothing was changed that was durable before.
    pub fn open(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        due: Arc<Due>,
    ) -> Result<Arc<Self>, OpenError> {
        let journal = config.data_dir.join("journal");
        make_dir(&config.data_dir)?;
        make_dir(&journal)?;
        sync_dir(&config.data_dir)?;
        Self::open_on(config, Arc::new(RealFs::new(journal)), clock, due)
    }

    /// The same, with the journal on another file system. For tests.
    pub fn open_on(
        config: EmbeddedConfig,
        fs: Arc<dyn JournalFs>,
        clock: Arc<dyn Clock>,
        due: Arc<Due>,
    ) -> Result<Arc<Self>, OpenError> {
        make_dir(&config.data_dir)?;
        let lock = take_lock(&config.data_dir)?;
        let settings = SettingsDb::open(&secret_file(&config.data_dir.join("settings.db"))?)?;
        let segment_bytes = config
            .segment_bytes
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let recovered = recovery::recover(&fs, segment_bytes)?;
        let (projector, damages) = catch_up(
            &secret_file(&config.data_dir.join("projection.db"))?,
            &recovered,
        )?;
        let shared = projector.shared();
        let segment = recovered.segments.last().cloned();
        let segment = segment.ok_or_else(|| OpenError::Journal("no segment".to_owned()))?;
        let next_number = segment.number + 1;
        let limits = Limits::new(config.window, config.event_bytes_max);
        let ordered_from = clock.now().after(config.ordered_hold);
        let durable = recovered.next_seq - 1;
        let desks = Desks::new(limits, rand::random(), durable, ordered_from);
        let desks = recalled(desks, &shared, &due)?;
        let core = Arc::new(Core {
            intake: Arc::default(),
            space: Space::new(
                fs.clone(),
                segment_bytes,
                config.free_bytes_min,
                next_number,
            ),
            failed: Arc::new(OnceLock::new()),
            reader: Arc::new(Reader::new(fs)),
            dedupe: recall(&shared, &*clock)?,
            lag_max: config.lag_max.max(2),
            ledger: Ledger::new(shared.read_blocking(chores::usages)?),
            projection: shared,
            settings,
            desks: Mutex::new(desks),
            requeues: tokio::sync::Mutex::new(()),
            loaded: Notify::new(),
            closed: AtomicBool::new(false),
            clock,
            due,
            lock: Mutex::new(Some(lock)),
        });
        quarantine(&core, &damages)?;
        let writer = Writer {
            intake: core.intake.clone(),
            sink: core.clone(),
            space: core.space.clone(),
            clock: core.clock.clone(),
            failed: core.failed.clone(),
            segment,
            offset: recovered.offset,
            next_seq: recovered.next_seq,
            buffer: Vec::new(),
        };
        let space = core.space.clone();
        let threads = [
            start("journal", move || writer.run()),
            start("projection", move || projector.run()),
            start("segments", move || space.keep_stocked()),
        ];
        let threads = threads
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .map_err(at(&config.data_dir))?;
        Ok(Arc::new(Self {
            core,
            threads: Arc::new(Mutex::new(threads)),
        }))
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Makes a directory that only its owner can read.
pub(super) fn make_dir(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

fn sync_dir(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(at(path))
}

/// Tells desks and dispatcher which destinations have something waiting from before, and desks which
/// keys are stopped.
fn recalled(mut desks: Desks, projection: &Projection, due: &Due) -> Result<Desks, OpenError> {
    for (key, order) in projection.read_blocking(queries::parked)? {
        desks.park(key, order);
    }
    for (key, queue, last) in projection.read_blocking(queries::backlogs)? {
        desks.backlog(key, queue, last);
        due.mark([key]);
    }
    Ok(desks)
}

/// Makes sure that only the owner can read a file that somebody else will open.
pub(super) fn secret_file(path: &Path) -> Result<PathBuf, OpenError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    Ok(path.to_owned())
}

pub(super) fn take_lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

/// Opens the projection and applies what the journal has beyond it.
fn catch_up(path: &Path, recovered: &Recovered) -> Result<(Projector, Vec<Damage>), OpenError> {
    let mut projector = projection::open(path)?;
    if projector.applied() >= recovered.next_seq {
        // It knows what the journal does not: it belongs to another one.
        drop(projector);
        projection::remove(path);
        projector = projection::open(path)?;
    }
    secret_file(path)?;
    let mut replayed = 0;
    let damages = bring_up_to_date(&mut projector, &recovered.segments, |changes| {
        replayed += changes;
    })?;
    // Batches and lost records are not changes: questions wait for numbers, so pass them too.
    projector.skip_to(recovered.next_seq - 1)?;
    info!(replayed, "the projection is up to date");
    Ok((projector, damages))
}

/// Applies what segments have beyond a projection; `progress` hears how many changes each step had.
pub(super) fn bring_up_to_date(
    projector: &mut Projector,
    segments: &[Segment],
    mut progress: impl FnMut(u64),
) -> Result<Vec<Damage>, OpenError> {
    let applied = projector.applied();
    let first = segments
        .iter()
        .rposition(|segment| segment.first_seq.is_some_and(|first| first <= applied + 1))
        .unwrap_or(0);
    let mut damages = Vec::new();
    for (at, segment) in segments.iter().enumerate().skip(first) {
        let next_first_seq = segments.get(at + 1).and_then(|next| next.first_seq);
        let mut changes = Vec::new();
        let mut failed = None;
        damages.extend(recovery::replay(segment, next_first_seq, |record| {
            changes.extend(Change::from_record(&record));
            if changes.len() >= REPLAY_BATCH && failed.is_none() {
                progress(changes.len() as u64);
                failed = projector.apply(&changes).err();
                changes.clear();
            }
        })?);
        if let Some(error) = failed {
            return Err(error.into());
        }
        progress(changes.len() as u64);
        projector.apply(&changes)?;
    }
    Ok(damages)
}

/// Remembers provider ids as they were remembered before.
fn recall(shared: &Arc<Projection>, clock: &dyn Clock) -> Result<Arc<Dedupe>, OpenError> {
    let dedupe = Dedupe::new(PER_TENANT_MAX);
    let now = clock.now();
    let window = u64::try_from(DEDUPE_WINDOW_MAX.as_millis()).unwrap_or(u64::MAX);
    let since = crate::clock::Timestamp(now.0.saturating_sub(window));
    shared.read_blocking(|connection| {
        queries::remembered(connection, now, since, |one| {
            dedupe.recall(
                one.tenant,
                one.source,
                &one.provider_id,
                one.position,
                one.until,
            );
            true
        })
    })?;
    Ok(dedupe)
}

/// Ends the deliveries whose events are lost, visibly.
fn quarantine(core: &Arc<Core>, damages: &[Damage]) -> Result<(), OpenError> {
    for damage in damages {
        let (first, next) = (damage.first, damage.next);
        let rows = core
            .projection
            .read_blocking(|connection| queries::owed_of_events(connection, first, next))?;
        let open = rows.into_iter().filter(|row| row.state.is_open());
        let ops = open.map(|row| {
            let end = End {
                delivery: row.owed.delivery,
                reason: EndReason::Quarantined,
            };
            let effect = Effect {
                does: Does::End(end),
                reply: None,
            };
            Op::new(Kind::End, end.delivery.key.tenant, end.encode(), 1, effect)
        });
        let refused = |_| OpenError::Journal("too many deliveries are damaged".to_owned());
        Intake::push(&core.intake, ops.collect()).map_err(refused)?;
    }
    Ok(())
}
