//! Files of zeros, made ahead by a thread of their own: overwriting zeros syncs several times
//! faster than growing a file, and space that is already ours cannot run out.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::warn;

use super::fs::FileSystem;

/// Files kept ready. Two, so that settlements still have room when the disk is full.
const READY: usize = 2;

/// How long to wait when there is no space.
const PAUSE: Duration = Duration::from_millis(500);

const PREFIX: &str = "spare-";

/// Makes files of zeros ahead.
#[derive(Debug)]
pub(in super::super) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    fs: Arc<dyn FileSystem>,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<String>,
    made: u64,
    stopped: bool,
}

impl Spares {
    /// Removes what an earlier run left half-made, and starts making.
    pub(in super::super) fn start(fs: Arc<dyn FileSystem>, bytes: u64) -> io::Result<Self> {
        for name in fs.list()? {
            if name.starts_with(PREFIX) {
                fs.remove(&name)?;
            }
        }
        let shared = Arc::new(Shared {
            fs,
            bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("journal-spares".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Turns a spare into the file `name` of at least `bytes`, made on the spot if none is ready.
    ///
    /// An error means that there is no space: nothing has changed.
    pub(in super::super) fn take(&self, name: &str, bytes: u64) -> io::Result<()> {
        let ready = (bytes <= self.shared.bytes)
            .then(|| self.shared.lock().ready.pop_front())
            .flatten();
        self.shared.changed.notify_one();
        match ready {
            Some(spare) => self.shared.fs.rename(&spare, name),
            None => self
                .shared
                .fs
                .create_zeroed(name, bytes.max(self.shared.bytes)),
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut warned = false;
        let mut state = self.lock();
        while !state.stopped {
            if state.ready.len() >= READY {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.made += 1;
            let name = format!("{PREFIX}{}.seg", state.made);
            drop(state);
            let made = self.fs.create_zeroed(&name, self.bytes);
            state = self.lock();
            match made {
                Ok(()) => {
                    warned = false;
                    state.ready.push_back(name);
                }
                Err(error) => {
                    if !warned {
                        warn!(%error, "no space to prepare the next journal segment");
                        warned = true;
                    }
                    let waited = self
                        .changed
                        .wait_timeout(state, PAUSE)
                        .unwrap_or_else(PoisonError::into_inner);
                    state = waited.0;
                }
            }
        }
    }
}
