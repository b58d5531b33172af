//! `relay-server verify`: the signature debugger and the runner of vector files.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Credentials, PublicKey, Rule, RuleSpec, Scheme, Secret,
    debugger::{Finding, examine},
    http_file, preset, vectors,
};

/// Check a recorded request, or a file of verification vectors.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The request: request line, headers, an empty line, the raw body.
    #[arg(value_name = "REQUEST_FILE", required_unless_present = "vectors")]
    pub request: Option<PathBuf>,

    /// Name of the provider preset, such as stripe.
    #[arg(long, required_unless_present_any = ["vectors", "rule"])]
    pub provider: Option<String>,

    /// A rule of your own instead of a preset, in JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "provider")]
    pub rule: Option<PathBuf>,

    /// File with the secret, several lines for several secrets; or the provider's public key or
    /// certificate.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// A setting the provider needs besides the secret, such as webhook_id=...; repeatable.
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub vars: Vec<String>,

    /// The URL as the provider knows it; matters where the URL is signed.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,

    /// Check as if it were this time, in Unix seconds.
    #[arg(long, value_name = "UNIX")]
    pub now: Option<u64>,

    /// Run all records of a vector file instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["request", "provider", "rule"])]
    pub vectors: Option<PathBuf>,

    /// Judge vectors by the shipped presets instead of by their own rules.
    #[arg(long, requires = "vectors")]
    pub presets: bool,
}

/// Runs the command: exit code 0 when all is valid, 1 when something is not, 2 when it cannot be
/// checked.
pub fn run(args: &VerifyArgs) -> ExitCode {
    let mut out = io::stdout().lock();
    let outcome = match &args.vectors {
        Some(file) => run_vectors(file, args.presets, &mut out),
        None => run_request(args, &mut out),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            // Nothing is left to do when even stderr is gone.
            let _ = writeln!(io::stderr(), "error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn run_vectors(file: &PathBuf, presets: bool, out: &mut dyn Write) -> Result<bool, String> {
    let report = vectors::run(&read(file)?, presets)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    writeln!(out, "{report}").map_err(|error| error.to_string())?;
    Ok(report.mismatches.is_empty())
}

fn run_request(args: &VerifyArgs, out: &mut dyn Write) -> Result<bool, String> {
    let file = args
        .request
        .as_ref()
        .ok_or("name the file with the request")?;
    let request = http_file::parse(&read(file)?, args.public_url.as_deref())
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let scheme = scheme(args)?;
    let credentials = credentials(args, &scheme)?;
    let now_ms = match args.now {
        Some(seconds) => seconds.saturating_mul(1000),
        None => {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }
    };
    let written = match examine(&scheme, &credentials, &request, now_ms) {
        Finding::Valid(verified) => {
            let which = match verified.credential {
                Some(index) if credentials.secrets.len() > 1 => {
                    format!(" (secret {} of {})", index + 1, credentials.secrets.len())
                }
                _ => String::new(),
            };
            writeln!(out, "valid{which}").map(|()| true)
        }
        Finding::Invalid { reason, advice } => {
            let mut text = format!("invalid: {reason}\n");
            for advice in advice {
                text.push_str(&format!("  try: {advice}\n"));
            }
            out.write_all(text.as_bytes()).map(|()| false)
        }
    };
    written.map_err(|error| error.to_string())
}

fn scheme(args: &VerifyArgs) -> Result<Scheme, String> {
    if let Some(file) = &args.rule {
        let spec: RuleSpec = serde_json::from_slice(&read(file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let rule = Rule::compile(&spec).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(Scheme::Own(rule.into()));
    }
    let name = args
        .provider
        .as_deref()
        .ok_or("name the provider with --provider")?;
    preset(name)
        .map(Scheme::Preset)
        .ok_or_else(|| match super::preset::closest(name) {
            Some(closest) => format!("no preset `{name}`; did you mean `{closest}`?"),
            None => format!("no preset `{name}`; docs/providers.md lists them"),
        })
}

fn credentials(args: &VerifyArgs, scheme: &Scheme) -> Result<Credentials, String> {
    let mut credentials = Credentials::default();
    for pair in &args.vars {
        let (name, value) = pair.split_once('=').ok_or("write --var as NAME=VALUE")?;
        credentials.vars.insert(name.to_owned(), value.to_owned());
    }
    let Some(file) = &args.secret_file else {
        return Ok(credentials);
    };
    let text = String::from_utf8(read(file)?)
        .map_err(|_| format!("{}: the secret is not text", file.display()))?;
    let symmetric = scheme.rules().iter().any(Rule::is_symmetric);
    let asymmetric = scheme.rules().iter().any(|rule| !rule.is_symmetric());
    if asymmetric && let Ok(key) = PublicKey::parse(&text) {
        credentials.public_keys.push(key);
    } else if symmetric {
        let lines = text.lines().filter(|line| !line.is_empty());
        credentials.secrets.extend(lines.map(Secret::from_text));
    } else {
        let why = super::InvalidKey;
        return Err(format!("{}: {why}", file.display()));
    }
    Ok(credentials)
}
