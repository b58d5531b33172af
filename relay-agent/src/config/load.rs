//! Flags, environment and file become one [`Config`].

mod forward;

mod inspect;

mod proxy;

mod token;

use std::{
    ffi::OsString,
    fmt::Display,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use super::{
    CONNECTIONS_MAX, CertificateFiles, Config, DataConfig, FileConfig, GRACE_DEFAULT,
    LISTENER_DEFAULT, LinkConfig, LogConfig, READY_WITHIN_DEFAULT, Serve, ServerUrl, Token,
    Transport, parse_duration, value::TOKEN_BYTES_MAX,
};
pub use inspect::Inspected;
pub use token::TokenOrigin;

use crate::{
    args::{self, LinkArgs, LogArgs, LogFormat},
    explain::{Code, Failure},
};

/// The longest text of a filter, in bytes.
const FILTER_BYTES_MAX: usize = 64 * 1024;

/// What is read of the process's surroundings, beside flags that already carry the environment.
pub trait Environment {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The name of this machine.
    fn host_name(&self) -> Option<String>;

    /// Everything on the standard input, up to the length of a token.
    fn standard_input(&self) -> std::io::Result<String>;
}

/// The surroundings of this process.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Environment for Process {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    fn host_name(&self) -> Option<String> {
        // Not from /proc, of which a sandbox shows processes only.
        #[cfg(unix)]
        let name = rustix::system::uname()
            .nodename()
            .to_str()
            .ok()
            .map(str::to_owned);
        #[cfg(not(unix))]
        let name: Option<String> = self
            .variable("COMPUTERNAME")
            .and_then(|name| name.into_string().ok());
        let name = name.or_else(|| self.variable("HOSTNAME")?.into_string().ok())?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }

    fn standard_input(&self) -> std::io::Result<String> {
        // It can be read once, but configurations are read again.
        static INPUT: OnceLock<String> = OnceLock::new();
        if let Some(text) = INPUT.get() {
            return Ok(text.clone());
        }
        let mut text = String::new();
        let bytes_max = TOKEN_BYTES_MAX as u64 + 1;
        std::io::stdin().take(bytes_max).read_to_string(&mut text)?;
        Ok(INPUT.get_or_init(|| text).clone())
    }
}

/// Key, value and origin of one setting. Secrets are masked.
pub type Setting = (&'static str, String, &'static str);

/// A configuration, and where each value of it comes from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Key, value and origin of each setting. Secrets are masked.
    pub settings: Vec<Setting>,
}

impl Loaded {
    /// Loads the configuration of `run`.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that ends the command, mostly with exit code 4.
    pub fn run(args: &args::Run, environment: &impl Environment) -> Result<Self, Failure> {
        let (path, file) = find_file(&args.link, environment)?;
        if path.is_none() {
            return Err(
                Failure::new(Code::ConfigFile, "there is no configuration file")
                    .fix("write agent.toml, or name another file with --config"),
            );
        }
        let mut origins = Origins::default();
        let link = way(&args.link, &file, environment, &mut origins)?.with_token()?;
        let allow_targets = forward::allow_targets(&file, &mut origins)?;
        let serve = forward::destinations(&file, &allow_targets, &mut origins)?;
        let connections = connections(args, &file, &mut origins)?;
        let data_dir = match args.data_dir.clone().or(file.data_dir.clone()) {
            Some(path) => path,
            None => state_directory(environment)?,
        };
        let journal = origins.pick("journal", args.journal, file.journal, true);
        origins.note(
            "data_dir",
            data_dir.display(),
            args.data_dir.is_some(),
            file.data_dir.is_some(),
        );
        let status = origins.pick(
            "observability.listen",
            args.observability_listen.clone(),
            file.observability.listen.clone(),
            LISTENER_DEFAULT.to_owned(),
        );
        let ready_within = ready_within(args, &file, &mut origins)?;
        let log = log(&args.log, &file, "info", &mut origins)?;
        let config = Config {
            link,
            ca_file: ca_file(&args.link, &file, &mut origins),
            serve,
            allow_targets,
            connections,
            data: DataConfig::Directory {
                path: data_dir,
                journal,
            },
            status: listener(&status)?,
            ready_within,
            grace: grace(&args.link, &file, &mut origins)?,
            log,
        };
        Ok(Self {
            config,
            file: path,
            settings: origins.0,
        })
    }

    /// Loads the configuration of `listen`. The file is optional, and what it forwards is ignored.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that ends the command, mostly with exit code 4.
    pub fn listen(args: &args::Listen, environment: &impl Environment) -> Result<Self, Failure> {
        let (path, file) = find_file(&args.link, environment)?;
        let mut origins = Origins::default();
        let allow_targets = forward::allow_targets(&file, &mut origins)?;
        let log = LogConfig {
            format: args.log.log_format.unwrap_or(LogFormat::Text),
            ..log(&args.log, &FileConfig::default(), "warn", &mut origins)?
        };
        let lane = Box::new(forward::listen(args, &allow_targets)?);
        let config = Config {
            link: way(&args.link, &file, environment, &mut origins)?.with_token()?,
            ca_file: ca_file(&args.link, &file, &mut origins),
            serve: Serve::Listen {
                sources: args.source.clone(),
                filter: args.filter.as_deref().map(listen_filter).transpose()?,
                lane,
            },
            allow_targets,
            connections: 1,
            data: DataConfig::Memory,
            status: None,
            ready_within: Duration::ZERO,
            grace: grace(&args.link, &file, &mut origins)?,
            log,
        };
        Ok(Self {
            config,
            file: path,
            settings: origins.0,
        })
    }
}

/// Where the local listener of `run` is, for who asks it.
///
/// # Errors
///
/// A [`Failure`] that ends the command: there is none, or the configuration is wrong.
pub fn status_address(
    args: &args::Ask,
    environment: &impl Environment,
) -> Result<SocketAddr, Failure> {
    let place = LinkArgs {
        config: args.config.clone(),
        ..LinkArgs::default()
    };
    let configured = match &args.observability_listen {
        Some(text) => Some(text.clone()),
        None => find_file(&place, environment)?.1.observability.listen,
    };
    let text = configured.unwrap_or_else(|| LISTENER_DEFAULT.to_owned());
    listener(&text)?.ok_or_else(|| {
        let what = "the agent has no local listener: observability.listen is off";
        Failure::new(Code::AgentUnreachable, what)
    })
}

/// How a command that makes one request reaches the relay.
#[derive(Debug)]
pub struct Reach {
    /// The relay and the token.
    pub link: LinkConfig,
    /// Certificates to trust beside those of the operating system.
    pub ca_file: Option<PathBuf>,
}

impl Reach {
    /// Loads it from flags, environment and file, of which none is needed.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that ends the command, mostly with exit code 4.
    pub fn load(args: &LinkArgs, environment: &impl Environment) -> Result<Self, Failure> {
        let (_, file) = find_file(args, environment)?;
        let mut origins = Origins::default();
        Ok(Self {
            link: way(args, &file, environment, &mut origins)?.with_token()?,
            ca_file: ca_file(args, &file, &mut origins),
        })
    }
}

/// What `config check` prints.
impl Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some(path) => writeln!(f, "configuration is valid: {}", path.display())?,
            None => writeln!(f, "configuration is valid: no file")?,
        }
        for (key, value, origin) in &self.settings {
            write!(f, "\n{key:<22} {value}  ({origin})")?;
        }
        Ok(())
    }
}

/// Notes where each value comes from, for `config check`.
#[derive(Debug, Default)]
struct Origins(Vec<Setting>);

impl Origins {
    fn pick<T: Display>(
        &mut self,
        key: &'static str,
        flag: Option<T>,
        file: Option<T>,
        default: T,
    ) -> T {
        let (flagged, filed) = (flag.is_some(), file.is_some());
        let value = flag.or(file).unwrap_or(default);
        self.note(key, &value, flagged, filed);
        value
    }

    fn note(&mut self, key: &'static str, value: impl Display, flagged: bool, filed: bool) {
        let origin = match (flagged, filed) {
            (true, _) => "flag or environment",
            (false, true) => "file",
            (false, false) => "default",
        };
        self.0.push((key, value.to_string(), origin));
    }
}

fn find_file(
    args: &LinkArgs,
    environment: &impl Environment,
) -> Result<(Option<PathBuf>, FileConfig), Failure> {
    let path = match &args.config {
        Some(path) => Some(path.clone()),
        None => default_files(environment)
            .into_iter()
            .find(|path| path.exists()),
    };
    let Some(path) = path else {
        return Ok((None, FileConfig::default()));
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(
            Code::ConfigFile,
            format!("cannot read {}: {error}", path.display()),
        )
    })?;
    let file = FileConfig::parse(&text, &path)?;
    Ok((Some(path), file))
}

fn default_files(environment: &impl Environment) -> Vec<PathBuf> {
    let home = environment.variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&environment.variable("HOME")?).join(".config")));
    home.into_iter()
        .chain([PathBuf::from("/etc")])
        .map(|directory| directory.join("hookferry/agent.toml"))
        .collect()
}

fn state_directory(environment: &impl Environment) -> Result<PathBuf, Failure> {
    // systemd gives a list when the unit asks for several directories; the first is ours.
    if let Some(list) = environment.variable("STATE_DIRECTORY")
        && let Some(first) = std::env::split_paths(&list).next()
    {
        return Ok(first);
    }
    let state = environment.variable("XDG_STATE_HOME").map(PathBuf::from);
    let state =
        state.or_else(|| Some(Path::new(&environment.variable("HOME")?).join(".local/state")));
    let state = state.ok_or_else(|| {
        Failure::new(
            Code::ConfigValue,
            "there is no place for the agent's id and journal",
        )
        .fix("set data_dir, for instance to /var/lib/hookferry-agent")
    })?;
    Ok(state.join("hookferry/agent"))
}

/// The way to the relay, whether or not there is a token for it.
struct Way {
    /// Its token is a placeholder if none was found.
    link: LinkConfig,
    token: Result<TokenOrigin, Failure>,
}

impl Way {
    fn with_token(self) -> Result<LinkConfig, Failure> {
        self.token.map(|_| self.link)
    }
}

fn way(
    args: &LinkArgs,
    file: &FileConfig,
    environment: &impl Environment,
    origins: &mut Origins,
) -> Result<Way, Failure> {
    let Some(server) = args.server.as_ref().or(file.server.as_ref()) else {
        return Err(
            Failure::new(Code::ConfigValue, "the address of the relay is missing")
                .fix("give --server https://relay.example.com, or set server in agent.toml"),
        );
    };
    origins.note(
        "server",
        server,
        args.server.is_some(),
        file.server.is_some(),
    );
    let server: ServerUrl = valid("server", server)?;
    let allow_plain_http = args.allow_plain_http || file.allow_plain_http.unwrap_or(false);
    origins.note(
        "allow_plain_http",
        allow_plain_http,
        args.allow_plain_http,
        file.allow_plain_http.is_some(),
    );
    if !server.tls && !server.is_loopback() && !allow_plain_http {
        return Err(Failure::new(
            Code::ConfigValue,
            format!("server: {server} is not encrypted, and not on this machine"),
        )
        .fix("use https://, or allow it with --allow-plain-http: everybody on the way can read the token"));
    }
    let name = environment
        .host_name()
        .unwrap_or_else(|| "agent".to_owned());
    let name = origins.pick("name", args.name.clone(), file.name.clone(), name);
    let (token, origin) = match token::find(args, file, environment) {
        Ok((token, origin)) => {
            origins.0.push(("token", "***".to_owned(), origin.name()));
            (token, Ok(origin))
        }
        Err(failure) => (Token::placeholder(), Err(failure)),
    };
    let proxy = proxy::find(args, file, &server, environment, origins)?;
    let client_certificate = client_certificate(args, file, origins)?;
    let transport = origins.pick(
        "transport",
        args.transport,
        file.transport,
        Transport::default(),
    );
    let link = LinkConfig {
        server,
        token,
        name,
        proxy,
        client_certificate,
        transport,
    };
    Ok(Way {
        link,
        token: origin,
    })
}

fn ca_file(args: &LinkArgs, file: &FileConfig, origins: &mut Origins) -> Option<PathBuf> {
    let path = args.ca_file.clone().or(file.tls.ca_file.clone())?;
    origins.note("tls.ca_file", path.display(), args.ca_file.is_some(), true);
    Some(path)
}

fn client_certificate(
    args: &LinkArgs,
    file: &FileConfig,
    origins: &mut Origins,
) -> Result<Option<CertificateFiles>, Failure> {
    let certificate = args.client_cert_file.clone();
    let certificate = certificate.or(file.tls.client_cert_file.clone());
    let key = args.client_key_file.clone();
    let key = key.or(file.tls.client_key_file.clone());
    let files = certificate_pair("tls.", certificate, key)?;
    if let Some(CertificateFiles { certificate, key }) = &files {
        let is_flag = args.client_cert_file.is_some();
        origins.note("tls.client_cert_file", certificate.display(), is_flag, true);
        let is_flag = args.client_key_file.is_some();
        origins.note("tls.client_key_file", key.display(), is_flag, true);
    }
    Ok(files)
}

/// A certificate and its key, or neither. `table` is where their keys are.
fn certificate_pair(
    table: &str,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<CertificateFiles>, Failure> {
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(CertificateFiles { certificate, key })),
        (Some(_), None) => Err(invalid(
            &format!("{table}client_key_file"),
            "a client certificate needs its key".to_owned(),
        )),
        (None, Some(_)) => Err(invalid(
            &format!("{table}client_cert_file"),
            "there is a key but no client certificate".to_owned(),
        )),
    }
}

fn listener(text: &str) -> Result<Option<SocketAddr>, Failure> {
    match text {
        "off" => Ok(None),
        address => valid("observability.listen", address).map(Some),
    }
}

fn ready_within(
    args: &args::Run,
    file: &FileConfig,
    origins: &mut Origins,
) -> Result<Duration, Failure> {
    let key = "observability.ready_within";
    let flag = args.observability_ready_within.clone();
    let default = format!("{}s", READY_WITHIN_DEFAULT.as_secs());
    let text = origins.pick(key, flag, file.observability.ready_within.clone(), default);
    match text.as_str() {
        "0s" => Ok(Duration::ZERO),
        text => parse_duration(text).map_err(|wrong| invalid(key, wrong)),
    }
}

/// `-q` and `-v` are the nearest to who types them, and win.
fn log(
    args: &LogArgs,
    file: &FileConfig,
    default: &str,
    origins: &mut Origins,
) -> Result<LogConfig, Failure> {
    let typed = match (args.quiet, args.verbose) {
        (true, _) => Some("warn"),
        (false, 0) => None,
        (false, 1) => Some("debug"),
        (false, _) => Some("trace"),
    };
    let flag = typed.map(str::to_owned).or(args.log_level.clone());
    let level = origins.pick(
        "log_level",
        flag,
        file.log_level.clone(),
        default.to_owned(),
    );
    Ok(LogConfig {
        level: valid("log_level", &level)?,
        format: args
            .log_format
            .or(file.log_format)
            .unwrap_or(LogFormat::Auto),
        color: args.color,
    })
}

fn connections(args: &args::Run, file: &FileConfig, origins: &mut Origins) -> Result<u32, Failure> {
    let connections = origins.pick("connections", args.connections, file.connections, 1);
    if !(1..=CONNECTIONS_MAX).contains(&connections) {
        let wrong = format!("{connections} is not between 1 and {CONNECTIONS_MAX}");
        return Err(invalid("connections", wrong));
    }
    Ok(connections)
}

fn grace(args: &LinkArgs, file: &FileConfig, origins: &mut Origins) -> Result<Duration, Failure> {
    let default = format!("{}s", GRACE_DEFAULT.as_secs());
    let text = origins.pick("grace", args.grace.clone(), file.grace.clone(), default);
    parse_duration(&text).map_err(|wrong| invalid("grace", wrong))
}

/// The filter of `listen`: JSON, or a file of it. What it means is the relay's to judge.
fn listen_filter(text: &str) -> Result<serde_json::Value, Failure> {
    let wrong = |wrong: String| invalid("--filter", wrong);
    let document = match text.strip_prefix('@') {
        Some(path) => token::read_start(Path::new(path), FILTER_BYTES_MAX)
            .map_err(|error| wrong(format!("{path}: {error}")))?,
        None => text.to_owned(),
    };
    if document.len() > FILTER_BYTES_MAX {
        return Err(wrong(format!("it is longer than {FILTER_BYTES_MAX} bytes")));
    }
    serde_json::from_str(&document).map_err(|error| wrong(format!("it is no JSON: {error}")))
}

fn valid<T: FromStr<Err: Display>>(key: &str, text: &str) -> Result<T, Failure> {
    text.parse()
        .map_err(|wrong: T::Err| invalid(key, wrong.to_string()))
}

fn invalid(key: &str, wrong: String) -> Failure {
    Failure::new(Code::ConfigValue, format!("{key}: {wrong}"))
}

#[cfg(test)]
mod tests;
