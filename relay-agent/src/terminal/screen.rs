//! The interactive view of `listen`: a live list of events with their details, replays and a search.
//!
//! It lives on a thread of its own that reads keys, keeps the [`model`] and draws it, so that a slow
//! terminal or an open editor never holds the connection up. Replays call the service directly; the
//! relay knows nothing of them.

mod body;

mod curl;

mod draw;

mod edit;

mod keys;

mod model;

mod record;

mod search;

#[cfg(test)]
mod sample;

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{Timestamp, tz::TimeZone};
use protocol::{
    frame::{Offer, Welcome},
    id::DeliveryId,
};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyEventKind},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use self::{
    model::{Effect, LinkState, Model},
    record::{Call, CallKind, Record},
};
use super::{News, View, line::for_people};
use crate::forward::{Attempt, EventBody, Outcome};

/// Updates that wait while an editor is open. Beyond that they are counted instead of shown.
const UPDATES_MAX: usize = 4096;

/// How long keys are waited for before the screen looks for updates.
const GLANCE: Duration = Duration::from_millis(50);

/// Updates taken before the screen is drawn again.
const UPDATES_AT_ONCE_MAX: usize = 1024;

/// Replays at the same time.
const REPLAYS_MAX: usize = 8;

/// Longest text that is sent to the clipboard, in bytes; terminals ignore more.
const CLIPBOARD_BYTES_MAX: usize = 64 * 1024;

/// Whether the terminal shows our screen now.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// The interactive view.
#[derive(Debug)]
pub struct Screen {
    updates: SyncSender<Update>,
    thread: Option<JoinHandle<()>>,
    skipped: u64,
}

/// What the agent tells the screen.
#[derive(Debug)]
enum Update {
    Began(Box<Record>),
    Ended(DeliveryId, Call),
    Replayed(DeliveryId, Call),
    Connected(Vec<(String, String)>),
    Link(LinkState),
    Notice(String),
    Stopping(usize),
    Close,
}

impl Screen {
    /// Takes the terminal over, until it is dropped. Must be called within the runtime. `relay` is how
    /// the relay is called; a key cancels `stop`.
    ///
    /// # Errors
    ///
    /// The terminal cannot be used like this, or there is no thread.
    pub fn open(relay: String, stop: CancellationToken) -> io::Result<Self> {
        let (updates, receiver) = sync_channel(UPDATES_MAX);
        restore_on_panic();
        let mut terminal = take_terminal()?;
        let mut ui = Ui {
            model: Model::new(for_people(&relay)),
            zone: TimeZone::system(),
            updates: receiver,
            sender: updates.clone(),
            runtime: Handle::current(),
            replays: std::sync::Arc::new(Semaphore::new(REPLAYS_MAX)),
            page: 1,
            // Whatever ends the thread ends the agent: nobody would see what goes on.
            stop: stop.drop_guard(),
        };
        let thread = std::thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                let result = ui.run(&mut terminal);
                give_terminal_back();
                ui.say_goodbye(result);
            });
        match thread {
            Ok(thread) => Ok(Self {
                updates,
                thread: Some(thread),
                skipped: 0,
            }),
            Err(error) => {
                give_terminal_back();
                Err(error)
            }
        }
    }

    fn tell(&mut self, update: Update) {
        if self.skipped > 0 {
            let note = format!("{} updates were not shown", self.skipped);
            if self.updates.try_send(Update::Notice(note)).is_ok() {
                self.skipped = 0;
            }
        }
        if let Err(TrySendError::Full(_)) = self.updates.try_send(update) {
            self.skipped += 1;
        }
    }
}

impl View for Screen {
    fn started(&mut self, attempt: &Attempt) {
        self.tell(Update::Began(Box::new(Record::new(
            attempt,
            Timestamp::now(),
        ))));
    }

    fn delivered(&mut self, outcome: &Outcome) {
        let call = Call::new(
            CallKind::Attempt(outcome.offer.attempt),
            outcome,
            Timestamp::now(),
        );
        self.tell(Update::Ended(outcome.offer.delivery, call));
    }

    fn news(&mut self, news: &News<'_>) {
        let update = match news {
            News::Connected { welcome, .. } => Update::Connected(sources(welcome)),
            News::Heartbeat { rtt } => Update::Link(LinkState::Connected { rtt: Some(*rtt) }),
            News::Suspect => Update::Link(LinkState::Suspect),
            News::Lost { failure, .. } => Update::Link(LinkState::Lost {
                what: format!("{}: {}", failure.code, for_people(&failure.what)),
            }),
            News::RelayDrains { reason } => Update::Notice(format!(
                "the relay is going away ({}); connecting again",
                for_people(reason)
            )),
            News::Stopping { in_hand } => Update::Stopping(*in_hand),
        };
        self.tell(update);
    }
}

fn sources(welcome: &Welcome) -> Vec<(String, String)> {
    let listening = welcome
        .listening
        .iter()
        .flat_map(|listening| &listening.sources);
    listening
        .map(|source| (for_people(&source.name), for_people(&source.url)))
        .collect()
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The thread empties the channel, so there is room soon, unless it has ended already.
        let _ = self.updates.send(Update::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Tty = Terminal<CrosstermBackend<io::Stdout>>;

/// The thread's side.
struct Ui {
    model: Model,
    zone: TimeZone,
    updates: Receiver<Update>,
    /// For what replays have to tell.
    sender: SyncSender<Update>,
    runtime: Handle,
    replays: std::sync::Arc<Semaphore>,
    /// Rows of the list.
    page: usize,
    stop: tokio_util::sync::DropGuard,
}

impl Ui {
    fn run(&mut self, terminal: &mut Tty) -> io::Result<()> {
        let mut is_stale = true;
        loop {
            for _ in 0..UPDATES_AT_ONCE_MAX {
                match self.updates.try_recv() {
                    Ok(Update::Close) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Ok(update) => self.take(update),
                    Err(TryRecvError::Empty) => break,
                }
                is_stale = true;
            }
            if is_stale {
                let Self {
                    model, zone, page, ..
                } = self;
                terminal.draw(|frame| *page = draw::draw(frame, model, zone))?;
                is_stale = false;
            }
            if event::poll(GLANCE)? {
                is_stale = true;
                self.input(terminal, &event::read()?)?;
            }
        }
    }

    fn take(&mut self, update: Update) {
        let model = &mut self.model;
        match update {
            Update::Began(record) => model.began(*record),
            Update::Ended(delivery, call) => model.ended(delivery, call),
            Update::Replayed(delivery, call) => model.note_call(delivery, call),
            Update::Connected(sources) => {
                model.sources = sources;
                model.link = LinkState::Connected { rtt: None };
            }
            Update::Link(state) => model.link = state,
            Update::Notice(notice) => model.notice = Some(notice),
            Update::Stopping(in_hand) => {
                model.stopping = Some(in_hand);
                model.notice = Some(format!(
                    "stopping; {in_hand} in hand are finished first (q again: at once)"
                ));
            }
            Update::Close => {}
        }
    }

    fn input(&mut self, terminal: &mut Tty, event: &Event) -> io::Result<()> {
        let Event::Key(key) = event else {
            return Ok(());
        };
        if key.kind == KeyEventKind::Release {
            return Ok(());
        }
        let Some(command) = keys::command(*key, self.model.is_typing, self.page) else {
            return Ok(());
        };
        match self.model.obey(command) {
            Effect::None => {}
            Effect::Replay(delivery) => self.replay(delivery),
            Effect::Edit(delivery) => self.edit(terminal, delivery)?,
            Effect::Copy(text) => copy(&text)?,
            Effect::Stop => self.stop_agent(),
            Effect::StopNow => {
                give_terminal_back();
                std::process::exit(crate::explain::Exit::Failure.code().into());
            }
        }
        Ok(())
    }

    fn stop_agent(&mut self) {
        // A guard can only be dropped: its token is taken out and another one stays.
        let guard = std::mem::replace(&mut self.stop, CancellationToken::new().drop_guard());
        drop(guard);
    }

    fn replay(&mut self, delivery: DeliveryId) {
        let found = self.model.record(delivery);
        let Some((offer, body)) =
            found.and_then(|record| Some((record.offer.clone(), record.body.clone()?)))
        else {
            return;
        };
        self.call(offer, body, CallKind::Replay);
    }

    fn call(&mut self, offer: Box<Offer>, body: bytes::Bytes, kind: CallKind) {
        let delivery = offer.delivery;
        let Some(record) = self.model.record(delivery) else {
            return;
        };
        let Ok(permit) = self.replays.clone().try_acquire_owned() else {
            self.model.notice = Some(format!(
                "{REPLAYS_MAX} replays are running; wait for one to end"
            ));
            return;
        };
        let attempt = Box::new(Attempt {
            offer,
            body: EventBody::whole(body),
            service: record.service.clone(),
            timeout: record.timeout,
            responder: None,
        });
        let sender = self.sender.clone();
        self.runtime.spawn(async move {
            let outcome = attempt.call().await;
            let call = Call::new(kind, &outcome, Timestamp::now());
            drop(permit);
            // A screen that is that far behind does without.
            let _ = sender.try_send(Update::Replayed(delivery, call));
        });
        self.model.replaying(delivery);
    }

    fn edit(&mut self, terminal: &mut Tty, delivery: DeliveryId) -> io::Result<()> {
        let Some(record) = self.model.record(delivery) else {
            return Ok(());
        };
        let offer = record.offer.clone();
        let Some(text) = record
            .body
            .as_ref()
            .and_then(|body| edit::to_text(&offer, body))
        else {
            self.model.notice =
                Some("the request holds bytes that are no text; it cannot be edited".to_owned());
            return Ok(());
        };
        give_terminal_back();
        let edited = edit::in_editor(&text);
        *terminal = take_terminal()?;
        terminal.clear()?;
        match edited {
            Ok(Some(text)) => match edit::from_text(&text, &offer) {
                Ok((offer, body)) => self.call(offer, body, CallKind::Edited),
                Err(wrong) => self.model.notice = Some(format!("not sent: {wrong}")),
            },
            Ok(None) => {
                self.model.notice = Some("nothing was changed, nothing was sent".to_owned())
            }
            Err(error) => self.model.notice = Some(format!("not sent: {error}")),
        }
        Ok(())
    }

    /// What stays on the terminal.
    fn say_goodbye(&self, result: io::Result<()>) {
        let totals = self.model.totals;
        let _ = writeln!(
            io::stdout(),
            "{} events, {} calls delivered, {} failed",
            totals.events,
            totals.delivered,
            totals.failed
        );
        if let Err(error) = result {
            let _ = writeln!(io::stderr(), "the terminal failed: {error}");
        }
    }
}

/// Hands text to the clipboard of the terminal, also over SSH (OSC 52).
fn copy(text: &str) -> io::Result<()> {
    if text.len() <= CLIPBOARD_BYTES_MAX {
        write!(io::stdout(), "\x1b]52;c;{}\x07", STANDARD.encode(text))?;
        io::stdout().flush()?;
    }
    Ok(())
}

fn take_terminal() -> io::Result<Tty> {
    enable_raw_mode()?;
    IS_OPEN.store(true, Ordering::SeqCst);
    let opened = execute!(io::stdout(), EnterAlternateScreen)
        .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
    if opened.is_err() {
        give_terminal_back();
    }
    opened
}

/// A panic of any thread gives the terminal back before it is told.
fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_terminal_back();
            tell(panic);
        }));
    });
}

/// Gives the terminal back as it was, if a screen has it. For every way out, panics included.
pub fn give_terminal_back() {
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        // There is no better place to tell that this failed.
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}
