//! The list itself: name, exit, title, meaning, what to do. A new code is one more entry here; run
//! `HOOKFERRY_WRITE_DOCS=1 cargo test -p relay-server errors_page` afterwards.

use super::{Area, Entry, Exit};

macro_rules! codes {
    ($($area:ident {$(
        $variant:ident $name:literal $exit:ident
        $title:literal
        $meaning:literal
        $fix:literal
    )+})+) => {
        /// A stable name of what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $title] $variant,)+)+
        }

        const ENTRIES: &[Entry] = &[$($(Entry {
            name: $name,
            area: Area::$area,
            exit: Exit::$exit,
            title: $title,
            meaning: $meaning,
            fix: $fix,
        },)+)+];

        impl Code {
            /// Every code, by area.
            pub const ALL: &'static [Self] = &[$($(Self::$variant,)+)+];
        }
    };
}

impl Code {
    pub(super) fn entry(self) -> &'static Entry {
        // The macro writes variants and entries in the same order, so the number is the index.
        &ENTRIES[self as usize]
    }
}

codes! {
    Answer {
        Request "E-REQUEST" Failure
        "The request is not valid"
        "The request is malformed or ambiguous, or not one that this address takes. Nothing was accepted."
        "correct what the detail names; the same request fails again"

        Invalid "E-INVALID" Failure
        "The settings are not valid"
        "A field of what was to be created or changed breaks a rule. Nothing was changed."
        "change the field that the detail names and send the request again"

        TenantMissing "E-TENANT-MISSING" Failure
        "The request names no tenant"
        "An operator's token can act for every tenant, so each request has to name one."
        "name a tenant: ?tenant=NAME in the URL, or --tenant NAME on the command line"

        Unauthorised "E-UNAUTHORISED" NotAuthorised
        "The token is missing or unknown"
        "The relay got no token, or one that it does not know: mistyped, or of another relay. Tokens \
         start with hf_agent_ (agents), hf_api_ (the API) or hf_ingest_ (posting events), and travel \
         as `Authorization: Bearer TOKEN`. Trying again with the same token cannot help, so an agent \
         stops."
        "check that the token is of this relay; an operator makes a new one with `relay-server token create`"

        TokenExpired "E-TOKEN-EXPIRED" NotAuthorised
        "The token has expired"
        "The relay knows the token, but its time is over. An agent stops with it."
        "make a new token with `relay-server token create` and put it into the token file"

        TokenRevoked "E-TOKEN-REVOKED" NotAuthorised
        "The token was revoked"
        "Somebody deleted the token on the relay. Sessions that it had opened ended at once; an agent \
         stops with it."
        "if the agent is still wanted, make a new token with `relay-server token create` and put it into the token file"

        Forbidden "E-FORBIDDEN" NotAuthorised
        "The token does not allow this"
        "The relay knows the token, but its kind, its scopes or its destinations do not cover what was \
         asked for. `run` needs an agent token with the scope connect, `listen` one with the scope \
         listen, the API an API token. A token cannot be widened."
        "use a token that covers it; the detail says what is missing. `relay-server token create` makes another one"

        NotFound "E-NOT-FOUND" Failure
        "There is no such resource"
        "Nothing has this id or name, or it belongs to another tenant, which looks the same."
        "check the id or name, and that the token belongs to the tenant that owns it"

        SourceUnknown "E-SOURCE-UNKNOWN" Failure
        "There is no source at this URL"
        "The key in the URL belongs to no source, or the source is disabled, which looks the same from \
         outside."
        "copy the URL again from `relay-server source get NAME`, and check that the source is enabled"

        NameTaken "E-NAME-TAKEN" Failure
        "The name is taken"
        "Another resource of the tenant has this name."
        "choose another name, or change the resource that has it"

        Conflict "E-CONFLICT" Failure
        "The change conflicts with the current state"
        "Somebody else changed the resource in between, or something still needs it."
        "read the resource again and repeat the change if it is still wanted"

        Precondition "E-PRECONDITION" Failure
        "Somebody else changed it in between"
        "If-Match names a version that the resource no longer has. Nothing was changed."
        "read the resource again and repeat the change with its new ETag, if it is still wanted"

        Idempotency "E-IDEMPOTENCY" Failure
        "The Idempotency-Key was used for another request"
        "A key stands for one request: method, URL and body. Nothing was done this time."
        "use a new key for a new request, and the same one only to repeat the same request"

        SecretKey "E-SECRET-KEY" Configuration
        "The key for stored secrets cannot be used"
        "Providers' secrets are encrypted at rest with a key that is kept apart from the data. It cannot \
         be read, or stored secrets were encrypted with another one. Nothing was changed: neither the \
         data nor the key."
        "put the key that is named into the key file, as a further line, or correct the file. If it is lost for \
         good, start with --allow-lost-secrets and give the sources new secrets"

        Method "E-METHOD" Failure
        "The method is not allowed here"
        "The source or the path exists but does not take this HTTP method."
        "use a method that the Allow header of the answer names"

        Signature "E-SIGNATURE" Failure
        "The signature does not match"
        "The request does not prove that the provider sent it: the signature is missing, wrong, or too \
         old. `relay-server verify` shows step by step why a recorded request is refused."
        "check that the source has the secret which the provider signs with (`relay-server source rotate-secret` \
         adds one), that its preset is right, that nothing on the way changes the body, and that the clocks agree"

        Address "E-ADDRESS" Failure
        "Requests from this address are not accepted"
        "The source takes requests from some addresses only, or the token may be used from some only, and \
         this is none of them."
        "add the provider's address ranges to `ip_allow` of the source; behind a proxy, set `trusted_proxies` of the relay"

        BodyTooLarge "E-BODY-TOO-LARGE" Failure
        "The body is too large"
        "The body has more bytes than the source, or this path of the API, takes."
        "raise `body_bytes_max` of the source (at most 26 MiB), or have the provider send less"

        HeadersTooLarge "E-HEADERS-TOO-LARGE" Failure
        "The header fields are too large"
        "A request has at most 100 header fields and 32 KiB of them."
        "send fewer or shorter header fields"

        Timeout "E-TIMEOUT" Failure
        "The request took too long"
        "The request came too slowly or not completely. It was not accepted."
        "send it again; if it happens often, look at the network between the provider and the relay"

        Rate "E-RATE" Failure
        "Too many requests"
        "The source gets more requests than its rate allows. They are not accepted."
        "wait as long as Retry-After says; if the traffic is wanted, raise `rate_per_second` of the source"

        Erased "E-ERASED" Failure
        "The event was erased"
        "Somebody had the content of this event erased. When it came and what became of its deliveries is still known; its request is not, anywhere on this relay."
        "see `relay-server erase list` for who wanted it; only the provider may have it still"

        Quota "E-QUOTA" Failure
        "The tenant has used up its quota"
        "As many events or bytes are stored for the tenant as its quota allows, or its sources get more requests a second than that. The event was not accepted; other tenants are not affected."
        "wait as long as Retry-After says; to take more, raise the tenant's quota or let its retention keep less"

        Overloaded "E-OVERLOADED" Failure
        "The relay has too much to do at the moment"
        "The relay cannot take more at once without running out of memory or falling behind."
        "wait as long as Retry-After says; if it happens often, give the relay a faster disk or more memory"

        TooManyWaiting "E-TOO-MANY-WAITING" Failure
        "Too many requests wait for their answers"
        "Providers of the source wait for the service's own answer, and no more of them can wait: of the \
         source, the tenant or the relay. The request was not accepted."
        "wait as long as Retry-After says; if it happens often, make the service faster, give it more \
         concurrency, or raise `limits.held_requests_max` of the relay"

        Unanswered "E-UNANSWERED" Failure
        "The service gave no answer in time"
        "The provider waits for the service's own answer, and there was none: the service was too slow or \
         failed, or no agent serves its destination. The event has ended as expired."
        "send it again; see the attempts of the event, and whether an agent is connected"

        StoreFull "E-STORE-FULL" Failure
        "The relay cannot store more events"
        "The disk of the relay's data directory is nearly full. Deliveries go on; new events are refused \
         rather than lost."
        "free space on that disk; events are accepted again by themselves above the watermark"

        StoreUnavailable "E-STORE-UNAVAILABLE" Failure
        "The relay cannot store events"
        "The store failed, so nothing can be made durable. What was answered with success before is not \
         lost."
        "send it again later; the operator finds the cause in the relay's log and at `/readyz?verbose`"

        ShuttingDown "E-SHUTTING-DOWN" Failure
        "The relay is shutting down"
        "The relay was asked to stop and takes nothing new."
        "send it again after a moment: another instance answers, or this one when it is back"

        Damaged "E-DAMAGED" Failure
        "Stored data is damaged"
        "What the disk gave back is not what was written. A damaged event is quarantined and never \
         delivered altered."
        "check the disk and the relay's log; `relay-server deliveries list --state quarantined` shows what is affected"

        Internal "E-INTERNAL" Failure
        "A defect of the program"
        "Something happened that cannot happen. It is not the fault of the request."
        "report it with the log of that moment; the request can be repeated"
    }

    Setup {
        TokenMissing "E-TOKEN-MISSING" Configuration
        "No usable token was given"
        "The agent shows a token to the relay when it connects. It looks, in this order, at --token-file \
         and --token-stdin, HOOKFERRY_TOKEN_FILE, HOOKFERRY_TOKEN, the systemd credential `token`, and \
         token_file in agent.toml. A token starts with hf_agent_. Commands of relay-server take a token \
         that starts with hf_api_ from --token-file or HOOKFERRY_TOKEN_FILE."
        "give --token-file FILE, or set token_file in agent.toml; an operator of the relay makes a token with \
         `relay-server token create`"

        ConfigFile "E-CONFIG-FILE" Configuration
        "The configuration file cannot be read"
        "Both programs read the file given by --config. Without it the relay reads \
         /etc/hookferry/server.toml if it exists, and `relay-agent run` reads \
         $XDG_CONFIG_HOME/hookferry/agent.toml, else /etc/hookferry/agent.toml."
        "check that the file exists and that this user may read it"

        ConfigSyntax "E-CONFIG-SYNTAX" Configuration
        "The configuration file is not valid"
        "The configuration is TOML, and every key takes one kind of value. Commented examples with every \
         key are in deploy/config."
        "correct the line; `config check` tries the file without starting anything"

        ConfigKey "E-CONFIG-KEY" Configuration
        "There is no such key in the configuration"
        "Unknown keys are errors, because a misspelt limit that is silently ignored is worse than a \
         program that does not start."
        "remove the key or correct its spelling"

        ConfigValue "E-CONFIG-VALUE" Configuration
        "A value of the configuration is not possible"
        "A value in the file, a variable or a flag is not possible, or does not go together with another. \
         Flags win over variables, variables over the file, the file over the default."
        "correct the value; `config check` tries it without starting anything"

        UnknownDestination "E-UNKNOWN-DESTINATION" Configuration
        "The configuration names a destination that the relay does not have"
        "A [[forward]] names a destination that does not exist in the tenant of the token. The agent \
         stops rather than serve only a part of its configuration without a word."
        "compare the destinations in agent.toml with `relay-server destination list`"

        UnknownSource "E-UNKNOWN-SOURCE" Configuration
        "The command names a source that the relay does not have"
        "`listen` or `send` names a source that does not exist in the tenant of the token."
        "compare the name with `relay-server source list`, or listen with --source '*'"

        Filter "E-FILTER" Configuration
        "The filter is not valid"
        "The relay checks the filter of `listen` before it opens the session, and names every place that is \
         wrong. docs/filters.md describes filters."
        "correct the filter at the places that the detail names"

        SendRefused "E-SEND-REFUSED" Failure
        "The relay does not make the test event"
        "Perhaps only the provider can sign for this source, the source is disabled or still awaits its \
         provider's handshake, or the body is larger than it takes."
        "see the detail; `relay-server source get NAME` shows the state and the preset of the source"

        DataDir "E-DATA-DIR" Failure
        "The data directory cannot be used"
        "The agent keeps its id and its journal in data_dir. The journal holds what services answered \
         until the relay has confirmed it, so that a lost connection does not call a service twice."
        "check the permissions and the space of data_dir, or set journal = false"

        DataLocked "E-DATA-LOCKED" Failure
        "Another agent uses the data directory"
        "Two agents cannot share one data directory: they would be one agent to the relay and overwrite \
         each other's journal. Several agents on one machine are fine, each with its own data_dir."
        "stop the other agent, or give this one a data_dir of its own"

        StatusListener "E-STATUS-LISTENER" Failure
        "The local listener cannot be opened"
        "The agent answers /livez and /readyz on a local address, 127.0.0.1:9091 unless configured \
         otherwise. Usually another agent on the same machine has it."
        "choose a free address with observability.listen, or \"off\""

        AgentUnreachable "E-AGENT-UNREACHABLE" Failure
        "No agent answers on this machine"
        "`relay-agent ready` and `relay-agent status` ask the local listener of a running agent, \
         127.0.0.1:9091 unless observability.listen says otherwise."
        "start the agent, or name its listener with --observability-listen"

        ServiceSetup "E-SERVICE-SETUP" Failure
        "The service of this machine could not be set up"
        "`relay-agent service` writes a unit and talks to systemd. It overwrites nothing, and stops at the \
         first step that fails; the steps before it stay done."
        "see the detail; `relay-agent service install --dry-run` shows every step"

        Resources "E-RESOURCES" Failure
        "The system refuses what every process needs"
        "The operating system refused a thread, a file or memory."
        "raise the limits of the process: threads (TasksMax), files (LimitNOFILE), memory"

        Clock "E-CLOCK" Failure
        "The clock of this machine differs from the relay's"
        "Certificates and signatures are valid for a span of time, so a wrong clock breaks TLS and makes \
         services refuse good events. One of the two clocks is wrong."
        "set the clocks of both machines by NTP (`timedatectl` shows whether it runs)"

        Unreachable "E-UNREACHABLE" Unreachable
        "The relay's admin listener cannot be reached"
        "The commands of relay-server talk to the admin listener of a running relay, \
         http://127.0.0.1:9090 unless configured otherwise."
        "start the relay, or name its admin listener with --server or HOOKFERRY_SERVER"
    }

    Link {
        Dns "E-DNS" Unreachable
        "The relay's name does not resolve"
        "The name servers of this machine know no address of the relay's host. In some networks only the \
         proxy resolves names of the internet. An agent keeps trying."
        "check the host name in `server`, and the name servers of this machine; if there is a proxy, name it"

        Connect "E-CONNECT" Unreachable
        "The relay cannot be reached"
        "No TCP connection to the relay could be made. The agent needs one outbound connection and \
         nothing inbound. It keeps trying, at most 5 s apart."
        "check that this machine may open outbound connections to the relay's port"

        Proxy "E-PROXY" Unreachable
        "The proxy cannot be used"
        "The proxy on the way to the relay cannot be reached, is silent, hung up, or speaks something \
         else than its URL says (http, https, socks5, socks5h). `relay-agent config check` shows which \
         proxy is used, and who named it. An agent keeps trying."
        "check the address of the proxy in --proxy, [proxy] url, HOOKFERRY_PROXY, HTTPS_PROXY or ALL_PROXY"

        ProxyAuth "E-PROXY-AUTH" Unreachable
        "The proxy wants a user name and password"
        "The proxy wants a user name and password, or did not accept those it was shown. Special \
         characters in a URL are percent-encoded: @ is %40, : is %3A, \\ is %5C. The agent speaks Basic \
         with HTTP proxies and user and password with SOCKS5. For NTLM, Negotiate or Kerberos, run a \
         local proxy that speaks them, such as px or cntlm, and name that one. An agent keeps trying."
        "give user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, or a user in [proxy] url and password_file"

        ProxyRefused "E-PROXY-REFUSED" Unreachable
        "The proxy makes no connection to the relay"
        "The proxy answered, but makes no connection to the relay. 403 and 405: its rules forbid it; \
         many allow CONNECT to port 443 only. 502, 503 and 504: it cannot reach or resolve the relay. \
         With socks5:// this machine resolves the relay's name, with socks5h:// the proxy does. An \
         agent keeps trying."
        "ask who runs the proxy to allow CONNECT to the relay's host and port"

        Tls "E-TLS" Unreachable
        "TLS with the relay failed"
        "TLS could not be agreed, or the relay's certificate was not accepted. The agent trusts the \
         certificates that the operating system trusts, and those of the CA file in addition. \
         Verification cannot be turned off. An agent keeps trying."
        "`relay-agent doctor` shows the certificate; if a proxy inspects TLS, give its CA with --ca-file or [tls] ca_file"

        TlsIssuer "E-TLS-ISSUER" Unreachable
        "Who signed the relay's certificate is not trusted"
        "The certificate leads to a CA that neither the operating system nor the CA file trusts: a proxy \
         of the network inspects TLS and shows a certificate of its own, or the relay has a private \
         CA. `relay-agent doctor` names the issuer. An agent keeps trying."
        "get the CA certificate of the proxy that inspects TLS, or of the relay if its CA is private, and give it with \
         --ca-file or [tls] ca_file"

        TlsExpired "E-TLS-EXPIRED" Unreachable
        "The relay's certificate is not valid now"
        "The certificate has expired or is not valid yet, by the clock of this machine. An agent keeps \
         trying."
        "check the clock of this machine; if it is right, have the certificate renewed"

        TlsName "E-TLS-NAME" Unreachable
        "The relay's certificate is for another name"
        "The certificate does not name the host that was connected to. An agent keeps trying."
        "use a host name that the certificate has, or have one made for the name in use"

        RelaySilent "E-RELAY-SILENT" Unreachable
        "The relay gives no answer"
        "A connection to the relay was made, but it gave no complete answer in time: the relay is \
         overloaded, or something in between keeps what it says."
        "try again; if it stays, look at the relay's log, and at what stands between this machine and the relay"

        Upgrade "E-UPGRADE" Unreachable
        "No WebSocket could be opened"
        "The relay, or something before it, did not answer the upgrade to a WebSocket as it should. Some \
         proxies drop upgrades. An agent keeps trying."
        "check what stands between this machine and the relay: it must let WebSocket upgrades pass"

        NotARelay "E-NOT-A-RELAY" Unreachable
        "What answered is not a relay"
        "Something answered, but not a Hookferry relay: it does not know /agent/v1/connect or does not \
         speak hookferry.v1. An agent keeps trying, in case a load balancer was not ready."
        "check `server`: it must be the relay's public address"

        Version "E-VERSION" Failure
        "Relay and agent share no version of the protocol"
        "Each names the versions it speaks when a session opens, and there is none in common."
        "upgrade the older of the two"

        RelayBusy "E-RELAY-BUSY" Unreachable
        "The relay asked to come back later"
        "The relay has no room for another session at the moment, or is shutting down. An agent comes \
         back when the relay asked it to."
        "wait; if it stays, ask the relay's operator"

        LinkLost "E-LINK-LOST" Unreachable
        "The connection to the relay ended"
        "The connection to the relay ended or fell silent. What was in hand goes on, and its outcomes \
         are reported over the next connection. An agent reconnects by itself."
        "wait; if it happens often, look for a proxy with a short idle time-out"
    }

    Service {
        TargetDns "E-TARGET-DNS" Failure
        "The service's name does not resolve"
        "The name servers of this machine know no address of the service's host. The relay tries the \
         delivery again later."
        "check the host name in `to`"

        TargetConnect "E-TARGET-CONNECT" Failure
        "The service cannot be reached"
        "No connection to the service could be made: nothing listens at that address, or a firewall is \
         in between. The relay tries the delivery again later."
        "start the service, or correct `to`"

        TargetTls "E-TARGET-TLS" Failure
        "TLS with the service failed"
        "TLS with the service could not be agreed, its certificate was not accepted, or it did not \
         accept the agent's. The relay tries the delivery again later."
        "give ca_file, or client_cert_file and client_key_file, in the [[forward]] of the service, or \
         have its certificate renewed"

        TargetTimeout "E-TARGET-TIMEOUT" Failure
        "The service did not answer in time"
        "The service gave no complete answer in time. The time-out is the smaller of the destination's \
         (on the relay) and the one in agent.toml."
        "answer first and work later, or raise the time-out of the destination"

        TargetBroken "E-TARGET-BROKEN" Failure
        "The service hung up"
        "The connection to the service broke before a complete answer. The relay tries the delivery \
         again later."
        "look into the log of the service: it closed the connection before it had answered"

        TargetProtocol "E-TARGET-PROTOCOL" Failure
        "The service does not speak HTTP"
        "What the service sent back was not HTTP/1.1."
        "check that `to` names an HTTP/1.1 service, and http or https rightly"

        TargetRefused "E-TARGET-REFUSED" Failure
        "The agent does not make such a call"
        "The agent's own configuration forbids the call: it names no target for the destination, the \
         path holds dot segments, limits.allow_targets does not cover the service's address, or that \
         address is link-local or belongs to a cloud metadata service and is not named exactly in the \
         list. The relay cannot widen what an agent calls."
        "see the detail; only what agent.toml names and limits.allow_targets covers is called"
    }
}
