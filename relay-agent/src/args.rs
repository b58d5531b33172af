//! The command line. Every flag `--foo-bar` is also `HOOKFERRY_FOO_BAR`; flags win.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::config::Transport;

/// Brings webhooks to services that no provider can reach.
#[derive(Debug, Parser)]
#[command(
    name = "relay-agent",
    version,
    about,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring events of some sources to a port or URL of this machine, until ^C
    ///
    /// The relay makes an expiring destination for it, so production agents keep their events.
    #[command(after_help = "Examples:\n  \
        relay-agent listen 3000 --source github --server https://relay.example.com --token-file token\n  \
        relay-agent listen http://localhost:8080/hook --source '*' --output json")]
    Listen(Listen),
    /// Send a test event of a source: the relay signs it as the provider would, and delivers it
    ///
    /// It goes to every destination of the source. The secret stays on the relay.
    #[command(after_help = "Examples:\n  \
        relay-agent send stripe --event charge.succeeded\n  \
        relay-agent send github --event push --data @push.json")]
    Send(Send),
    /// Serve the destinations of agent.toml, as a service
    Run(Run),
    /// Check every step of the way to the relay and to the services, and say what is wrong
    ///
    /// It opens no session and sends nothing to a service.
    #[command(
        after_help = "Exit codes: 0 nothing failed, else that of the first failure: 1 clock, services; \
        3 token; 4 configuration; 5 relay not reachable"
    )]
    Doctor(Doctor),
    /// Tell by the exit code whether the agent of this machine is connected: 0 or 1
    ///
    /// For containers: HEALTHCHECK CMD ["relay-agent", "ready"].
    Ready(Ask),
    /// Show how the agent of this machine is
    Status(StatusArgs),
    /// Set the agent up as a service of this machine, and look after it
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Explain an error code
    Explain {
        /// Such as E-TLS; all are listed without one
        code: Option<String>,
    },
    /// Show the version
    Version,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check it, and show each value and where it comes from
    Check(Run),
}

/// What to do with the service.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Write the unit, enable it and start it; files that are there already are never overwritten
    ///
    /// It reads /etc/hookferry/agent.toml, which has to be there. The token is kept in
    /// /etc/hookferry/agent.token, readable by root only.
    #[command(after_help = "Examples:\n  \
        sudo relay-agent service install --token-file agent.token\n  \
        relay-agent service install --dry-run\n  \
        relay-agent service install --dry-run --for launchd")]
    Install(Install),
    /// Stop it, disable it and remove the unit; configuration, token and data stay
    Uninstall(ServiceUnit),
    /// Show what systemd knows of it
    Status(ServiceUnit),
    /// Show its log
    Logs(ServiceLogs),
}

/// `relay-agent service install`.
#[derive(Debug, ClapArgs)]
pub struct Install {
    /// Which service.
    #[command(flatten)]
    pub unit: ServiceUnit,
    /// What runs services: systemd is set up, for the others the text is printed
    #[arg(long = "for", value_enum)]
    pub manager: Option<Manager>,
    /// Configuration file, by its absolute path [default: /etc/hookferry/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File with the agent token; it is copied
    #[arg(long, value_name = "FILE", conflicts_with = "token_stdin")]
    pub token_file: Option<PathBuf>,
    /// Read the agent token from the standard input
    #[arg(long)]
    pub token_stdin: bool,
}

/// Which service, and whether to touch it.
#[derive(Debug, ClapArgs)]
pub struct ServiceUnit {
    /// A service of this user instead of the whole machine
    #[arg(long)]
    pub user: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `relay-agent service logs`.
#[derive(Debug, ClapArgs)]
pub struct ServiceLogs {
    /// Which service.
    #[command(flatten)]
    pub unit: ServiceUnit,
    /// Go on until ^C
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines, the newest ones
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: u32,
}

/// What runs services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Manager {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
    /// The task scheduler of Windows.
    Windows,
}

/// `relay-agent listen`.
#[derive(Debug, ClapArgs)]
pub struct Listen {
    /// Where the service listens: a port of this machine, or a URL
    #[arg(value_name = "PORT|URL", default_value = "3000")]
    pub target: String,
    /// Sources to receive, separated by commas; '*' for all
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        required = true,
        env = "HOOKFERRY_SOURCE"
    )]
    pub source: Vec<String>,
    /// Which of their events, in JSON, such as '{"body": {"type": "order.paid"}}' (docs/filters.md)
    #[arg(long, value_name = "JSON|@FILE")]
    pub filter: Option<String>,
    /// Path of the service, put between its address and the path of the request
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Take whatever certificate the service shows: for one of this machine that made its own
    #[arg(long)]
    pub insecure_target: bool,
    /// An interactive screen (tui), one line an event (compact), one JSON object an event (json), or only
    /// problems (quiet) [default: tui on a terminal, else compact]
    #[arg(short, long, value_enum, env = "HOOKFERRY_OUTPUT")]
    pub output: Option<Output>,
    /// How to reach the relay.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Forwards at the same time
    #[arg(long, value_name = "N", env = "HOOKFERRY_CONCURRENCY")]
    pub concurrency: Option<u32>,
    /// Time the service has to answer, such as 30s
    #[arg(long, value_name = "TIME", env = "HOOKFERRY_TIMEOUT")]
    pub timeout: Option<String>,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `relay-agent send`.
#[derive(Debug, ClapArgs)]
pub struct Send {
    /// Source to send as, by name
    pub source: String,
    /// What the provider calls this kind of event, such as charge.succeeded
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,
    /// The body: a text, @FILE, or - for the standard input [default: what the provider sends]
    #[arg(long, value_name = "TEXT|@FILE|-")]
    pub data: Option<String>,
    /// What the body is
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Path and query below the source's URL
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// How to reach the relay.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// `relay-agent doctor`.
#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// Print one JSON object instead of text; its shape is stable
    #[arg(long)]
    pub json: bool,
    /// How long all checks may take together, such as 30s
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: String,
    /// How to reach the relay.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// `relay-agent run` and `relay-agent config check`.
#[derive(Debug, Default, ClapArgs)]
pub struct Run {
    /// How to reach the relay.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Where the agent keeps its id and its journal
    #[arg(long, value_name = "DIR", env = "HOOKFERRY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Sessions to have at the same time (1 to 8), on different relays if there are several
    #[arg(long, value_name = "N", env = "HOOKFERRY_CONNECTIONS")]
    pub connections: Option<u32>,
    /// Keep outcomes on disk until the relay has confirmed them
    #[arg(long, value_name = "BOOL", env = "HOOKFERRY_JOURNAL")]
    pub journal: Option<bool>,
    /// Address of /livez, /readyz, /status and /metrics, or "off"
    #[arg(long, value_name = "ADDRESS", env = "HOOKFERRY_OBSERVABILITY_LISTEN")]
    pub observability_listen: Option<String>,
    /// How long to wait for the first session before systemd is told that the agent is ready, such as 60s
    #[arg(
        long,
        value_name = "TIME",
        env = "HOOKFERRY_OBSERVABILITY_READY_WITHIN"
    )]
    pub observability_ready_within: Option<String>,
    /// What is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What is logged, and how.
#[derive(Debug, Default, ClapArgs)]
pub struct LogArgs {
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "HOOKFERRY_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Text, JSON, or JSON unless it is a terminal
    #[arg(long, value_enum, env = "HOOKFERRY_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Tell more: once debug, twice trace
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Tell problems only
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Colours: on a terminal, always or never
    #[arg(long, value_enum, env = "HOOKFERRY_COLOR", default_value = "auto")]
    pub color: Color,
}

/// `relay-agent ready` and `relay-agent status`.
#[derive(Debug, ClapArgs)]
pub struct Ask {
    /// Configuration file of the agent [default: as of `run`]
    #[arg(long, value_name = "FILE", env = "HOOKFERRY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Its local listener [default: as configured]
    #[arg(long, value_name = "ADDRESS", env = "HOOKFERRY_OBSERVABILITY_LISTEN")]
    pub observability_listen: Option<String>,
}

/// `relay-agent status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// Which agent.
    #[command(flatten)]
    pub ask: Ask,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ReportFormat,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR or TERM=dumb say otherwise; elsewhere with CLICOLOR_FORCE.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What `listen` and `run` share.
#[derive(Debug, Default, ClapArgs)]
pub struct LinkArgs {
    /// Configuration file [default: $XDG_CONFIG_HOME/hookferry/agent.toml, /etc/hookferry/agent.toml]
    #[arg(long, value_name = "FILE", env = "HOOKFERRY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of the relay, such as https://relay.example.com
    #[arg(long, value_name = "URL", env = "HOOKFERRY_SERVER")]
    pub server: Option<String>,
    /// File that holds the agent token
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKFERRY_TOKEN_FILE",
        hide_env_values = true
    )]
    pub token_file: Option<PathBuf>,
    /// Read the agent token from the standard input
    #[arg(long)]
    pub token_stdin: bool,
    /// What people call this agent [default: the host name]
    #[arg(long, env = "HOOKFERRY_NAME")]
    pub name: Option<String>,
    /// CA certificates (PEM) to trust beside those of the operating system
    #[arg(
        long,
        visible_alias = "ca",
        value_name = "FILE",
        env = "HOOKFERRY_CA_FILE"
    )]
    pub ca_file: Option<PathBuf>,
    /// Certificate (PEM) to show to the relay
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKFERRY_CLIENT_CERT_FILE",
        hide_env_values = true
    )]
    pub client_cert_file: Option<PathBuf>,
    /// Key (PEM) of the certificate
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKFERRY_CLIENT_KEY_FILE",
        hide_env_values = true
    )]
    pub client_key_file: Option<PathBuf>,
    /// Proxy to the relay, or "off": http, https, socks5 or socks5h [env: HOOKFERRY_PROXY,
    /// HTTPS_PROXY, ALL_PROXY; NO_PROXY]
    // Not clap's env: a password may stand in the environment, but not on the command line.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// File that holds the password of the proxy's user
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKFERRY_PROXY_PASSWORD_FILE",
        hide_env_values = true
    )]
    pub proxy_password_file: Option<PathBuf>,
    /// What carries the session: a WebSocket, requests where none gets through (poll), or what works
    #[arg(long, value_enum, env = "HOOKFERRY_TRANSPORT")]
    pub transport: Option<Transport>,
    /// Let the token travel unencrypted to a relay that is not on this machine
    #[arg(long, env = "HOOKFERRY_ALLOW_PLAIN_HTTP")]
    pub allow_plain_http: bool,
    /// How long to finish what is in hand when asked to stop, such as 20s
    #[arg(long, value_name = "TIME", env = "HOOKFERRY_GRACE")]
    pub grace: Option<String>,
}

/// How `listen` shows events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// An interactive screen.
    Tui,
    /// One line for people.
    Compact,
    /// One JSON object a line.
    Json,
    /// Nothing but problems.
    Quiet,
}

/// How `run` logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_flag_takes_a_token() {
        let arguments = [
            "relay-agent",
            "listen",
            "3000",
            "--source",
            "a",
            "--token",
            "x",
        ];
        assert!(Args::try_parse_from(arguments).is_err());
    }

    #[test]
    fn sources_are_separated_by_commas() {
        let arguments = ["relay-agent", "listen", "--source", "github,stripe"];
        let Command::Listen(listen) = Args::try_parse_from(arguments).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(listen.source, ["github", "stripe"]);
        assert_eq!(listen.target, "3000");
    }
}
