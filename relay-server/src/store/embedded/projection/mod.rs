//! The projection: what the journal says, as tables for lists, filters and backlogs. One thread
//! writes it, behind the journal by a bounded number of changes; it can be deleted and is rebuilt.

mod schema;

mod ages;

pub(crate) mod apply;

pub(crate) mod chores;

mod pieces;

pub(crate) mod queries;

pub(crate) mod replays;

pub(crate) mod waiting;

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tracing::error;

use self::{
    apply::Change,
    chores::{Chore, Done},
};
use crate::store::StoreError;

/// Changes applied in one transaction.
const BATCH_MAX: usize = 8192;

/// How long changes are gathered while nobody waits for them.
const LINGER: Duration = Duration::from_millis(50);

/// How long a question waits for the projection.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections kept for reading.
const READERS_MAX: usize = 4;

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Change>,
    /// How many changes ever came, and how many were ever taken.
    came: u64,
    taken: u64,
    /// What to do once so many changes were taken.
    chores: VecDeque<(u64, Errand)>,
    /// Somebody waits: apply at once.
    wanted: bool,
    closed: bool,
}

/// A chore, and who waits for it.
type Errand = (Chore, oneshot::Sender<rusqlite::Result<Done>>);

/// What the projector has to do next.
enum Work {
    Changes(Vec<Change>),
    Errand(Errand),
}

/// What the writer of the journal, the writer of the projection and its readers share.
#[derive(Debug)]
pub(crate) struct Projection {
    path: PathBuf,
    queue: Mutex<Queue>,
    arrived: Condvar,
    applied: watch::Sender<u64>,
    readers: Mutex<Vec<Connection>>,
}

/// The projection's writing end.
#[derive(Debug)]
pub(crate) struct Projector {
    connection: Connection,
    projection: Arc<Projection>,
}

/// Opens the projection, or makes an empty one.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Projector> {
    let connection = schema::open_writer(path)?;
    let applied = connection.query_row("SELECT seq FROM position", [], |row| row.get(0))?;
    let projection = Arc::new(Projection {
        path: path.to_owned(),
        queue: Mutex::default(),
        arrived: Condvar::new(),
        applied: watch::Sender::new(applied),
        readers: Mutex::default(),
    });
    Ok(Projector {
        connection,
        projection,
    })
}

/// How far a projection in a file is, if it can be used. Reads only.
pub(crate) fn applied_in(path: &Path) -> Option<u64> {
    let connection = schema::open_reader(path).ok()?;
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .ok()?;
    (version == schema::VERSION).then_some(())?;
    let applied = connection.query_row("SELECT seq FROM position", [], |row| row.get(0));
    applied.ok()
}

/// Notes where events are now, by sequence number. A projection that cannot be used is left to the
/// next start, which rebuilds it.
pub(crate) fn move_events(path: &Path, moved: &HashMap<u64, i64>) -> rusqlite::Result<()> {
    if applied_in(path).is_none() {
        return Ok(());
    }
    let mut connection = schema::open_writer(path)?;
    let transaction = connection.transaction()?;
    chores::move_to(&transaction, moved.iter().map(|(seq, at)| (*seq, *at)))?;
    transaction.commit()
}

/// Throws a projection away.
pub(crate) fn remove(path: &Path) {
    schema::remove(path);
}

impl Projector {
    /// What the others use.
    pub(crate) fn shared(&self) -> Arc<Projection> {
        self.projection.clone()
    }

    /// Applies changes now.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        let applied = apply::apply(&mut self.connection, changes)?;
        self.projection.applied.send_replace(applied);
        Ok(())
    }

    /// How far it is.
    pub(crate) fn applied(&self) -> u64 {
        *self.projection.applied.borrow()
    }

    /// Passes numbers that stand for no change.
    pub(crate) fn skip_to(&mut self, seq: u64) -> rusqlite::Result<()> {
        self.connection
            .execute("UPDATE position SET seq = max(seq, ?1)", [seq])?;
        self.projection.applied.send_replace(seq);
        Ok(())
    }

    /// Applies what is pushed until the queue closes. Runs on a thread of its own.
    pub(crate) fn run(mut self) {
        while let Some(work) = self.projection.take() {
            let changes = match work {
                Work::Changes(changes) => changes,
                Work::Errand((chore, done)) => {
                    // Who went away does not want to know.
                    let _ = done.send(chore.run(&mut self.connection));
                    continue;
                }
            };
            // The journal has them: a failure here only makes lists old.
            while let Err(cause) = self.apply(&changes) {
                error!(%cause, "the projection cannot be written; lists are out of date");
                if self.projection.pause() {
                    return;
                }
            }
        }
        self.finish();
    }

    /// Folds the log into the file.
    pub(crate) fn finish(self) {
        let folded = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(cause) = folded {
            error!(%cause, "could not fold the projection's log");
        }
    }
}

impl Projection {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over durable changes, in order.
    pub(crate) fn push(&self, changes: Vec<Change>) {
        let mut queue = self.queue();
        queue.came += changes.len() as u64;
        queue.changes.extend(changes);
        drop(queue);
        self.arrived.notify_one();
    }

    /// Everything up to this sequence is applied.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// How many changes wait.
    pub(crate) fn lag(&self) -> usize {
        self.queue().changes.len()
    }

    /// Applies what waits, then nothing more.
    pub(crate) fn close(&self) {
        self.queue().closed = true;
        self.arrived.notify_all();
    }

    /// Has something done once what came so far is applied.
    pub(crate) async fn have_done(&self, chore: Chore) -> Result<Done, StoreError> {
        let (done, hear) = oneshot::channel();
        self.send((chore, done))?;
        match hear.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(StoreError::Unavailable(format!("the projection: {error}"))),
            Err(_) => Err(super::core::closed()),
        }
    }

    fn send(&self, errand: Errand) -> Result<(), StoreError> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(super::core::closed());
        }
        let after = queue.came;
        queue.chores.push_back((after, errand));
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// Changes first, but for what waits for no more of them.
    fn take(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            let taken = queue.taken;
            let is_due = |errand: &mut (u64, Errand)| errand.0 <= taken;
            if let Some((_, errand)) = queue.chores.pop_front_if(is_due) {
                return Some(Work::Errand(errand));
            }
            if !queue.changes.is_empty() {
                break;
            }
            if queue.closed {
                queue.chores.clear();
                return None;
            }
            queue = self
                .arrived
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let patient = |queue: &mut Queue| {
            !(queue.wanted
                || queue.closed
                || queue.changes.len() >= BATCH_MAX
                || !queue.chores.is_empty())
        };
        let (mut queue, _) = self
            .arrived
            .wait_timeout_while(queue, LINGER, patient)
            .unwrap_or_else(PoisonError::into_inner);
        let count = queue.changes.len().min(BATCH_MAX);
        if count == queue.changes.len() {
            queue.wanted = false;
        }
        queue.taken += count as u64;
        Some(Work::Changes(queue.changes.drain(..count).collect()))
    }

    /// Waits a while; true if the projection closed.
    fn pause(&self) -> bool {
        let open = |queue: &mut Queue| !queue.closed;
        let (queue, _) = self
            .arrived
            .wait_timeout_while(self.queue(), Duration::from_secs(1), open)
            .unwrap_or_else(PoisonError::into_inner);
        queue.closed
    }

    /// Waits, a bounded time, until everything up to `seq` is applied.
    pub(crate) async fn caught_up(&self, seq: u64) -> Result<(), StoreError> {
        let mut applied = self.applied.subscribe();
        if *applied.borrow_and_update() >= seq {
            return Ok(());
        }
        self.queue().wanted = true;
        self.arrived.notify_all();
        let waited = tokio::time::timeout(PATIENCE, applied.wait_for(|applied| *applied >= seq));
        match waited.await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::Overloaded {
                retry_after: Duration::from_secs(1),
            }),
        }
    }

    /// Asks a question off the runtime's threads.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let projection = self.clone();
        let asked = tokio::task::spawn_blocking(move || projection.read_blocking(question));
        match asked.await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable("a read was cut off".to_owned())),
        }
    }

    /// Asks a question on this thread.
    pub(crate) fn read_blocking<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let failed = |error| StoreError::Unavailable(format!("the projection: {error}"));
        let pooled = self.pool().pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => schema::open_reader(&self.path).map_err(failed)?,
        };
        // One transaction: all statements of a question see the same moment.
        let transaction = connection.transaction().map_err(failed)?;
        let answer = question(&transaction).map_err(failed)?;
        drop(transaction);
        let mut pool = self.pool();
        if pool.len() < READERS_MAX {
            pool.push(connection);
        }
        Ok(answer)
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections.
    pub(crate) fn close_readers(&self) {
        self.pool().clear();
    }
}
