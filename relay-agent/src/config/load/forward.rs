//! What goes where: `[[forward]]`, `[limits]`, and the target of `listen`.

use http::{HeaderValue, uri};

use super::{Origins, certificate_pair, invalid, valid};
use crate::{
    args,
    config::{
        CONCURRENCY_DEFAULT, CONCURRENCY_MAX, FileConfig, ForwardConfig, Lane, Serve, ServiceTls,
        TIMEOUT_DEFAULT, Trust, WINDOW_BYTES_DEFAULT, parse_duration,
    },
    explain::{Code, Failure},
    forward::{AllowTargets, Target},
};

/// What may be called at all.
pub(super) fn allow_targets(
    file: &FileConfig,
    origins: &mut Origins,
) -> Result<AllowTargets, Failure> {
    let key = "limits.allow_targets";
    let allow = match &file.limits.allow_targets {
        Some(entries) => AllowTargets::parse(entries).map_err(|wrong| invalid(key, wrong))?,
        None => AllowTargets::default(),
    };
    origins.note(key, &allow, false, file.limits.allow_targets.is_some());
    Ok(allow)
}

/// What `run` serves.
pub(super) fn destinations(
    file: &FileConfig,
    allow: &AllowTargets,
    origins: &mut Origins,
) -> Result<Serve, Failure> {
    if file.forward.is_empty() {
        return Err(
            Failure::new(Code::ConfigValue, "there is nothing to forward")
                .fix("add a [[forward]] with destination and to"),
        );
    }
    if file.forward.len() > protocol::limits::DESTINATIONS_MAX {
        let most = protocol::limits::DESTINATIONS_MAX;
        return Err(invalid(
            "forward",
            format!("one agent serves at most {most} destinations"),
        ));
    }
    let window_bytes = window_bytes(file, origins)?;
    let mut lanes: Vec<(String, Lane)> = Vec::new();
    for entry in &file.forward {
        let name = &entry.destination;
        if name.is_empty() || lanes.iter().any(|(other, _)| other == name) {
            return Err(invalid(
                "forward",
                format!("destination {name:?} is empty or named twice"),
            ));
        }
        let lane = lane(&format!("forward {name}: "), entry, window_bytes, allow)?;
        origins
            .0
            .push(("forward", format!("{name} -> {}", shown(&lane)), "file"));
        lanes.push((name.clone(), lane));
    }
    Ok(Serve::Destinations(lanes))
}

/// What `listen` serves.
pub(super) fn listen(args: &args::Listen, allow: &AllowTargets) -> Result<Lane, Failure> {
    let url = listen_url(args)?;
    // Checked here for the better message; below it would be called `to`.
    valid::<Target>("PORT|URL", &url)?;
    let entry = ForwardConfig {
        to: url,
        timeout: args.timeout.clone(),
        concurrency: args.concurrency,
        insecure: args.insecure_target.then_some(true),
        ..ForwardConfig::default()
    };
    lane("", &entry, WINDOW_BYTES_DEFAULT, allow)
}

fn window_bytes(file: &FileConfig, origins: &mut Origins) -> Result<u64, Failure> {
    let key = "limits.window_bytes";
    let configured = file.limits.window_bytes;
    let window_bytes = configured.unwrap_or(WINDOW_BYTES_DEFAULT);
    origins.note(key, window_bytes, false, configured.is_some());
    if !(64 * 1024..=1 << 30).contains(&window_bytes) {
        let wrong = "expected 65536 (64 KiB) to 1073741824 (1 GiB)";
        return Err(invalid(key, wrong.to_owned()));
    }
    Ok(window_bytes)
}

/// One entry. `table` stands before its keys when something is wrong with them.
fn lane(
    table: &str,
    entry: &ForwardConfig,
    window_bytes: u64,
    allow: &AllowTargets,
) -> Result<Lane, Failure> {
    let invalid = |key: &str, wrong: String| invalid(&format!("{table}{key}"), wrong);
    let concurrency = entry.concurrency.unwrap_or(CONCURRENCY_DEFAULT);
    if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
        let wrong = format!("{concurrency} is not between 1 and {CONCURRENCY_MAX}");
        return Err(invalid("concurrency", wrong));
    }
    let timeout = match &entry.timeout {
        Some(text) => parse_duration(text).map_err(|wrong| invalid("timeout", wrong))?,
        None => TIMEOUT_DEFAULT,
    };
    let target: Target = valid(&format!("{table}to"), &entry.to)?;
    allow
        .check(&target)
        .map_err(|wrong| invalid("to", wrong).fix("correct the URL, or limits.allow_targets"))?;
    Ok(Lane {
        host: host(entry).map_err(|wrong| invalid("host", wrong))?,
        tls: tls(table, entry, &target)?,
        target,
        concurrency,
        timeout,
        window_bytes,
    })
}

fn host(entry: &ForwardConfig) -> Result<Option<HeaderValue>, String> {
    let Some(host) = &entry.host else {
        return Ok(None);
    };
    let is_host = host.parse::<uri::Authority>().is_ok() && !host.contains('@');
    let value = HeaderValue::from_str(host).ok().filter(|_| is_host);
    let wrong = || format!("{host:?} is not a host such as app.example.com or app:8080");
    value.map(Some).ok_or_else(wrong)
}

fn tls(table: &str, entry: &ForwardConfig, target: &Target) -> Result<ServiceTls, Failure> {
    let insecure = entry.insecure.unwrap_or(false);
    let given = [
        ("ca_file", entry.ca_file.is_some()),
        ("client_cert_file", entry.client_cert_file.is_some()),
        ("client_key_file", entry.client_key_file.is_some()),
        ("insecure", insecure),
    ];
    if let Some((key, _)) = given.iter().find(|(_, is_given)| *is_given)
        && !target.is_tls()
    {
        let wrong = format!("it means nothing for {target}, which speaks no TLS");
        return Err(invalid(&format!("{table}{key}"), wrong));
    }
    let trust = match (&entry.ca_file, insecure) {
        (Some(_), true) => {
            let wrong = "with ca_file the certificate is verified; with insecure = true it is not";
            return Err(invalid(&format!("{table}insecure"), wrong.to_owned()));
        }
        (Some(path), false) => Trust::Only(path.clone()),
        (None, true) => Trust::Anybody,
        (None, false) => Trust::System,
    };
    let (certificate, key) = (&entry.client_cert_file, &entry.client_key_file);
    Ok(ServiceTls {
        trust,
        client_certificate: certificate_pair(table, certificate.clone(), key.clone())?,
    })
}

/// A lane for people.
fn shown(lane: &Lane) -> String {
    let mut shown = format!(
        "{}, {} at a time, {} ms",
        lane.target,
        lane.concurrency,
        lane.timeout.as_millis()
    );
    if let Some(host) = lane.host.as_ref().and_then(|host| host.to_str().ok()) {
        shown.push_str(&format!(", as {host}"));
    }
    match &lane.tls.trust {
        Trust::System => {}
        Trust::Only(path) => shown.push_str(&format!(", trusting {} only", path.display())),
        Trust::Anybody => shown.push_str(", INSECURE: its certificate is not verified"),
    }
    if let Some(files) = &lane.tls.client_certificate {
        shown.push_str(&format!(", showing {}", files.certificate.display()));
    }
    shown
}

/// The URL of the service: a port alone means this machine.
fn listen_url(args: &args::Listen) -> Result<String, Failure> {
    let is_whole = args.target.contains("://") || args.target.starts_with("unix:");
    let url = match args.target.parse::<u16>() {
        Ok(port) => format!("http://127.0.0.1:{port}"),
        Err(_) if is_whole => args.target.clone(),
        Err(_) => format!("http://{}", args.target),
    };
    let Some(path) = &args.path else {
        return Ok(url);
    };
    if !path.starts_with('/') {
        return Err(invalid("--path", format!("{path:?} must start with /")));
    }
    // A socket ends where `:/` begins a path.
    let socket = url.strip_prefix("unix:");
    let is_bare_socket = socket.is_some_and(|rest| !rest.contains(":/"));
    let colon = if is_bare_socket { ":" } else { "" };
    Ok(format!("{}{colon}{path}", url.trim_end_matches('/')))
}
