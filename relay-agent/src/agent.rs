//! The wiring: [`Agent`] has everything open that can fail, and `run` serves until it is stopped.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use protocol::{
    frame::Listen,
    id::AgentId,
    session::{AgentConfig, Window},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::{Config, DataConfig, Lane, Serve, Trust},
    explain::{Code, Failure},
    forward::Service,
    journal::Journal,
    link::{Choice, Dialer, Driver, Memory, driver},
    report::Report,
    status::{Status, StatusListener},
    terminal::View,
    tls::Tls,
};

mod reload;

pub use reload::Reloader;

/// An agent that is ready to serve: files and the local listener are open.
pub struct Agent {
    parts: driver::Parts,
    reloader: Option<Reloader>,
    listener: Option<StatusListener>,
    /// Held as long as the process uses its data directory.
    _lock: Option<File>,
}

impl Agent {
    /// Opens everything an agent needs on this machine. The relay is not contacted yet.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that ends the command.
    pub async fn bind(config: Config, view: Box<dyn View>) -> Result<Self, Failure> {
        let tls = tls(&config)?;
        let relay_tls = config.link.tls_to_relay(tls.as_ref())?;
        let (instance, journal, lock) = open_data(&config.data)?;
        let listener = match config.status {
            Some(address) => Some(StatusListener::bind(address).await?),
            None => None,
        };
        let services = services(&config, tls.as_ref())?;
        warn_of_insecure(&config);
        let dialer = Dialer::new(config.link.clone(), relay_tls, tls);
        let status = Arc::new(Status::new(config.ready_within));
        let (sender, renewals) = mpsc::channel(1);
        let parts = driver::Parts {
            sessions: sessions(&config, instance, &dialer),
            services,
            dialer,
            report: Report::new(journal),
            view,
            status: status.clone(),
            grace: config.grace,
            renewals,
        };
        let reloader = Reloader::new(config, instance, status, sender);
        Ok(Self {
            parts,
            reloader: Some(reloader),
            listener,
            _lock: lock,
        })
    }

    /// Where the local listener is, if there is one.
    pub fn status_address(&self) -> Option<std::net::SocketAddr> {
        self.listener.as_ref().map(|listener| listener.address)
    }

    /// Takes new configurations while the agent runs. Once.
    pub fn reloader(&mut self) -> Option<Reloader> {
        self.reloader.take()
    }

    /// Serves until `stop`, then finishes what is in hand.
    ///
    /// # Errors
    ///
    /// Why the relay refused for good.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let ended = CancellationToken::new();
        drop(self.reloader);
        let listener = self
            .listener
            .map(|listener| tokio::spawn(listener.serve(self.parts.status.clone(), ended.clone())));
        let result = Driver::new(self.parts, stop).run().await;
        ended.cancel();
        if let Some(listener) = listener {
            let _ = listener.await;
        }
        result
    }
}

/// Opens what a configuration names and nothing else does, for `config check`: the files of TLS.
///
/// # Errors
///
/// What `run` would end with.
pub fn check(config: &Config) -> Result<(), Failure> {
    let tls = tls(config)?;
    config.link.tls_to_relay(tls.as_ref())?;
    services(config, tls.as_ref()).map(drop)
}

/// TLS, if anything needs it: reading all certificates of the system takes memory and time.
fn tls(config: &Config) -> Result<Option<Tls>, Failure> {
    let needs_system = |lane: &Lane| lane.target.is_tls() && lane.tls.trust == Trust::System;
    if config.link.needs_tls() || config.serve.lanes().any(|(_, lane)| needs_system(lane)) {
        return Tls::new(config.ca_file.as_deref()).map(Some);
    }
    Ok(None)
}

/// What is called, each with connections of its own.
fn services(config: &Config, general: Option<&Tls>) -> Result<driver::Services, Failure> {
    let open = |destination: &str, lane: &Lane| {
        let tls = match lane.target.is_tls() {
            true => Tls::of_service(destination, &lane.tls, general)?,
            false => None,
        };
        let allow = config.allow_targets.clone();
        Ok(Arc::new(Service::new(lane, tls, allow)))
    };
    match &config.serve {
        Serve::Destinations(lanes) => {
            let named: Result<_, Failure> = lanes
                .iter()
                .map(|(name, lane)| Ok((name.clone(), open(name, lane)?)))
                .collect();
            Ok(driver::Services {
                named: named?,
                listener: None,
            })
        }
        Serve::Listen { lane, .. } => Ok(driver::Services {
            named: Vec::new(),
            listener: Some(open("listen", lane)?),
        }),
    }
}

/// How sessions are opened, all of them to one relay or to several of its nodes.
fn sessions(config: &Config, instance: AgentId, dialer: &Dialer) -> driver::Sessions {
    let directory = match &config.data {
        DataConfig::Directory { path, .. } => Some(path.as_path()),
        DataConfig::Memory => None,
    };
    let memory = Memory::new(directory, dialer.way());
    driver::Sessions {
        config: session_config(config, instance),
        connections: config.connections,
        choice: Choice::new(config.link.transport, memory, Instant::now()),
    }
}

fn warn_of_insecure(config: &Config) {
    for (destination, lane) in config.serve.lanes().filter(|(_, lane)| lane.is_insecure()) {
        let target = &lane.target;
        warn!(destination, %target, "Certificate of the service is NOT verified: insecure = true");
    }
}

fn session_config(config: &Config, instance: AgentId) -> AgentConfig {
    let window = |lane: &Lane| {
        let window = lane.window();
        // Deliveries are shared as sessions come and go, bytes once and for all.
        let bytes = window.bytes / u64::from(config.connections);
        Window { bytes, ..window }
    };
    let (destinations, listen) = match &config.serve {
        Serve::Destinations(lanes) => {
            let windows = lanes
                .iter()
                .map(|(name, lane)| (name.clone(), window(lane)));
            (windows.collect(), None)
        }
        Serve::Listen {
            sources,
            filter,
            lane,
        } => {
            // The session fills in the numbers from the window.
            let listen = Listen {
                sources: sources.clone(),
                filter: filter.clone(),
                deliveries: 0,
                bytes: 0,
            };
            (Vec::new(), Some((listen, window(lane))))
        }
    };
    AgentConfig {
        instance,
        name: config.link.name.clone(),
        agent: driver::PROGRAM.to_owned(),
        destinations,
        listen,
    }
}

fn open_data(data: &DataConfig) -> Result<(AgentId, Journal, Option<File>), Failure> {
    let DataConfig::Directory { path, journal } = data else {
        return Ok((new_instance(), Journal::in_memory(), None));
    };
    let unusable = |error: io::Error| {
        Failure::new(
            Code::DataDir,
            format!("cannot use {}: {error}", path.display()),
        )
    };
    create_private(path).map_err(unusable)?;
    let lock = lock(path)?;
    let instance = read_instance(path).map_err(unusable)?;
    let journal = match journal {
        true => Journal::open(path, now_ms()).map_err(unusable)?,
        false => Journal::in_memory(),
    };
    Ok((instance, journal, Some(lock)))
}

/// Makes a directory that is for this user only: the journal holds the start of responses.
fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)
}

fn lock(directory: &Path) -> Result<File, Failure> {
    let unusable = |error: io::Error| {
        Failure::new(
            Code::DataDir,
            format!("cannot lock {}: {error}", directory.display()),
        )
    };
    let options = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .clone();
    let file = options.open(directory.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Code::DataLocked,
            format!("{} is in use by another agent", directory.display()),
        )),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The id of this installation, made on the first start.
fn read_instance(directory: &Path) -> io::Result<AgentId> {
    let path = directory.join("instance");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            io::Error::other(format!(
                "{} does not hold an agent id; delete it to get a new one",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let instance = new_instance();
            // First beside, so that a crash leaves no half of an id.
            let beside = directory.join("instance.new");
            std::fs::write(&beside, format!("{instance}\n"))?;
            std::fs::rename(&beside, &path)?;
            Ok(instance)
        }
        Err(error) => Err(error),
    }
}

/// A ULID: 48 bits of time, 80 of randomness.
fn new_instance() -> AgentId {
    let random = rand::random::<u128>() >> 48;
    AgentId::from_u128((u128::from(now_ms()) << 80) | random)
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod data_tests {
    use super::*;

    #[test]
    fn instance_stays_and_the_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataConfig::Directory {
            path: directory.path().join("deep/er"),
            journal: true,
        };
        let (first, _journal, lock) = open_data(&data).unwrap();
        assert_eq!(open_data(&data).unwrap_err().code, Code::DataLocked);
        drop(lock);
        let (second, _journal, _lock) = open_data(&data).unwrap();
        assert_eq!(first, second);
        assert_ne!(first, new_instance());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = std::fs::metadata(directory.path().join("deep/er")).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
        }
    }
}
