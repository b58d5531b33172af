//! Every error code of the agent: what it means, what to do, and how the process exits.
//!
//! The texts are part of the binary, because who needs them may have no network.

use std::fmt;

/// A problem that ends a command or keeps the agent from working, told for people.
///
/// It never holds a token, a header value or a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of problem, from a closed list.
    pub code: Code,
    /// What happened.
    pub what: String,
    /// What was being done.
    pub context: Option<String>,
    /// What to do next, if it is more special than the advice of the code.
    pub fix: Option<String>,
}

impl Failure {
    /// A problem with the advice of its code.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            context: None,
            fix: None,
        }
    }

    /// Adds what was being done.
    #[must_use]
    pub fn during(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Replaces the advice.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code, self.what)?;
        if let Some(context) = &self.context {
            writeln!(f, "  while {context}")?;
        }
        let fix = self.fix.as_deref().unwrap_or(self.code.entry().fix);
        writeln!(f, "  fix: {fix}")?;
        write!(f, "  more: relay-agent explain {}", self.code)
    }
}

impl std::error::Error for Failure {}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 1: something failed.
    Failure,
    /// 3: the relay does not accept the token; trying again does not help.
    NotAuthorised,
    /// 4: the configuration is not valid.
    Configuration,
    /// 5: the relay cannot be reached.
    Unreachable,
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::NotAuthorised => 3,
            Self::Configuration => 4,
            Self::Unreachable => 5,
        }
    }
}

struct Entry {
    code: Code,
    name: &'static str,
    exit: Exit,
    fix: &'static str,
    text: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $exit:ident $fix:literal $text:literal)+) => {
        /// What can go wrong, as a closed list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)+ }

        const ENTRIES: &[Entry] = &[$(Entry {
            code: Code::$variant,
            name: $name,
            exit: Exit::$exit,
            fix: $fix,
            text: $text,
        },)+];
    };
}

codes! {
    /// No token was given.
    TokenMissing "E-TOKEN-MISSING" Configuration
    "give --token-file FILE or --token-stdin, or set token_file in agent.toml"
    "The agent shows a token to the relay when it connects, and none was found. It looks, in this \
     order, at --token-file and --token-stdin, HOOKFERRY_TOKEN_FILE, HOOKFERRY_TOKEN, the systemd \
     credential `token`, and token_file in agent.toml. A token starts with hf_agent_; an operator \
     of the relay makes one with `relay-server token create`."
    /// The relay does not know the token.
    TokenRejected "E-TOKEN-REJECTED" NotAuthorised
    "make a new agent token on the relay (`relay-server token create`) and put it into the token file"
    "The relay does not know the token, or it was revoked or has expired. Trying again with the \
     same token cannot help, so the agent stops with exit code 3. Check that the token belongs to \
     this relay and starts with hf_agent_; tokens for the API (hf_api_) and for posting events \
     (hf_ingest_) do not open a session."
    /// The token does not allow what was asked for.
    Forbidden "E-FORBIDDEN" NotAuthorised
    "use a token whose scopes and destinations cover what this agent asks for"
    "The relay knows the token but does not let it do this. `run` needs the scope connect and \
     `listen` the scope listen; a token may also be bound to some destinations only."
    /// The configuration names a destination that the relay does not have.
    UnknownDestination "E-UNKNOWN-DESTINATION" Configuration
    "compare the destinations in agent.toml with `relay-server destination list`"
    "A [[forward]] names a destination that does not exist in the tenant of the token. The agent \
     stops rather than serve only a part of its configuration without a word."
    /// The command names a source that the relay does not have.
    UnknownSource "E-UNKNOWN-SOURCE" Configuration
    "compare --source with `relay-server source list`, or use --source '*'"
    "`listen` names a source that does not exist in the tenant of the token."
    /// No version of the protocol in common.
    Version "E-VERSION" Failure
    "upgrade the older of the two: this agent speaks hookferry.v1"
    "Relay and agent share no version of the protocol."
    /// A configuration file that cannot be read.
    ConfigFile "E-CONFIG-FILE" Configuration
    "check that the file exists and that this user may read it"
    "`run` reads the file given by --config, else $XDG_CONFIG_HOME/hookferry/agent.toml, else \
     /etc/hookferry/agent.toml."
    /// A configuration file that is not what it should be.
    ConfigSyntax "E-CONFIG-SYNTAX" Configuration
    "correct the line; `relay-agent config check` tries it without starting anything"
    "The configuration is TOML. A commented example with every key is in \
     deploy/config/relay-agent.toml."
    /// A key that does not exist.
    ConfigKey "E-CONFIG-KEY" Configuration
    "remove the key or correct its spelling"
    "Unknown keys are errors, because a misspelt limit that is silently ignored is worse than an \
     agent that does not start."
    /// A value that is not possible.
    ConfigValue "E-CONFIG-VALUE" Configuration
    "correct the value; `relay-agent config check` shows every value and where it comes from"
    "A value of the configuration, of a flag or of the environment is not possible. Flags win over \
     the environment, the environment over the file, the file over the default."
    /// The data directory cannot be used.
    DataDir "E-DATA-DIR" Failure
    "check the permissions and the space of data_dir, or set journal = false"
    "The agent keeps its id and its journal in data_dir. The journal holds what services answered \
     until the relay has confirmed it, so that a lost connection does not call a service twice."
    /// Another process uses the data directory.
    DataLocked "E-DATA-LOCKED" Failure
    "stop the other agent, or give this one a data_dir of its own"
    "Two agents cannot share one data directory: they would be one agent to the relay and overwrite \
     each other's journal. Several agents on one machine are fine, each with its own data_dir."
    /// The local listener cannot be opened.
    StatusListener "E-STATUS-LISTENER" Failure
    "choose a free address with observability.listen, or \"off\""
    "The agent answers /livez and /readyz on a local address, 127.0.0.1:9091 unless configured \
     otherwise. Usually another agent on the same machine has it."
    /// The system refuses what every process needs.
    Resources "E-RESOURCES" Failure
    "raise the limits of the process: threads (TasksMax), files (LimitNOFILE), memory"
    "The operating system refused a thread or a file to the agent."
    /// The name of the relay does not resolve.
    Dns "E-DNS" Unreachable
    "check the host name in `server`, and the name servers of this machine"
    "The host name of the relay did not resolve. The agent keeps trying."
    /// The relay cannot be reached.
    Connect "E-CONNECT" Unreachable
    "check that this machine may open outbound connections to the relay's port"
    "No TCP connection to the relay could be made. The agent needs one outbound connection and \
     nothing inbound. It keeps trying, at most 5 s apart."
    /// The proxy cannot be used.
    Proxy "E-PROXY" Unreachable
    "check the address of the proxy in --proxy, [proxy] url, HOOKFERRY_PROXY, HTTPS_PROXY or ALL_PROXY"
    "The proxy on the way to the relay cannot be reached, is silent, hung up, or speaks something \
     else than its URL says (http, https, socks5, socks5h). `relay-agent config check` shows which \
     proxy is used, and who named it. The agent keeps trying."
    /// The proxy does not know who asks.
    ProxyAuth "E-PROXY-AUTH" Unreachable
    "give user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, or a user in [proxy] url and password_file"
    "The proxy wants a user name and password, or did not accept those it was shown. Special \
     characters in a URL are percent-encoded: @ is %40, : is %3A, \\ is %5C. The agent speaks Basic \
     with HTTP proxies and user and password with SOCKS5. For NTLM, Negotiate or Kerberos, run a \
     local proxy that speaks them, such as px or cntlm, and name that one. The agent keeps trying."
    /// The proxy refuses to connect to the relay.
    ProxyRefused "E-PROXY-REFUSED" Unreachable
    "ask who runs the proxy to allow CONNECT to the relay's host and port"
    "The proxy answered, but makes no connection to the relay. 403 and 405: its rules forbid it; \
     many allow CONNECT to port 443 only. 502, 503 and 504: it cannot reach or resolve the relay. \
     With socks5:// this machine resolves the relay's name, with socks5h:// the proxy does. The \
     agent keeps trying."
    /// TLS with the relay failed.
    Tls "E-TLS" Unreachable
    "if a proxy inspects TLS, give its CA with --ca-file or [tls] ca_file; else check the relay's certificate"
    "The relay's certificate was not accepted, or TLS could not be agreed. The agent trusts the \
     certificates that the operating system trusts, and those of the CA file in addition. \
     Verification cannot be turned off."
    /// The connection could not be upgraded.
    Upgrade "E-UPGRADE" Unreachable
    "check what stands between this machine and the relay: it must let WebSocket upgrades pass"
    "The relay, or something before it, did not open a WebSocket. The agent keeps trying."
    /// What answered is not a relay.
    NotARelay "E-NOT-A-RELAY" Unreachable
    "check `server`: it must be the relay's public address"
    "Something answered, but not a Hookferry relay: it does not know /agent/v1/connect or does not \
     speak hookferry.v1. The agent keeps trying, in case a load balancer was not ready."
    /// The relay does not make the test event.
    SendRefused "E-SEND-REFUSED" Failure
    "see the detail; `relay-server source get NAME` shows the state and the preset of the source"
    "The relay made no test event. Perhaps only the provider can sign for this source, the source is \
     disabled or still awaits its provider's handshake, or the body is larger than it takes."
    /// The relay has no room.
    RelayBusy "E-RELAY-BUSY" Unreachable
    "nothing, the agent comes back when the relay asked it to; if it stays, ask the relay's operator"
    "The relay asked the agent to come back later."
    /// The connection ended.
    LinkLost "E-LINK-LOST" Unreachable
    "nothing, the agent reconnects by itself; if it happens often, look for a proxy with a short idle time-out"
    "The connection to the relay ended or fell silent. What was in hand goes on, and its outcomes \
     are reported over the next connection."
    /// The service's name does not resolve.
    TargetDns "E-TARGET-DNS" Failure
    "check the host name in `to`"
    "The host name of the service did not resolve. The relay tries the delivery again later."
    /// The service cannot be reached.
    TargetConnect "E-TARGET-CONNECT" Failure
    "start the service, or correct `to`"
    "No connection to the service could be made: nothing listens at that address, or a firewall is \
     in between. The relay tries the delivery again later."
    /// TLS with the service failed.
    TargetTls "E-TARGET-TLS" Failure
    "give the CA of the service with [tls] ca_file"
    "TLS with the service could not be agreed, or its certificate was not accepted."
    /// The service did not answer in time.
    TargetTimeout "E-TARGET-TIMEOUT" Failure
    "answer first and work later, or raise the time-out of the destination"
    "The service gave no complete answer in time. The time-out is the smaller of the destination's \
     (on the relay) and the one in agent.toml."
    /// The service hung up.
    TargetBroken "E-TARGET-BROKEN" Failure
    "look into the log of the service: it closed the connection before it had answered"
    "The connection to the service broke before a complete answer."
    /// The service does not speak HTTP.
    TargetProtocol "E-TARGET-PROTOCOL" Failure
    "check that `to` names an HTTP/1.1 service, and http or https rightly"
    "What the service sent back was not HTTP."
    /// The agent does not make such a call.
    TargetRefused "E-TARGET-REFUSED" Failure
    "see the detail; only addresses that agent.toml names are called"
    "The agent did not make the call: it has no target for the destination, the path holds dot \
     segments, or the address belongs to a cloud metadata service."
}

impl Code {
    fn entry(self) -> &'static Entry {
        // The macro writes variants and entries in the same order, so the number is the index.
        &ENTRIES[self as usize]
    }

    /// How the process ends with it.
    pub fn exit(self) -> Exit {
        self.entry().exit
    }

    /// Finds a code by its name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        ENTRIES
            .iter()
            .find(|entry| entry.name.eq_ignore_ascii_case(name))
            .map(|entry| entry.code)
    }

    /// All codes.
    pub fn all() -> impl Iterator<Item = Self> {
        ENTRIES.iter().map(|entry| entry.code)
    }

    /// The page about it.
    pub fn page(self) -> String {
        let entry = self.entry();
        let exit = match entry.exit {
            Exit::Failure => "",
            Exit::NotAuthorised => "\nExit code: 3",
            Exit::Configuration => "\nExit code: 4",
            Exit::Unreachable => "\nExit code of one-shot commands: 5",
        };
        format!(
            "{}\n\n{}\n\nFix: {}{exit}",
            entry.name, entry.text, entry.fix
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().name)
    }
}

/// Answers `relay-agent explain CODE`.
///
/// # Errors
///
/// A text that lists the codes, or the nearest one, when there is no such code.
pub fn explain(name: &str) -> Result<String, String> {
    if let Some(code) = Code::named(name) {
        return Ok(code.page());
    }
    let wanted = name.to_ascii_uppercase();
    let nearest = Code::all()
        .map(|code| (strsim::jaro_winkler(&wanted, code.entry().name), code))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(likeness, _)| *likeness > 0.85);
    let hint = match nearest {
        Some((_, code)) => format!("did you mean {code}?"),
        None => {
            let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
            format!("the codes are {}", names.join(", "))
        }
    };
    Err(format!("there is no error code {name}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        for code in Code::all() {
            assert_eq!(Code::named(&code.to_string().to_lowercase()), Some(code));
            assert!(explain(&code.to_string()).unwrap().contains("Fix: "));
        }
    }

    #[test]
    fn documentation_lists_every_code() {
        let documentation = include_str!("../../docs/OPERATIONS.md");
        let (_, listed) = documentation.split_once("## Errors of the agent").unwrap();
        for entry in ENTRIES {
            let end = match entry.exit {
                _ if entry.name.starts_with("E-TARGET-") => "a failed attempt".to_owned(),
                Exit::Unreachable => "keeps trying".to_owned(),
                exit => exit.code().to_string(),
            };
            let row = format!("| `{}` | {end} |", entry.name);
            assert!(listed.contains(&row), "OPERATIONS.md lacks {row}");
        }
    }

    #[test]
    fn misspelt_code_gets_a_suggestion() {
        let answer = explain("E-TOKEN-REJECT").unwrap_err();
        assert!(
            answer.ends_with("did you mean E-TOKEN-REJECTED?"),
            "{answer}"
        );
        assert!(explain("nonsense").unwrap_err().contains("E-TLS"));
    }

    #[test]
    fn failures_say_what_why_and_what_to_do() {
        let failure = Failure::new(Code::Connect, "connection refused by 192.0.2.1:443")
            .during("connecting to wss://relay.example.com/agent/v1/connect");
        assert_eq!(
            failure.to_string(),
            "error[E-CONNECT]: connection refused by 192.0.2.1:443\n  \
             while connecting to wss://relay.example.com/agent/v1/connect\n  \
             fix: check that this machine may open outbound connections to the relay's port\n  \
             more: relay-agent explain E-CONNECT"
        );
    }
}
