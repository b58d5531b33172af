//! The command `serve`: everything from a configuration to exit.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tracing::{info, warn};

use crate::{
    clock::{Clock, SteadyClock, SystemClock},
    config::Config,
    relay::{Relay, StartError, Stores},
    shutdown::Signals,
    store::{Due, Embedded, EmbeddedConfig, Settings, StoreError},
    supervisor, telemetry,
};

/// How long agents get to finish and leave.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
///
/// # Errors
///
/// The relay cannot start, or a vital part of it failed.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    telemetry::init(&config.log_level, config.log_format)?;
    // The first provider of cryptography that is installed stays; ours is the only one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut signals = Signals::take().context("cannot handle signals")?;

    let key = config.key_source().read().map_err(StartError::Key)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stores = open_stores(config, &clock).await?;
    let events = Arc::clone(&stores.events);
    let relay = Relay::bind(config, stores, key, clock).await?;
    announce(&relay, config);

    let text = format!("serving {} at {}", relay.public_url(), relay.public_addr());
    let mut running = relay.start();
    let dispatch = running.dispatch();
    supervisor::ready(&text);
    let failed = tokio::select! {
        () = signals.stop() => false,
        () = running.failed() => true,
        () = supervisor::answer_watchdog(dispatch) => false,
    };
    supervisor::stopping("draining");
    tokio::select! {
        () = running.drain(DRAIN_DEADLINE) => {}
        () = signals.stop() => {
            warn!("asked to stop twice: not waiting for agents");
            events.close().await;
        }
    }
    anyhow::ensure!(
        !failed,
        "a vital part of the relay failed; the log says which"
    );
    Ok(())
}

async fn open_stores(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Stores> {
    let due = Arc::new(Due::default());
    let embedded = EmbeddedConfig {
        segment_bytes: config.store.segment_bytes,
        free_bytes_min: config.store.disk_watermark_bytes,
        event_bytes_max: config.store.event_memory_bytes,
        ..EmbeddedConfig::new(&config.data_dir)
    };
    // Leases and retries must not jump when somebody sets the machine's clock.
    let clock = Arc::new(SteadyClock::new(Arc::clone(clock)));
    let marks = Arc::clone(&due);
    let opened = tokio::task::spawn_blocking(move || Embedded::open(embedded, clock, marks));
    let store = opened.await.context("opening the store panicked")?;
    let store =
        store.with_context(|| format!("cannot open the store in {}", config.data_dir.display()))?;
    Ok(Stores {
        events: store.clone(),
        queries: store.clone(),
        settings: store.clone(),
        keeping: store,
        due,
    })
}

/// Tells people and scripts where the relay listens: two lines on standard output.
fn announce(relay: &Relay, config: &Config) {
    let scheme = if config.tls_cert.is_some() {
        "https"
    } else {
        "http"
    };
    let (public, admin) = (relay.public_addr(), relay.admin_addr());
    info!(%public, %admin, url = relay.public_url(), "the relay is listening");
    // Nobody may be reading; the relay serves all the same.
    let _ = writeln!(
        std::io::stdout(),
        "public {scheme}://{public}\nadmin http://{admin}"
    );
    let _ = std::io::stdout().flush();
}

/// Opens the settings alone, for `init`. Nothing else may have the data directory open.
///
/// # Errors
///
/// The database cannot be opened.
pub async fn open_settings(data_dir: PathBuf) -> Result<Arc<dyn Settings>, StoreError> {
    let open = move || Embedded::open_settings(&data_dir, Arc::new(SystemClock));
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    opened.map_err(|error| StoreError::Unavailable(error.to_string()))
}
