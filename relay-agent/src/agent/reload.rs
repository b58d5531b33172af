//! Reading the configuration again: all that can fail on this machine happens here, before anything
//! changes.

use std::sync::Arc;

use protocol::id::AgentId;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{driver, services, sessions, tls, warn_of_insecure};
use crate::{
    config::{Config, LogConfig},
    explain::Failure,
    link::Dialer,
    status::Status,
};

/// Takes new configurations while an agent runs.
pub struct Reloader {
    /// What is in force.
    config: Config,
    /// What will be, as soon as the relay has welcomed it.
    pending: Option<Pending>,
    instance: AgentId,
    status: Arc<Status>,
    sender: mpsc::Sender<Box<driver::Renewal>>,
}

struct Pending {
    config: Config,
    in_force: oneshot::Receiver<()>,
}

impl Reloader {
    pub(super) fn new(
        config: Config,
        instance: AgentId,
        status: Arc<Status>,
        sender: mpsc::Sender<Box<driver::Renewal>>,
    ) -> Self {
        Self {
            config,
            pending: None,
            instance,
            status,
            sender,
        }
    }

    /// Loads a configuration and has the agent go on with it. One that is wrong changes nothing but the
    /// log and the metrics.
    pub async fn reload(&mut self, load: impl FnOnce() -> Result<Config, Failure>) {
        self.status.reloading();
        let prepared = load().and_then(|config| Ok((self.prepare(&config)?, config)));
        match prepared {
            Ok(((renewal, in_force), config)) => {
                for key in needs_restart(&self.config, &config) {
                    warn!(key, "A change of this key needs a restart");
                }
                warn_of_insecure(&config);
                // It fails only once the agent has stopped.
                let _ = self.sender.send(Box::new(renewal)).await;
                self.pending = Some(Pending { config, in_force });
            }
            Err(failure) => {
                let Failure {
                    code, what, fix, ..
                } = &failure;
                let context = failure.context.as_deref();
                warn!(%code, error = what, context, fix, "The new configuration is wrong: the old one stays");
                self.status.reloaded(Err(&failure));
            }
        }
    }

    /// Waits until a configuration that was loaded is in force, and returns it. Cancel-safe.
    pub async fn in_force(&mut self) -> &Config {
        loop {
            let Some(pending) = &mut self.pending else {
                return std::future::pending().await;
            };
            let is_in_force = (&mut pending.in_force).await.is_ok();
            if let Some(pending) = self.pending.take()
                && is_in_force
            {
                self.config = with_what_needs_restart(pending.config, &self.config);
                return &self.config;
            }
        }
    }

    fn prepare(
        &self,
        config: &Config,
    ) -> Result<(driver::Renewal, oneshot::Receiver<()>), Failure> {
        let tls = tls(config)?;
        let relay_tls = config.link.tls_to_relay(tls.as_ref())?;
        let services = services(config, tls.as_ref())?;
        let changes = changes(&self.config, config);
        // What sessions are opened with right now is not known for sure while that is pending.
        let needs_session =
            self.pending.is_some() || changes.iter().any(|change| change.needs_session);
        let names: Vec<_> = changes.into_iter().map(|change| change.what).collect();
        let summary = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let dialer = Dialer::new(config.link.clone(), relay_tls, tls);
        let (told, in_force) = oneshot::channel();
        let renewal = driver::Renewal {
            sessions: needs_session.then(|| sessions(config, self.instance, &dialer)),
            dialer,
            change: driver::Change {
                services,
                grace: config.grace,
                summary,
                in_force: told,
            },
        };
        Ok((renewal, in_force))
    }
}

struct Change {
    what: String,
    needs_session: bool,
}

/// What differs. Files of certificates are read again, whether their names differ or not.
fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut note = |what: String, needs_session| {
        changes.push(Change {
            what,
            needs_session,
        })
    };
    if old.link != new.link || old.ca_file != new.ca_file {
        note("the way to the relay".to_owned(), true);
    }
    if old.connections != new.connections {
        note("connections".to_owned(), true);
    }
    for (name, lane) in new.serve.lanes() {
        match old.serve.lanes().find(|(other, _)| *other == name) {
            None => note(format!("{name} is new"), true),
            Some((_, before)) if before == lane => {}
            Some((_, before)) => note(
                format!("{name} is changed"),
                before.window() != lane.window(),
            ),
        }
    }
    for (name, _) in old.serve.lanes() {
        if !new.serve.lanes().any(|(other, _)| other == name) {
            note(format!("{name} is gone"), true);
        }
    }
    if old.allow_targets != new.allow_targets {
        note("limits.allow_targets".to_owned(), false);
    }
    if old.grace != new.grace {
        note("grace".to_owned(), false);
    }
    if old.log.level != new.log.level {
        note("log_level".to_owned(), false);
    }
    changes
}

/// Keys that differ and are heeded only by the next start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("data_dir, journal", old.data != new.data),
        ("observability.listen", old.status != new.status),
        ("log_format", old.log.format != new.log.format),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(key, _)| key).collect()
}

/// A configuration as it is in force: what the start alone heeds is as it was then.
fn with_what_needs_restart(new: Config, old: &Config) -> Config {
    Config {
        data: old.data.clone(),
        status: old.status,
        log: LogConfig {
            format: old.log.format,
            ..new.log
        },
        ..new
    }
}
