//! An agent as a process of its own.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::{
    api::Journey, binaries, eventually, namespace::Namespace, process::Process, relay::Relay,
    terminal::Terminal,
};

/// An agent that can be killed and started again: data directory and configuration stay.
pub struct Agent {
    command: Vec<String>,
    surroundings: Surroundings,
    starts: u32,
    process: Process,
    /// Dropped after the process, which shows its output from there when a test fails.
    home: TempDir,
}

/// How an agent is to be started.
pub struct Plan {
    server: String,
    token: String,
    forwards: Vec<(String, String)>,
    forward_lines: String,
    lines: String,
    tables: String,
    flags: Vec<String>,
    authority: Option<String>,
    proxy_password: Option<String>,
    surroundings: Surroundings,
}

impl Plan {
    /// Reaches the relay there instead.
    #[must_use]
    pub fn server(mut self, url: &str) -> Self {
        url.clone_into(&mut self.server);
        self
    }

    /// Uses another token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Serves one more destination.
    #[must_use]
    pub fn forward(mut self, destination: &str, to: &str) -> Self {
        self.forwards.push((destination.to_owned(), to.to_owned()));
        self
    }

    /// A key of every `[[forward]]`.
    #[must_use]
    pub fn each_forward(mut self, line: &str) -> Self {
        let _ = writeln!(self.forward_lines, "{line}");
        self
    }

    /// A line at the top of the configuration.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        let _ = writeln!(self.lines, "{line}");
        self
    }

    /// A table of the configuration, or several.
    #[must_use]
    pub fn table(mut self, text: &str) -> Self {
        let _ = writeln!(self.tables, "{text}");
        self
    }

    /// A flag with its value.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.surroundings
            .variables
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Trusts this certificate authority, given with `--ca`.
    #[must_use]
    pub fn trusting(mut self, authority_pem: &str) -> Self {
        self.authority = Some(authority_pem.to_owned());
        self
    }

    /// Reaches the relay through a proxy: a URL, with the password of the user in it if there is one.
    #[must_use]
    pub fn through(mut self, proxy: &str, password: Option<&str>) -> Self {
        self.proxy_password = password.map(str::to_owned);
        self.flag("--proxy", proxy)
    }

    /// Runs in a network of its own, from where the relay has no loopback address.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.surroundings.namespace = Some(namespace.name().to_owned());
        self.line("allow_plain_http = true")
    }

    /// Starts `relay-agent run`.
    pub fn run(self) -> Agent {
        self.start(&["run"])
    }

    /// Starts `relay-agent doctor`, which ends by itself and prints JSON.
    pub fn doctor(self) -> Agent {
        self.start(&["doctor", "--json"])
    }

    fn start(self, command: &[&str]) -> Agent {
        let home = self.files();
        let mut config = format!(
            "server = {:?}\ntoken_file = {:?}\nname = \"test\"\ndata_dir = {:?}\n{}\n[observability]\nlisten = \"off\"\n{}",
            self.server,
            home.path().join("token"),
            home.path().join("data"),
            self.lines,
            self.tables,
        );
        for (destination, to) in &self.forwards {
            let lines = &self.forward_lines;
            let _ = writeln!(
                config,
                "[[forward]]\ndestination = {destination:?}\nto = {to:?}\n{lines}"
            );
        }
        let path = home.path().join("agent.toml");
        fs::write(&path, config).unwrap();
        let command = command.iter().map(|&word| word.to_owned());
        let file = ["--config".to_owned(), path.display().to_string()];
        let command = command.chain(file).chain(self.flags).collect();
        Agent::start(home, command, self.surroundings)
    }

    /// Starts `relay-agent listen` for some sources.
    pub fn listen(self, to: &str, sources: &str) -> Agent {
        let home = self.files();
        let output = ["--output".to_owned(), "json".to_owned()];
        let command = self.listen_command(&home, to, sources);
        let command = command.into_iter().chain(output).collect();
        Agent::start(home, command, self.surroundings)
    }

    /// Starts the same in a terminal.
    pub fn listen_in(self, terminal: &Terminal, to: &str, sources: &str) -> Agent {
        let home = self.files();
        let command = self.listen_command(&home, to, sources);
        let process = spawn_in(terminal, &home, &command);
        Agent {
            command,
            surroundings: Surroundings::default(),
            starts: 1,
            process,
            home,
        }
    }

    fn listen_command(&self, home: &TempDir, to: &str, sources: &str) -> Vec<String> {
        let token = home.path().join("token").display().to_string();
        let command = [
            "listen",
            to,
            "--source",
            sources,
            "--server",
            &self.server,
            "--token-file",
            &token,
        ];
        let flags = self.flags.iter().cloned();
        command
            .map(str::to_owned)
            .into_iter()
            .chain(flags)
            .collect()
    }

    fn files(&self) -> TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), &self.token).unwrap();
        if let Some(pem) = &self.authority {
            fs::write(home.path().join("ca.pem"), pem).unwrap();
        }
        if let Some(password) = &self.proxy_password {
            fs::write(home.path().join("proxy-password"), password).unwrap();
        }
        home
    }
}

impl Agent {
    /// An agent that brings the events of a journey to a service.
    pub fn plan(relay: &Relay, journey: &Journey, to: &str) -> Plan {
        Self::anywhere(&relay.url(), &journey.token).forward(&journey.destination, to)
    }

    /// An agent that serves nothing yet.
    pub fn anywhere(server: &str, token: &str) -> Plan {
        Plan {
            server: server.to_owned(),
            token: token.to_owned(),
            forwards: Vec::new(),
            forward_lines: String::new(),
            lines: String::new(),
            tables: String::new(),
            flags: Vec::new(),
            authority: None,
            proxy_password: None,
            surroundings: Surroundings::default(),
        }
    }

    /// Runs an agent that brings the events of a journey to a service.
    pub fn run(relay: &Relay, journey: &Journey, to: &str) -> Self {
        Self::plan(relay, journey, to).run()
    }

    fn start(home: TempDir, mut command: Vec<String>, surroundings: Surroundings) -> Self {
        for (flag, name) in [
            ("--ca", "ca.pem"),
            ("--proxy-password-file", "proxy-password"),
        ] {
            let path = home.path().join(name);
            if path.exists() {
                command.extend([flag.to_owned(), path.display().to_string()]);
            }
        }
        let process = spawn(&home, &command, &surroundings, 1);
        Self {
            home,
            command,
            surroundings,
            starts: 1,
            process,
        }
    }

    /// Where its files are: `agent.toml`, `token` and `data`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Changes its configuration and has it read again (SIGHUP), once it runs.
    pub fn reload(&self, change: impl FnOnce(String) -> String) {
        let path = self.home.path().join("agent.toml");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(config)).unwrap();
        self.process.hang_up();
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Stops it in the middle of whatever it does (SIGSTOP), as a sleeping machine would.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// The memory it occupies, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// Starts it again with the same data and configuration.
    pub fn restart(&mut self) {
        assert!(!self.process.is_running(), "the agent still runs");
        self.starts += 1;
        self.process = spawn(&self.home, &self.command, &self.surroundings, self.starts);
    }

    /// Asks it to stop (SIGTERM).
    pub async fn terminate(&mut self) {
        self.process.terminate().await;
    }

    /// Waits until it has ended, and returns its exit code.
    pub async fn exit_code(&mut self) -> i32 {
        self.process.exit_code().await
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Everything its present life has printed.
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Everything its present life has logged.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Waits until its log or its output says something.
    pub async fn says(&mut self, text: &str) {
        eventually(format!("the agent to say {text:?}"), async || {
            (self.stderr().contains(text) || self.stdout().contains(text)).then_some(())
        })
        .await;
    }

    /// Waits until its log has said something so often.
    pub async fn says_times(&mut self, text: &str, times: usize) {
        eventually(
            format!("the agent to say {text:?} {times} times"),
            async || (self.stderr().matches(text).count() >= times).then_some(()),
        )
        .await;
    }
}

/// Where a process runs.
#[derive(Default)]
struct Surroundings {
    namespace: Option<String>,
    variables: Vec<(String, String)>,
}

fn spawn(
    home: &TempDir,
    arguments: &[String],
    surroundings: &Surroundings,
    number: u32,
) -> Process {
    let program = binaries::relay_agent();
    let mut command = match &surroundings.namespace {
        None => Command::new(program),
        Some(namespace) => {
            // It becomes the agent: signals reach the right one.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(program);
            command
        }
    };
    command.args(arguments).env("HOME", home.path());
    let variables = surroundings.variables.iter();
    command.envs(variables.map(|(name, value)| (name, value)));
    Process::start(&format!("agent-{number}"), command, home.path())
}

fn spawn_in(terminal: &Terminal, home: &TempDir, arguments: &[String]) -> Process {
    let mut command = Command::new(binaries::relay_agent());
    command
        .args(arguments)
        .env("HOME", home.path())
        .env("TERM", "xterm-256color");
    Process::start_in(terminal, "agent-1", command, home.path())
}
