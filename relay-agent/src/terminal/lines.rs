//! Plain lines, for `listen`.

use std::{
    io::Write,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::SystemTime,
};

use super::{Line, News, View, line::for_people};
use crate::{args::Output, forward::Outcome};

/// Lines that wait for a slow terminal. Beyond that they are counted instead of shown.
const WAITING_MAX: usize = 4096;

/// Prints events to the standard output and news to the standard error, from a thread of its own, so
/// that a terminal that is paused does not hold the connection up.
#[derive(Debug)]
pub struct Lines {
    output: Output,
    printer: Option<SyncSender<Printed>>,
    thread: Option<JoinHandle<()>>,
    skipped: u64,
    /// The last trouble that was told, so that it is told once.
    trouble: Option<String>,
}

#[derive(Debug)]
enum Printed {
    Event(Box<Line>),
    News(String),
}

impl Lines {
    /// Starts to print.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn new(output: Output) -> std::io::Result<Self> {
        let (printer, lines) = sync_channel::<Printed>(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("printer".to_owned())
            .spawn(move || {
                let zone = jiff::tz::TimeZone::system();
                for printed in lines {
                    // A closed pipe ends the printing, not the forwarding.
                    let _ = print(&printed, output, &zone);
                }
            })?;
        Ok(Self {
            output,
            printer: Some(printer),
            thread: Some(thread),
            skipped: 0,
            trouble: None,
        })
    }

    fn print(&mut self, printed: Printed) {
        let Some(printer) = &self.printer else { return };
        if self.skipped > 0 {
            let note = format!(
                "{} lines were not shown: the terminal is too slow",
                self.skipped
            );
            if printer.try_send(Printed::News(note)).is_ok() {
                self.skipped = 0;
            }
        }
        if let Err(TrySendError::Full(_)) = printer.try_send(printed) {
            self.skipped += 1;
        }
    }

    fn tell(&mut self, text: String) {
        self.print(Printed::News(text));
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.printer = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn print(printed: &Printed, output: Output, zone: &jiff::tz::TimeZone) -> std::io::Result<()> {
    match (printed, output) {
        (Printed::Event(line), Output::Json) => writeln!(std::io::stdout(), "{}", line.json()),
        (Printed::Event(line), _) => writeln!(std::io::stdout(), "{}", line.compact(zone)),
        (Printed::News(text), _) => writeln!(std::io::stderr(), "{text}"),
    }
}

impl View for Lines {
    fn delivered(&mut self, outcome: &Outcome) {
        if self.output == Output::Quiet && outcome.result.is_ok() {
            return;
        }
        let line = Line::new(outcome, SystemTime::now());
        self.print(Printed::Event(Box::new(line)));
    }

    fn news(&mut self, news: &News<'_>) {
        match news {
            News::Connected {
                url,
                is_fallback,
                welcome,
            } => {
                self.trouble = None;
                if self.output == Output::Quiet {
                    return;
                }
                let how = if *is_fallback {
                    " with single requests"
                } else {
                    ""
                };
                self.tell(format!("connected to {url}{how}"));
                for source in welcome
                    .listening
                    .iter()
                    .flat_map(|listening| &listening.sources)
                {
                    self.tell(format!(
                        "listening to {}: {}",
                        for_people(&source.name),
                        for_people(&source.url)
                    ));
                }
            }
            News::Heartbeat { .. } => {}
            News::Suspect => {
                self.tell("the relay is silent; opening another connection".to_owned())
            }
            News::Lost { failure, wait } => {
                let text = failure.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    self.tell(format!(
                        "{text}\n  trying again in {} ms, and so on",
                        wait.as_millis()
                    ));
                    self.trouble = Some(text);
                }
            }
            News::RelayDrains { reason } => {
                self.tell(format!(
                    "the relay is going away ({}); connecting again",
                    for_people(reason)
                ));
            }
            News::Stopping { in_hand: 0 } => {}
            News::Stopping { in_hand } => {
                self.tell(format!(
                    "stopping; {in_hand} in hand are finished first (^C again: at once)"
                ));
            }
        }
    }
}
