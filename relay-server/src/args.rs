//! The command line.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::{
    config::{KEYS, Overrides, Shape},
    verify::command::VerifyArgs,
};

/// Accepts providers' webhooks, keeps them safe, and hands them to agents in private networks.
#[derive(Debug, Parser)]
#[command(
    name = "relay-server",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 not authorised, 4 configuration not valid, 5 relay not reachable"
)]
pub struct Cli {
    /// The configuration file [default: /etc/hookferry/server.toml, if it exists].
    #[arg(
        long,
        global = true,
        help_heading = "Relay",
        value_name = "FILE",
        env = "HOOKFERRY_CONFIG"
    )]
    pub config: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay.
    #[command(after_help = VARIABLES)]
    Serve(ServeArgs),
    /// Create data directory, key, configuration file and the operator's first token.
    Init(InitArgs),
    /// Look at the configuration without starting anything.
    Config(ConfigArgs),
    /// Manage tenants (operators only).
    Tenant(ForRelay<TenantCommand>),
    /// Manage sources: public URLs that providers post to.
    Source(ForRelay<SourceCommand>),
    /// Manage destinations: named queues that agents serve.
    Destination(ForRelay<DestinationCommand>),
    /// Manage routes from sources to destinations.
    Route(ForRelay<RouteCommand>),
    /// Manage tokens of agents and people.
    Token(ForRelay<TokenCommand>),
    /// Make sources, destinations and routes be as a file declares them.
    #[command(after_help = APPLY)]
    Apply(ApplyArgs),
    /// See who did what.
    Audit(ForRelay<AuditCommand>),
    /// Manage the key that encrypts secrets at rest (operators only).
    SecretKey(ForRelay<SecretKeyCommand>),
    /// List, show, explain and replay events.
    Events(ForRelay<EventsCommand>),
    /// List deliveries and their attempts.
    Deliveries(ForRelay<DeliveriesCommand>),
    /// Erase events for good, and list what was erased.
    Erase(ForRelay<EraseCommand>),
    /// List and show dead letters: what policy gave up.
    DeadLetters(ForRelay<DeadLettersCommand>),
    /// Deliver many events again: create, watch, pause, resume, cancel.
    Replays(ForRelay<ReplaysCommand>),
    /// Look at the data on this machine's disk, and mend it.
    Store(StoreArgs),
    /// Copy the data to a file, also while a relay runs on it.
    #[command(
        after_help = "The key file is not in it: back that up apart. To compress or to send it elsewhere:\n  \
        relay-server backup - | zstd | ssh backup.example.com 'cat > hookferry.tar.zst'"
    )]
    Backup(BackupArgs),
    /// Make a data directory of a backup.
    Restore(RestoreArgs),
    /// Check the signature of a recorded request.
    Verify(VerifyArgs),
    /// Explain an error code.
    Explain {
        /// The code, such as E-SIGNATURE; all are listed without one.
        code: Option<String>,
    },
    /// Print the version.
    Version,
}

const VARIABLES: &str = "Every flag --foo-bar is also the variable HOOKFERRY_FOO_BAR and, in the file, the key foo_bar \
(--limits-connections-max is connections_max in the table [limits]). Flags win over variables, variables over the file.";

/// Run the relay.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Settings that win over variables and file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Create what a relay needs.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where everything durable will be [default: /var/lib/hookferry].
    #[arg(long, value_name = "DIR", env = "HOOKFERRY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Write the operator's token to a new file, readable for you alone, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Which data, and how to show what was found.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Where the data is [default: data_dir of the configuration, /var/lib/hookferry].
    #[arg(long, global = true, value_name = "DIR", env = "HOOKFERRY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// How answers are shown.
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    pub output: Output,
}

/// Look at the data, and mend it.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Which data.
    #[command(flatten)]
    pub data: DataArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// Look at the data, and mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum StoreCommand {
    /// Read everything and compare checksums; a relay may run meanwhile. Exit code 1 if anything is damaged.
    Check,
    /// Show how much is stored, and in what; a relay may run meanwhile.
    Stats,
    /// Copy what can be read out of damaged files, note what is lost, and set the files aside. Stop the relay first.
    Repair,
    /// Make the lists anew from the journal. Stop the relay first.
    Rebuild,
}

/// Copy the data.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write, which must not exist; `-` is standard output.
    pub file: PathBuf,
    /// Which data.
    #[command(flatten)]
    pub data: DataArgs,
}

/// Bring a copy back.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup; `-` is standard input.
    pub file: PathBuf,
    /// Into which directory: missing, or empty but for the key file.
    #[command(flatten)]
    pub data: DataArgs,
}

/// Look at the configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// Look at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the configuration is valid, and which file was read.
    Check(ServeArgs),
    /// Show every setting and who set it.
    #[command(after_help = VARIABLES)]
    Show(ServeArgs),
}

/// A command that talks to a running relay.
#[derive(Debug, Args)]
pub struct ForRelay<C: Subcommand> {
    /// How to reach the relay.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: C,
}

/// How to reach a relay, and how to show its answers.
#[derive(Debug, Args)]
pub struct Connection {
    /// The relay's admin listener.
    #[arg(
        long,
        global = true,
        help_heading = "Relay",
        value_name = "URL",
        env = "HOOKFERRY_SERVER",
        default_value = "http://127.0.0.1:9090"
    )]
    pub server: String,

    /// The file that holds your API token.
    #[arg(
        long,
        global = true,
        help_heading = "Relay",
        value_name = "FILE",
        env = "HOOKFERRY_TOKEN_FILE",
        hide_env_values = true
    )]
    pub token_file: Option<PathBuf>,

    /// The tenant to act for; an operator's token needs it.
    #[arg(
        long,
        global = true,
        help_heading = "Relay",
        value_name = "NAME",
        env = "HOOKFERRY_TENANT"
    )]
    pub tenant: Option<String>,

    /// How to print answers. The JSON is the API's.
    #[arg(short, long, global = true, help_heading = "Relay", value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Text,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Ndjson,
}

/// The part of a list to show.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Rows to show, 1 to 250.
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,

    /// Where to go on; the previous page names it.
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

/// Manage tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant.
    Create {
        /// Its name.
        name: String,
    },
    /// List tenants.
    List(PageArgs),
    /// Show a tenant.
    Get {
        /// Name or id.
        tenant: String,
    },
    /// Change how much of the relay a tenant gets. What is not named stays as it is.
    Update {
        /// Name or id.
        tenant: String,
        /// Deliveries a second, over all destinations; 0 takes the limit away.
        #[arg(long, value_name = "N")]
        rate_per_second: Option<u32>,
        /// What it may bring, and how long it is kept.
        #[command(flatten)]
        share: TenantShareArgs,
    },
    /// Delete a tenant that has no sources and destinations any more.
    Delete {
        /// Name or id.
        tenant: String,
    },
}

/// What a tenant may bring, and how long it is kept. 0 leaves it to the relay's configuration.
#[derive(Debug, Default, Args)]
pub struct TenantShareArgs {
    /// Requests to its sources a second.
    #[arg(long, value_name = "N")]
    pub ingest_per_second: Option<u32>,
    /// Largest body of an event.
    #[arg(long, value_name = "BYTES")]
    pub event_bytes_max: Option<u64>,
    /// Events that are stored; beyond, new ones are refused.
    #[arg(long, value_name = "N")]
    pub stored_events_max: Option<u64>,
    /// Bytes of events that are stored; beyond, new ones are refused.
    #[arg(long, value_name = "BYTES")]
    pub stored_bytes_max: Option<u64>,
    /// How long events are kept.
    #[arg(long, value_name = "SECONDS")]
    pub keep_s: Option<u64>,
    /// How many of the newest events are kept.
    #[arg(long, value_name = "N")]
    pub keep_events: Option<u64>,
    /// How many bytes of the newest events are kept.
    #[arg(long, value_name = "BYTES")]
    pub keep_bytes: Option<u64>,
    /// How long dead letters are kept at least.
    #[arg(long, value_name = "SECONDS")]
    pub keep_dead_s: Option<u64>,
    /// When what is still owed ends as expired.
    #[arg(long, value_name = "SECONDS")]
    pub keep_pending_s: Option<u64>,
}

/// Manage sources.
#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Create a source.
    #[command(
        after_help = "Example: relay-server source create stripe --preset stripe --secret-file whsec.txt"
    )]
    Create(NewSourceArgs),
    /// List sources.
    List(PageArgs),
    /// Show a source with its URL.
    Get {
        /// Name or id.
        source: String,
    },
    /// Change a source. What is not named stays as it is.
    Update {
        /// Name or id.
        source: String,
        /// What changes.
        #[command(flatten)]
        settings: SourceArgs,
        /// Accept requests.
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Answer requests as if the source did not exist.
        #[arg(long)]
        disable: bool,
    },
    /// Add a secret; the ones the source has stay valid.
    RotateSecret {
        /// Name or id.
        source: String,
        /// Where the secret is.
        #[command(flatten)]
        secret: SecretArgs,
        /// Stop accepting the secrets it has.
        #[arg(long)]
        drop_old: bool,
    },
    /// Send a test event: signed as its provider would, and delivered like any other.
    #[command(
        after_help = "Examples:\n  relay-server source test stripe --event charge.refunded\n  relay-server source test github --event push --data @push.json"
    )]
    Test {
        /// Name or id.
        source: String,
        /// What the test is.
        #[command(flatten)]
        test: TestArgs,
    },
    /// Print the secret that a handshake brought, for providers that ask for it on a page.
    HandshakeSecret {
        /// Name or id.
        source: String,
    },
    /// Delete a source with its routes; its events stay.
    Delete {
        /// Name or id.
        source: String,
    },
}

/// A test event. What is left out looks like the provider's own.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// What the provider calls this kind of event, such as charge.succeeded.
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,
    /// The body: a text, @FILE, or - for standard input.
    #[arg(long, value_name = "TEXT|@FILE|-")]
    pub data: Option<String>,
    /// What the body is [default: what its provider sends].
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// One more header field; may be given more than once.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The method [default: the first that the source takes].
    #[arg(long)]
    pub method: Option<String>,
    /// Path and query below the source's URL.
    #[arg(long)]
    pub path: Option<String>,
}

/// A source to create.
#[derive(Debug, Args)]
pub struct NewSourceArgs {
    /// Its name.
    pub name: String,
    /// The secret.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Everything else.
    #[command(flatten)]
    pub settings: SourceArgs,
}

/// Where a provider's secret is. Never a flag's value, which everybody on the machine can see.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// A file with one secret; `-` is standard input. One final newline is dropped.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Vec<PathBuf>,

    /// Read one secret from standard input.
    #[arg(long)]
    pub secret_stdin: bool,
}

/// What can be chosen about a source.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// The provider, such as stripe; `none` checks nothing.
    #[arg(long, value_name = "NAME", conflicts_with = "rule")]
    pub preset: Option<String>,

    /// A rule of your own, in JSON.
    #[arg(long, value_name = "FILE")]
    pub rule: Option<PathBuf>,

    /// A setting the provider needs besides the secret; repeatable.
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub vars: Vec<String>,

    /// A file with a public key or certificate of the provider; repeatable.
    #[arg(long, value_name = "FILE")]
    pub public_key_file: Vec<PathBuf>,

    /// A method to take, if not the provider's; repeatable.
    #[arg(long = "method", value_name = "METHOD")]
    pub methods: Vec<String>,

    /// The largest body, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub body_bytes_max: Option<u64>,

    /// How long repeats are recognised, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub dedupe_window_s: Option<u64>,

    /// Whether equal bodies count as repeats where the provider sends no id.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub dedupe_body_hash: Option<bool>,

    /// The request header with the provider's id, if not the usual one.
    #[arg(long, value_name = "HEADER")]
    pub dedupe_header: Option<String>,

    /// An address or range to take requests from; repeatable.
    #[arg(long, value_name = "RANGE")]
    pub ip_allow: Vec<String>,

    /// The most requests a second.
    #[arg(long, value_name = "N")]
    pub rate_per_second: Option<u32>,

    /// Have providers wait for the service's own answer. All --sync-... are set as a whole.
    #[arg(long)]
    pub sync: bool,

    /// Answer providers at once again.
    #[arg(long, conflicts_with_all = ["sync", "sync_destination", "sync_timeout_ms", "sync_on_timeout", "sync_answer"])]
    pub no_sync: bool,

    /// Whose service answers, if the source has several routes: name or id.
    #[arg(long, value_name = "DESTINATION")]
    pub sync_destination: Option<String>,

    /// How long a provider waits, in milliseconds [default: what suits it, at most 10000].
    #[arg(long, value_name = "MS")]
    pub sync_timeout_ms: Option<u64>,

    /// What becomes of an event that was not answered in time [default: keep].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub sync_on_timeout: Option<OnTimeoutArg>,

    /// What the provider is answered then, as a file in JSON: {"status": 200, "headers": [["content-type",
    /// "text/plain"]], "body": "later"} [default: what suits it].
    #[arg(long, value_name = "FILE")]
    pub sync_answer: Option<PathBuf>,
}

/// What becomes of an event that was not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeoutArg {
    /// Deliver it later.
    Keep,
    /// End it as expired.
    Expire,
}

/// Manage destinations.
#[derive(Debug, Subcommand)]
pub enum DestinationCommand {
    /// Create a destination.
    #[command(
        after_help = "Example: relay-server destination create billing --timeout-ms 5000 --status-dead 4xx --status-retry 404,429"
    )]
    Create {
        /// Its name; agents serve it by this name.
        name: String,
        /// How its deliveries are made.
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Change how deliveries are made. What is not named stays as it is; each of retry and status is
    /// set as a whole.
    Update {
        /// Name or id.
        destination: String,
        /// What changes.
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// List destinations.
    List(PageArgs),
    /// Show a destination, how much waits there, what holds it back, and how its services are.
    Get {
        /// Name or id.
        destination: String,
    },
    /// Manage the keys it signs with itself (--old-signatures add).
    #[command(subcommand)]
    SigningKey(SigningKeyCommand),
    /// Hand nothing out for a while; what is accepted waits.
    Pause {
        /// Name or id.
        destination: String,
        /// When it ends by itself, such as 2027-01-31T04:00:00Z [default: when it is resumed].
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Why, for others to read.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Go on handing out.
    Resume {
        /// Name or id.
        destination: String,
    },
    /// Delete a destination with its routes; what it is owed is cancelled.
    Delete {
        /// Name or id.
        destination: String,
    },
}

/// How the deliveries of a destination are made.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// How long the service may take to answer, in milliseconds [default: 30000].
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
    /// How long failed deliveries are retried, in seconds [default: 3 days].
    #[arg(long, value_name = "SECONDS")]
    pub retry_window_s: Option<u64>,
    /// The longest first wait, in milliseconds; it doubles with every attempt [default: 2000].
    #[arg(long, value_name = "MS")]
    pub retry_base_ms: Option<u64>,
    /// Attempts at most [default: as many as fit the window].
    #[arg(long, value_name = "N")]
    pub attempts_max: Option<u32>,
    /// Fixed waits in milliseconds instead of growing ones.
    #[arg(long, value_name = "MS,MS,...", value_delimiter = ',')]
    pub retry_schedule_ms: Vec<u64>,
    /// Status codes that mean success besides 2xx, such as 409 or 301-399.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub status_deliver: Vec<String>,
    /// Status codes to try again after, though --status-dead holds them.
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub status_retry: Vec<String>,
    /// Status codes that give a delivery up at once, such as 4xx [default: 410].
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub status_dead: Vec<String>,
    /// What becomes of the provider's signature [default: keep].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub old_signatures: Option<OldSignaturesArg>,
    /// Deliveries at a time, over all agents; 0 takes the limit away.
    #[arg(long, value_name = "N")]
    pub in_flight_max: Option<u32>,
    /// Deliveries a second; 0 takes the limit away.
    #[arg(long, value_name = "N")]
    pub rate_per_second: Option<u32>,
    /// How old an event may be when it is handed out, in seconds; 0 takes the limit away.
    #[arg(long, value_name = "SECONDS")]
    pub age_max_s: Option<u64>,
    /// A window of the week in which nothing is handed out, in UTC, such as "sun 02:00-04:00",
    /// "daily 23:30-00:30" or "mon-fri 12:00-12:30"; repeatable; "none" removes all.
    #[arg(long, value_name = "WINDOW")]
    pub maintenance: Vec<String>,
    /// Attempts in a row that do not reach the service before it counts as down; 0 never [default: 5].
    #[arg(long, value_name = "N")]
    pub breaker_failures: Option<u32>,
    /// Share of failed attempts from which the service counts as down; 0 never [default: 50].
    #[arg(long, value_name = "PERCENT")]
    pub breaker_error_percent: Option<u32>,
}

/// What becomes of the signature that an event came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OldSignaturesArg {
    /// Deliver it as it came.
    Keep,
    /// Sign every attempt anew with the source's scheme and secret, for services that check its time.
    Refresh,
    /// Add Standard Webhooks headers, signed with the destination's own key.
    Add,
}

/// Manage the keys a destination signs with itself.
#[derive(Debug, Subcommand)]
pub enum SigningKeyCommand {
    /// Print the keys that are valid, newest first.
    Show {
        /// Name or id of the destination.
        destination: String,
    },
    /// Make a new key; the one it has goes on signing beside it for a while.
    Rotate {
        /// Name or id of the destination.
        destination: String,
        /// How long, in seconds; 0 stops it at once [default: 1 day].
        #[arg(long, value_name = "SECONDS")]
        overlap_s: Option<u64>,
    },
}

/// Manage routes.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Connect a source to a destination.
    #[command(
        after_help = "Example: relay-server route create --source shop --destination billing --filter '{\"body\": {\"amount\": {\"$gte\": 100}}}'"
    )]
    Create {
        /// Its name [default: SOURCE-DESTINATION].
        name: Option<String>,
        /// Name or id of the source.
        #[arg(long)]
        source: String,
        /// Name or id of the destination.
        #[arg(long)]
        destination: String,
        /// Which events it takes [default: all]; see docs/filters.md.
        #[arg(long, value_name = "JSON|@FILE|-")]
        filter: Option<String>,
    },
    /// Change which events a route takes, from now on.
    #[command(group = clap::ArgGroup::new("change").required(true))]
    Update {
        /// Name or id.
        route: String,
        /// Which events it takes.
        #[arg(long, value_name = "JSON|@FILE|-", group = "change")]
        filter: Option<String>,
        /// Take all events.
        #[arg(long, group = "change")]
        no_filter: bool,
    },
    /// Say whether a route would take an event, and which term of its filter says no.
    #[command(
        after_help = "Examples:\n  relay-server route test shop-billing --event evt_01m84384yvt65ca6cebw018p38\n  relay-server route test shop-billing --data @order.json --filter @new-filter.json"
    )]
    Test {
        /// Name or id.
        route: String,
        /// An event that has come, by its id.
        #[arg(long, value_name = "ID", conflicts_with_all = ["data", "headers", "method", "path", "event_type"])]
        event: Option<String>,
        /// The body of a request: a text, @FILE, or - for standard input.
        #[arg(long, value_name = "TEXT|@FILE|-")]
        data: Option<String>,
        /// A header field of the request; may be given more than once.
        #[arg(long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// The method of the request [default: POST].
        #[arg(long)]
        method: Option<String>,
        /// Path and query below the source's URL.
        #[arg(long)]
        path: Option<String>,
        /// The type of the event [default: what the source's preset finds].
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Another filter than the route's own.
        #[arg(long, value_name = "JSON|@FILE|-")]
        filter: Option<String>,
    },
    /// List routes.
    List(PageArgs),
    /// Show a route.
    Get {
        /// Name or id.
        route: String,
    },
    /// Delete a route; what is on its way stays owed.
    Delete {
        /// Name or id.
        route: String,
    },
}

/// Manage tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token; it is shown this once.
    #[command(
        after_help = "Example: relay-server token create laptop --kind agent --scope listen --write-to agent.token"
    )]
    Create {
        /// Its name.
        name: String,
        /// Who it is for.
        #[arg(long, value_parser = ["agent", "api", "ingest"])]
        kind: String,
        /// What it may do: connect, listen (agent); tenant, operator (api); ingest. Repeatable
        /// [default: connect, tenant or operator, ingest].
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// The only destination an agent may serve; repeatable.
        #[arg(long = "destination", value_name = "NAME")]
        destinations: Vec<String>,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// An address or range it may be used from; repeatable [default: any].
        #[arg(long, value_name = "RANGE")]
        ip_allow: Vec<String>,
        /// Write it to a new file, readable for you alone, instead of printing it.
        #[arg(long, value_name = "FILE")]
        write_to: Option<PathBuf>,
    },
    /// Give a token a new text, shown this once; the one it has is accepted for a while, too.
    Rotate {
        /// Name or id.
        token: String,
        /// How long the text it has is accepted, in seconds [default: a day].
        #[arg(long, value_name = "SECONDS")]
        overlap_s: Option<u64>,
        /// Write it to a new file, readable for you alone, instead of printing it.
        #[arg(long, value_name = "FILE")]
        write_to: Option<PathBuf>,
    },
    /// List tokens: of --tenant, or, for operators without it, the operators' own.
    List(PageArgs),
    /// Show a token without its secret.
    Get {
        /// Name or id.
        token: String,
    },
    /// Revoke a token.
    Delete {
        /// Name or id.
        token: String,
    },
}

const APPLY: &str = "The file is TOML, with the fields of the API:\n
  [sources.stripe]
  preset = \"stripe\"
  secret_file = \"whsec.txt\"        # beside this file; without it the secrets stay

  [destinations.billing]
  timeout_ms = 5000

  [routes.stripe-billing]
  source = \"stripe\"
  destination = \"billing\"
\nWhat is left out has its default. What the file does not name stays as it is.";

/// Declare sources, destinations and routes.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// How to reach the relay.
    #[command(flatten)]
    pub connection: Connection,
    /// The file; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Only show what would change.
    #[arg(long)]
    pub dry_run: bool,
}

/// See who did what.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done, newest first: to --tenant, or, for operators without it, to all.
    List {
        /// Which records.
        #[command(flatten)]
        filter: AuditArgs,
        /// Which part.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Write everything that matches to standard output, newest first, one JSON document a line.
    Export {
        /// Which records.
        #[command(flatten)]
        filter: AuditArgs,
    },
}

/// Records of the audit log.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Done with this token, by its id.
    #[arg(long, value_name = "ID")]
    pub actor: Option<String>,
    /// An operation such as sources.update, or sources for all on sources.
    #[arg(long)]
    pub action: Option<String>,
    /// Done to the thing with this id.
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// At or after this time.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Manage the key that encrypts secrets at rest.
#[derive(Debug, Subcommand)]
pub enum SecretKeyCommand {
    /// List the relay's keys by name, and how many secrets need each.
    List,
    /// Make a new key and encrypt everything stored with it, while the relay serves. Run it on the relay's
    /// machine; run it again if it was cut off.
    Rotate,
}

/// List, show and replay events.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// List events, newest first.
    List {
        /// Accepted by this source.
        #[arg(long)]
        source: Option<String>,
        /// With a delivery to this destination.
        #[arg(long)]
        destination: Option<String>,
        /// With a delivery in this state: pending, retry, delivered, dead, cancelled, expired, quarantined;
        /// or unrouted.
        #[arg(long, alias = "status")]
        state: Option<String>,
        /// Without any delivery.
        #[arg(long)]
        unrouted: bool,
        /// Of this type.
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Received at or after this time, or within the last 30m, 24h, 7d.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Received before this time, or longer ago than 30m, 24h, 7d.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Which part.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show an event.
    Get {
        /// Its id.
        event: String,
        /// Write its body to standard output, byte for byte.
        #[arg(long)]
        raw: bool,
    },
    /// Tell what happened to an event, and why what waits does so.
    Explain {
        /// Its id.
        event: String,
    },
    /// Deliver an event again.
    Replay {
        /// Its id.
        event: String,
        /// Where to [default: wherever it went].
        #[arg(long)]
        destination: Option<String>,
    },
}

/// Erase events for good.
#[derive(Debug, Subcommand)]
pub enum EraseCommand {
    /// Erase one event.
    Event {
        /// Its id.
        event: String,
    },
    /// Erase all events that pass a filter, in the form of a route's.
    #[command(
        after_help = "Example: relay-server erase matching --filter '{\"body\": {\"customer\": {\"email\": \"a@example.com\"}}}'\nA filter with @ in front is read from a file; - is standard input."
    )]
    Matching {
        /// Which events; see docs/filters.md.
        #[arg(long, value_name = "JSON|@FILE")]
        filter: String,
    },
    /// Erase everything that a tenant has received so far.
    Everything {
        /// The tenant's name, once more.
        tenant_name: String,
    },
    /// List erasures, newest first.
    List,
}

/// List deliveries and their attempts.
#[derive(Debug, Subcommand)]
pub enum DeliveriesCommand {
    /// List deliveries, newest first.
    List {
        /// Only those that policy gave up.
        #[arg(long, conflicts_with = "state")]
        dead: bool,
        /// In this state: pending, retry, delivered, dead, cancelled, expired, quarantined.
        #[arg(long)]
        state: Option<String>,
        /// To this destination.
        #[arg(long)]
        destination: Option<String>,
        /// Of this event.
        #[arg(long)]
        event: Option<String>,
        /// Made by this replay.
        #[arg(long)]
        replay: Option<String>,
        /// Which part.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show what came of each attempt of a delivery.
    Attempts {
        /// The id of the delivery.
        delivery: String,
    },
    /// End a delivery that is still owed.
    Cancel {
        /// The id of the delivery.
        delivery: String,
    },
}

/// List and show dead letters: what policy gave up and nobody replayed since.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List dead letters, newest first.
    #[command(
        after_help = "Example: relay-server dead-letters list --destination billing --last 5xx --since 24h"
    )]
    List {
        /// Which ones.
        #[command(flatten)]
        which: DeadLetterArgs,
        /// Which part.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a dead letter and everything that was tried.
    Get {
        /// The id of the delivery.
        delivery: String,
    },
}

/// Which dead letters; all of them without any of these.
#[derive(Debug, Args)]
pub struct DeadLetterArgs {
    /// Of events that this source accepted.
    #[arg(long)]
    pub source: Option<String>,
    /// To this destination.
    #[arg(long)]
    pub destination: Option<String>,
    /// Of this event.
    #[arg(long)]
    pub event: Option<String>,
    /// Of events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Given up for this reason: retries_exhausted, permanent, by_hand.
    #[arg(long)]
    pub reason: Option<String>,
    /// What came of the last attempt: a status such as 503, a class such as 5xx, or dns, connect, tls,
    /// timeout, broken, protocol, refused, abandoned, lost, other.
    #[arg(long, value_name = "OUTCOME")]
    pub last: Option<String>,
    /// Of events received at or after this time, or within the last 30m, 24h, 7d.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Of events received before this time, or longer ago than 30m, 24h, 7d.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Deliver many events again, at a pace.
#[derive(Debug, Subcommand)]
pub enum ReplaysCommand {
    /// Replay what is named by id, all dead letters or all events that match.
    #[command(
        after_help = "Examples:\n  relay-server replays create --dead-letters --destination billing --since 24h --dry-run\n  relay-server replays create --events --state unrouted --to billing --rate 50\n  relay-server replays create evt_01m84384yvt65ca6cebw018p38 dlv_01m84384yvbf5x3z7w5k2r9r1c"
    )]
    Create(Box<NewReplayArgs>),
    /// List replays, newest first.
    List(PageArgs),
    /// Show a replay and how far it is.
    Get {
        /// Its id.
        replay: String,
    },
    /// Make no more deliveries for now; those that are owed already go on.
    Pause {
        /// Its id.
        replay: String,
    },
    /// Go on.
    Resume {
        /// Its id.
        replay: String,
    },
    /// Make no more deliveries for good, and end those that are still owed.
    Cancel {
        /// Its id.
        replay: String,
    },
}

/// What to replay, where to, and how fast.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct NewReplayArgs {
    /// Ids of events (evt_...) or dead letters (dlv_...).
    #[arg(value_name = "ID", group = "what")]
    pub ids: Vec<String>,
    /// Take the dead letters that match.
    #[arg(long, group = "what")]
    pub dead_letters: bool,
    /// Take the events that match.
    #[arg(long, group = "what")]
    pub events: bool,
    /// Which ones.
    #[command(flatten)]
    pub which: DeadLetterArgs,
    /// With --events: with a delivery in this state, or unrouted.
    #[arg(long, alias = "status")]
    pub state: Option<String>,
    /// Where to [default: wherever each went, or would go now].
    #[arg(long, value_name = "DESTINATION")]
    pub to: Option<String>,
    /// Deliveries a second at most.
    #[arg(long, value_name = "N")]
    pub rate: Option<u32>,
    /// Only say how many deliveries it would make, and what it would pass over.
    #[arg(long)]
    pub dry_run: bool,
    /// A name of your choice: asking again with it makes no second replay.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// The flags of [`KEYS`], in their order.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| KEYS.iter().map(crate::config::Key::flag).collect());

impl Args for Overrides {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = FLAGS.iter().zip(KEYS);
        command.args(flags.map(|(flag, key)| {
            let arg = Arg::new(flag.as_str())
                .long(flag.as_str())
                .value_name(key.value)
                .help(key.help)
                .action(ArgAction::Set);
            match key.shape {
                Shape::Switch => arg
                    .num_args(0..=1)
                    .default_missing_value("true")
                    .require_equals(true),
                Shape::Text | Shape::Number | Shape::List => arg,
            }
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().zip(KEYS).filter_map(|(flag, key)| {
            let text = matches.get_one::<String>(flag)?;
            Some((key, text.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("relay-server").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_key_is_a_flag_of_serve() {
        let command =
            parse("serve --listen 127.0.0.1:0 --allow-plain-http --limits-connections-max 9");
        let Ok(Command::Serve(args)) = command else {
            panic!("{command:?}")
        };
        let given: Vec<_> = args
            .overrides
            .0
            .iter()
            .map(|(key, text)| (key.name, text.as_str()))
            .collect();
        assert_eq!(
            given,
            [
                ("listen", "127.0.0.1:0"),
                ("allow_plain_http", "true"),
                ("limits.connections_max", "9"),
            ]
        );
    }

    #[test]
    fn global_flags_go_anywhere() {
        for line in [
            "--config f source --tenant acme list -o json",
            "source list --tenant acme --output json --config f",
        ] {
            let command = parse(line);
            let Ok(Command::Source(args)) = command else {
                panic!("{command:?}")
            };
            assert_eq!(args.connection.tenant.as_deref(), Some("acme"));
            assert_eq!(args.connection.output, Output::Json);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "serve --secret x",
            "source create a --secret x",
            "source create a --preset stripe --rule f",
            "route update a",
            "route update a --filter {} --no-filter",
            "route test a --event e --data x",
            "token create a",
            "token create a --kind root",
            "deliveries list --dead --state pending",
            "replays create",
            "replays create --events --dead-letters",
            "replays create evt_1 --events",
            "source list -o xml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
