//! `doctor`: walks the way to the relay hop by hop, and to each service, and says of every step what was
//! tried, what was seen and what to do.
//!
//! It dials with what the agent dials with ([`Dialer`], [`Tls`], [`forward`](crate::forward)), so that
//! what works here works there. It opens no session and sends nothing to a service. Where a hop is
//! broken it does not guess about those behind it.

mod check;

mod show;

mod config;

mod secrets;

mod dns;

mod tcp;

mod proxy;

mod tls;

mod certificate;

mod relay;

mod clock;

mod token;

mod websocket;

mod target;

pub use check::{Check, Hop, Report, State};
pub use show::Show;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use self::check::Step;
use crate::{
    args,
    config::{Environment, Inspected, Lane, LinkConfig, Serve, Trust, parse_duration},
    explain::{Code, Failure},
    link::Dialer,
    tls::{Tls, Witness},
};

/// Services that are connected to at the same time.
const TARGETS_MAX: usize = 8;

/// Runs all checks; `tell` hears of each as soon as it is done.
///
/// # Errors
///
/// A [`Failure`] if nothing could be checked. What is wrong with the configuration is in the report.
pub fn run(
    args: &args::Doctor,
    environment: &impl Environment,
    tell: &mut dyn FnMut(&Report, &Check),
) -> Result<Report, Failure> {
    let limit = parse_duration(&args.timeout)
        .map_err(|wrong| Failure::new(Code::ConfigValue, format!("--timeout: {wrong}")))?;
    let inspected = Inspected::load(&args.link, environment);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            let what = format!("the system gives no thread: {error}");
            Failure::new(Code::Resources, what)
        })?;
    let report = runtime.block_on(examine(inspected.as_ref(), limit, tell));
    // A name that still resolves must not hold up the end.
    runtime.shutdown_background();
    Ok(report)
}

/// Checks what was read of a configuration.
pub async fn examine(
    inspected: Result<&Inspected, &Failure>,
    limit: Duration,
    tell: &mut dyn FnMut(&Report, &Check),
) -> Report {
    let mut doctor = Doctor {
        report: Report::new(now()),
        tell,
        until: Instant::now() + limit,
        limit,
    };
    match inspected {
        Ok(inspected) => doctor.examine(inspected).await,
        Err(failure) => {
            doctor.add(config::unusable(failure));
            doctor.skip_all(&Hop::LINK, "the configuration cannot be used");
        }
    }
    doctor.report
}

/// To the second, as people write it.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct Doctor<'a> {
    report: Report,
    tell: &'a mut dyn FnMut(&Report, &Check),
    until: Instant,
    limit: Duration,
}

/// The way to the relay, ready to be walked.
struct Way {
    link: LinkConfig,
    dialer: Dialer,
    witness: Option<Arc<Witness>>,
    /// What the configuration forwards.
    destinations: Vec<String>,
    /// Whether the token is one, rather than a placeholder.
    has_token: bool,
}

impl Way {
    fn new(inspected: &Inspected, tls: Option<&Tls>) -> Result<Self, Failure> {
        let link = inspected.link.clone();
        let watched = link.tls_to_relay(tls)?.map(|tls| tls.watched());
        let (relay_tls, witness) = watched.unzip();
        let destinations = match &inspected.serve {
            Ok(Some(Serve::Destinations(lanes))) => {
                lanes.iter().map(|(name, _)| name.clone()).collect()
            }
            _ => Vec::new(),
        };
        Ok(Self {
            dialer: Dialer::new(link.clone(), relay_tls, tls.cloned()),
            link,
            witness,
            destinations,
            has_token: inspected.token.is_ok(),
        })
    }

    /// The host that is connected to: the proxy's, if there is one.
    fn first_host(&self) -> &str {
        match &self.link.proxy {
            Some(via) => &via.proxy.host,
            None => &self.link.server.host,
        }
    }
}

impl Doctor<'_> {
    async fn examine(&mut self, inspected: &Inspected) {
        let link = &inspected.link;
        self.report.server = Some(link.server.to_string());
        self.report.proxy = link.proxy.as_ref().map(|via| via.proxy.to_string());
        let (tls, way) = match open(inspected) {
            Ok(opened) => opened,
            Err(failure) => {
                self.add(config::unusable(&failure));
                return self.skip_all(&Hop::LINK, "the configuration cannot be used");
            }
        };
        self.add(config::check(inspected));
        self.add(secrets::check(inspected));
        if let Err(broken) = self.walk(&way).await {
            let behind: Vec<_> = Hop::LINK.into_iter().filter(|hop| *hop > broken).collect();
            self.skip_all(&behind, &format!("not tried, because {broken} failed"));
        }
        self.visit_targets(inspected, tls.as_ref()).await;
    }

    /// Walks to the relay. Ends at the first hop that makes what is behind it meaningless.
    async fn walk(&mut self, way: &Way) -> Result<(), Hop> {
        let addresses = self.step(Hop::Dns, dns::check(way)).await?;
        let stream = self.step(Hop::Tcp, tcp::check(way, &addresses)).await?;
        let stream = self.step(Hop::Proxy, proxy::check(way, stream)).await?;
        let stream = self.step(Hop::Tls, tls::check(way, stream)).await?;
        let answer = self.step(Hop::Relay, relay::check(way, stream)).await?;
        self.add(clock::check(&answer));
        self.add(token::check(way, &answer));
        self.add(token::destinations(way, &answer));
        let websocket = async { Step::on(websocket::check(way).await, ()) };
        self.step(Hop::WebSocket, websocket).await
    }

    async fn visit_targets(&mut self, inspected: &Inspected, tls: Option<&Tls>) {
        let allow = &inspected.allow_targets;
        let (until, limit) = (self.until, self.limit);
        let Ok(Some(serve)) = &inspected.serve else {
            return;
        };
        let visits = serve.lanes().map(|(destination, lane)| async move {
            let begun = Instant::now();
            if begun >= until {
                return Check::skipped(Hop::Target, "the time was up").subject(destination);
            }
            let visit = target::check(destination, lane, tls, allow);
            let mut check = match timeout_at(until, visit).await {
                Ok(check) => check,
                Err(_) => Check::out_of_time(Hop::Target, limit).subject(destination),
            };
            check.took(begun.elapsed());
            check
        });
        let mut visits = stream::iter(visits).buffered(TARGETS_MAX);
        while let Some(check) = visits.next().await {
            self.add(check);
        }
    }

    /// Makes one check, within the time there is.
    async fn step<T>(
        &mut self,
        hop: Hop,
        checking: impl Future<Output = Step<T>>,
    ) -> Result<T, Hop> {
        let begun = Instant::now();
        let step = match timeout_at(self.until, checking).await {
            Ok(step) => step,
            Err(_) => Step::stop(Check::out_of_time(hop, self.limit)),
        };
        let Step { mut check, next } = step;
        if check.state != State::Skipped {
            check.took(begun.elapsed());
        }
        self.add(check);
        next.ok_or(hop)
    }

    fn skip_all(&mut self, hops: &[Hop], why: &str) {
        for hop in hops {
            self.add(Check::skipped(*hop, why));
        }
    }

    fn add(&mut self, check: Check) {
        (self.tell)(&self.report, &check);
        self.report.add(check);
    }
}

/// TLS, if anything needs it, and the way to the relay.
fn open(inspected: &Inspected) -> Result<(Option<Tls>, Way), Failure> {
    let needs = |lane: &Lane| lane.target.is_tls() && lane.tls.trust == Trust::System;
    let serve = inspected.serve.as_ref().ok().and_then(Option::as_ref);
    let lanes = serve.into_iter().flat_map(Serve::lanes);
    let needs_tls = inspected.link.needs_tls() || lanes.map(|(_, lane)| lane).any(needs);
    let tls = match needs_tls {
        true => Some(Tls::new(inspected.ca_file.as_deref())?),
        false => None,
    };
    let way = Way::new(inspected, tls.as_ref())?;
    Ok((tls, way))
}
