//! A terminal for a program that wants one: a pseudo-terminal (pty(7)) of a given size.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::OpenptFlags,
    termios::{LocalModes, Winsize},
};

use crate::eventually;

/// A terminal whose screen is a log: everything that was ever written to it.
#[derive(Debug)]
pub struct Terminal {
    keys: File,
    end: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A terminal of this size.
    pub fn new(columns: u16, rows: u16) -> Self {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&ours).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap();
        let end = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&end, size).unwrap();
        let keys = File::from(ours);
        let mut screen = keys.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&shown);
        // It ends with the last program that has the other end open, and with this value.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                log.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { keys, end, shown }
    }

    /// The end that a program gets.
    pub fn end(&self) -> OwnedFd {
        self.end.try_clone().unwrap()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that was written to it, escapes included.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until something was written to it.
    pub async fn shows(&self, text: &str) {
        eventually(format!("the terminal to show {text:?}"), async || {
            self.shown().contains(text).then_some(())
        })
        .await;
    }

    /// Whether lines are edited and echoed, as a shell wants it.
    pub fn is_as_shells_want_it(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.end).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}
