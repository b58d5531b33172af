//! systemd, as far as a service talks to it: a socket that takes notifications.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::eventually::PATIENCE;
use crate::eventually::within;

/// Listens to what a service tells its supervisor.
pub struct Supervisor {
    socket: UnixDatagram,
    said: Vec<String>,
    home: TempDir,
}

impl Supervisor {
    /// Starts to listen.
    pub fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self {
            socket: UnixDatagram::bind(home.path().join("notify")).unwrap(),
            said: Vec::new(),
            home,
        }
    }

    /// The value of `NOTIFY_SOCKET`.
    pub fn address(&self) -> String {
        let path: PathBuf = self.home.path().join("notify");
        path.display().to_string()
    }

    /// Everything it was told so far, a message each.
    pub fn said(&mut self) -> &[String] {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]);
            self.said.push(text.trim_end().to_owned());
        }
        &self.said
    }

    /// Whether a line was said so far.
    pub fn was_told(&mut self, line: &str) -> bool {
        self.count(line) > 0
    }

    /// How often a line was said so far.
    pub fn count(&mut self, line: &str) -> usize {
        let said = self.said().iter();
        said.filter(|message| message.lines().any(|said| said == line))
            .count()
    }

    /// Waits until a line was said this often.
    pub async fn hears(&mut self, line: &str, times: usize) {
        let what = format!("systemd to be told {line:?} {times} times");
        within(PATIENCE, what, async || {
            (self.count(line) >= times).then_some(())
        })
        .await;
    }
}
