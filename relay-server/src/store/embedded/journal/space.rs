//! Room for what comes: segments zeroed ahead, and how full the disk is.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{fs::JournalFs, segment::Segment};

/// Segments kept ready. They also are what settlements use when the disk is full.
const SPARES: usize = 2;

/// How long a measurement of the disk is good for.
const MEASURE_EVERY: Duration = Duration::from_millis(100);

/// How long to wait after a segment could not be made.
const RETRY_AFTER: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Stock {
    ready: VecDeque<Segment>,
    next_number: u32,
    failing: bool,
    stopped: bool,
}

/// The journal's room.
#[derive(Debug)]
pub(crate) struct Space {
    fs: Arc<dyn JournalFs>,
    segment_bytes: u64,
    /// Accepting stops when fewer bytes are free.
    free_bytes_min: u64,
    full: AtomicBool,
    measured: Mutex<Option<Instant>>,
    stock: Mutex<Stock>,
    changed: Condvar,
}

impl Space {
    pub(crate) fn new(
        fs: Arc<dyn JournalFs>,
        segment_bytes: u64,
        free_bytes_min: u64,
        next_number: u32,
    ) -> Arc<Self> {
        let space = Self {
            fs,
            segment_bytes,
            free_bytes_min,
            full: AtomicBool::new(false),
            measured: Mutex::new(None),
            stock: Mutex::new(Stock {
                ready: VecDeque::new(),
                next_number,
                failing: false,
                stopped: false,
            }),
            changed: Condvar::new(),
        };
        space.measure();
        Arc::new(space)
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk is too full to accept more. Looks again when it was.
    pub(crate) fn is_full(&self) -> bool {
        if self.full.load(Ordering::Relaxed) {
            self.measure();
        }
        self.full.load(Ordering::Relaxed)
    }

    /// Looks at the disk, unless somebody just did.
    pub(crate) fn measure(&self) {
        let Ok(mut measured) = self.measured.try_lock() else {
            return;
        };
        if measured.is_some_and(|at| at.elapsed() < MEASURE_EVERY) {
            return;
        }
        *measured = Some(Instant::now());
        let short = match self.fs.free_bytes() {
            Ok(free) => free < self.free_bytes_min,
            Err(error) => {
                warn!(%error, "could not ask how much of the disk is free");
                false
            }
        };
        let full = short || self.stock().failing;
        if self.full.swap(full, Ordering::Relaxed) != full {
            if full {
                warn!("the disk is too full: events are refused until there is room");
            } else {
                info!("there is room on the disk again: events are accepted");
            }
        }
    }

    /// The directory of the segments.
    pub(crate) fn fs(&self) -> Arc<dyn JournalFs> {
        self.fs.clone()
    }

    /// How long a segment is, in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// A number for a segment that is made elsewhere.
    pub(crate) fn number(&self) -> u32 {
        self.stock().take_number()
    }

    /// A segment with room for `bytes`, from stock if it fits.
    pub(crate) fn segment(&self, bytes: u64) -> io::Result<Segment> {
        let mut stock = self.stock();
        if bytes <= self.segment_bytes
            && let Some(segment) = stock.ready.pop_front()
        {
            drop(stock);
            self.changed.notify_all();
            return Ok(segment);
        }
        let number = stock.take_number();
        drop(stock);
        let made = Segment::create(&*self.fs, number, bytes.max(self.segment_bytes));
        if made.is_err() {
            // Known at once, not only when the stock fails to be filled, which then tells the end too.
            self.stock().failing = true;
            self.full.store(true, Ordering::Relaxed);
            self.changed.notify_all();
        }
        made
    }

    /// Keeps the stock full until [`Space::stop`]. Runs on a thread of its own.
    pub(crate) fn keep_stocked(&self) {
        loop {
            let mut stock = self.stock();
            while stock.ready.len() >= SPARES && !stock.stopped {
                stock = self
                    .changed
                    .wait(stock)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if stock.stopped {
                return;
            }
            let number = stock.take_number();
            drop(stock);
            let made = Segment::create(&*self.fs, number, self.segment_bytes);
            let mut stock = self.stock();
            stock.failing = made.is_err();
            match made {
                Ok(segment) => stock.ready.push_back(segment),
                Err(error) => {
                    self.full.store(true, Ordering::Relaxed);
                    warn!(%error, "could not prepare a segment: events are refused");
                    if !stock.stopped {
                        let waited = self.changed.wait_timeout(stock, RETRY_AFTER);
                        drop(waited.unwrap_or_else(PoisonError::into_inner));
                    }
                }
            }
        }
    }

    /// Ends [`Space::keep_stocked`].
    pub(crate) fn stop(&self) {
        self.stock().stopped = true;
        self.changed.notify_all();
    }

    /// Removes the spare segments, so that a closed journal holds no zeroes.
    pub(crate) fn give_back(&self) {
        for segment in self.stock().ready.drain(..) {
            if let Err(error) = self.fs.remove(segment.number) {
                warn!(segment = segment.number, %error, "could not remove a spare segment");
            }
        }
    }
}

impl Stock {
    fn take_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}
