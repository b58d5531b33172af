//! A relay as a process of its own.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    api::{Api, Journey},
    binaries,
    certificate::Certificate,
    ports,
    process::Process,
    provider::Provider,
};

/// A relay that can be killed and started again: data directory and ports stay.
pub struct Relay {
    plan: Plan,
    public: SocketAddr,
    admin: SocketAddr,
    token: String,
    starts: u32,
    process: Process,
    /// Dropped after the process, which shows its output from there when a test fails.
    home: TempDir,
}

/// How a relay is to be started.
#[derive(Default)]
pub struct Plan {
    flags: Vec<String>,
    variables: Vec<(String, String)>,
    certificate: Option<Certificate>,
    data_dir: Option<PathBuf>,
    public_ip: Option<IpAddr>,
}

impl Plan {
    /// Sets a key of the configuration by its flag, such as `session-grace-s`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.flags.extend([format!("--{key}"), value.to_string()]);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Serves the public listener with TLS.
    #[must_use]
    pub fn tls(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Serves the public listener at another address of this machine, without TLS.
    #[must_use]
    pub fn at(mut self, ip: IpAddr) -> Self {
        self.public_ip = Some(ip);
        self.flags.push("--allow-plain-http".to_owned());
        self
    }

    /// Keeps the data there instead of in the temporary directory.
    #[must_use]
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = Some(path.to_owned());
        self
    }

    /// Creates the data directory and starts the relay; returns when it listens.
    pub async fn start(self) -> Relay {
        let home = tempfile::tempdir().unwrap();
        let data_dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| home.path().join("data"));
        let token_file = home.path().join("token");
        let output = Command::new(binaries::relay_server())
            .arg("init")
            .arg("--data-dir")
            .arg(&data_dir)
            .arg("--config")
            .arg(home.path().join("server.toml"))
            .arg("--token-file")
            .arg(&token_file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let token = fs::read_to_string(&token_file).unwrap().trim().to_owned();
        let (mut public, admin) = (ports::free(), ports::free());
        public.set_ip(self.public_ip.unwrap_or(public.ip()));
        let process = spawn(&self, &home, public, admin, 1);
        let mut relay = Relay {
            plan: self,
            home,
            public,
            admin,
            token,
            starts: 1,
            process,
        };
        relay.until_listening().await;
        relay
    }
}

fn spawn(
    plan: &Plan,
    home: &TempDir,
    public: SocketAddr,
    admin: SocketAddr,
    number: u32,
) -> Process {
    let mut command = Command::new(binaries::relay_server());
    command
        .arg("serve")
        .arg("--config")
        .arg(home.path().join("server.toml"))
        .args([
            "--listen",
            &public.to_string(),
            "--admin-listen",
            &admin.to_string(),
        ]);
    if !plan
        .flags
        .iter()
        .any(|flag| flag == "--store-segment-bytes")
    {
        // The usual files would be zeroed for minutes by all tests together.
        command.args(["--store-segment-bytes", "4194304"]);
    }
    if !plan
        .flags
        .iter()
        .any(|flag| flag == "--store-disk-watermark-bytes")
    {
        command.args(["--store-disk-watermark-bytes", "16777216"]);
    }
    command.args(&plan.flags);
    command.envs(plan.variables.iter().map(|(name, value)| (name, value)));
    if let Some(certificate) = &plan.certificate {
        let (chain, key) = certificate.write(home.path());
        command
            .arg("--tls-cert")
            .arg(chain)
            .arg("--tls-key")
            .arg(key);
    }
    Process::start(&format!("relay-{number}"), command, home.path())
}

impl Relay {
    /// A relay with the defaults.
    pub async fn start() -> Self {
        Self::plan().start().await
    }

    /// A relay with something special.
    pub fn plan() -> Plan {
        Plan::default()
    }

    async fn until_listening(&mut self) {
        let scheme = if self.plan.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        assert_eq!(
            self.process.line("public ").await,
            format!("{scheme}://{}", self.public)
        );
        assert_eq!(
            self.process.line("admin ").await,
            format!("http://{}", self.admin)
        );
    }

    /// A provider that posts to this relay.
    pub fn provider(&self) -> Provider {
        match &self.plan.certificate {
            None => Provider::new(self.public),
            Some(certificate) => Provider::with_tls(self.public, certificate.trusting_client()),
        }
    }

    /// The operator's API.
    pub fn api(&self) -> Api {
        Api::new(self.admin, &self.token)
    }

    /// A tenant with a source, a destination, a route between them and an agent's token.
    pub async fn journey(&self, preset: &str) -> Journey {
        Journey::create(&self.api(), preset, serde_json::json!({})).await
    }

    /// What an agent connects to. The name is the certificate's.
    pub fn url(&self) -> String {
        match &self.plan.certificate {
            None => format!("http://{}", self.public),
            Some(_) => format!("https://localhost:{}", self.public.port()),
        }
    }

    /// The public listener.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The operator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.plan
            .data_dir
            .clone()
            .unwrap_or_else(|| self.home.path().join("data"))
    }

    /// The file with the operator's token.
    pub fn token_file(&self) -> PathBuf {
        self.home.path().join("token")
    }

    /// Runs an administrative command against this relay.
    pub fn cli(&self) -> Command {
        let mut command = Command::new(binaries::relay_server());
        command
            .env("HOOKFERRY_SERVER", format!("http://{}", self.admin))
            .env("HOOKFERRY_TOKEN_FILE", self.token_file());
        command
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// The memory it occupies, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// Starts it again, on the same data and the same ports; returns when it listens.
    pub async fn restart(&mut self) {
        assert!(!self.process.is_running(), "the relay still runs");
        self.starts += 1;
        self.process = spawn(&self.plan, &self.home, self.public, self.admin, self.starts);
        self.until_listening().await;
    }

    /// Asks it to drain (SIGTERM).
    pub async fn terminate(&mut self) {
        self.process.terminate().await;
    }

    /// Waits until it has ended, and returns its exit code.
    pub async fn exit_code(&mut self) -> i32 {
        self.process.exit_code().await
    }

    /// Everything it has printed and logged, through all its lives.
    pub fn output(&self) -> String {
        let names = (1..=self.starts)
            .flat_map(|number| [format!("relay-{number}.out"), format!("relay-{number}.err")]);
        let read = |name| {
            String::from_utf8_lossy(&fs::read(self.home.path().join(name)).unwrap()).into_owned()
        };
        names.map(read).collect()
    }
}
