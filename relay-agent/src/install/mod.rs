//! `relay-agent service`: the agent as a service of the operating system.
//!
//! Linux with systemd is set up and looked after; for launchd and Windows the text is printed, to be
//! carried out there. What is written is what `deploy` has, with the paths of this installation.

mod steps;

mod unit;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    agent,
    args::{self, Install, LinkArgs, Manager, ServiceCommand},
    config::{Environment, Loaded, Token},
    explain::{Code, Failure},
};
use steps::Steps;

/// The name of the unit.
const UNIT: &str = "relay-agent.service";

/// Directories of which a sandboxed system service sees nothing.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Where an installation has its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) token: PathBuf,
    unit: PathBuf,
}

impl Paths {
    /// Those of the whole machine.
    fn of_system(program: PathBuf) -> Self {
        Self {
            program,
            config: "/etc/hookferry/agent.toml".into(),
            token: "/etc/hookferry/agent.token".into(),
            unit: Path::new("/etc/systemd/system").join(UNIT),
        }
    }

    /// Those of one user.
    fn of_user(program: PathBuf, environment: &impl Environment) -> Result<Self, Failure> {
        let config = environment.variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let config =
            config.or_else(|| Some(Path::new(&environment.variable("HOME")?).join(".config")));
        let Some(config) = config else {
            let what = "there is no home directory to put the unit in";
            return Err(failed(what).fix("set HOME or XDG_CONFIG_HOME"));
        };
        Ok(Self {
            program,
            config: config.join("hookferry/agent.toml"),
            token: config.join("hookferry/agent.token"),
            unit: config.join("systemd/user").join(UNIT),
        })
    }
}

/// Carries a command out. What it prints is for the standard output.
///
/// # Errors
///
/// A [`Failure`] that ends the command.
pub fn run(command: &ServiceCommand, environment: &impl Environment) -> Result<String, Failure> {
    match command {
        ServiceCommand::Install(install) => self::install(install, environment),
        ServiceCommand::Uninstall(unit) => {
            let paths = paths(unit.user, environment)?;
            if !paths.unit.exists() && !unit.dry_run {
                let what = format!("{} does not exist", paths.unit.display());
                return Err(failed(what).fix("nothing is left to do; or try --user"));
            }
            let mut steps = Steps::default();
            steps.command(systemctl(unit.user, &["disable", "--now", UNIT]));
            steps.remove(&paths.unit);
            steps.command(systemctl(unit.user, &["daemon-reload"]));
            let done = carry_out(&steps, unit.dry_run)?;
            let (config, token) = (paths.config.display(), paths.token.display());
            Ok(format!(
                "{done}{config}, {token} and the agent's data stay; delete them if they are not wanted"
            ))
        }
        ServiceCommand::Status(unit) => {
            hand_over(systemctl(unit.user, &["--no-pager", "status", UNIT]), unit)
        }
        ServiceCommand::Logs(logs) => {
            let lines = logs.lines.to_string();
            let mut words = vec!["journalctl", "--unit", UNIT, "--lines", &lines];
            if logs.unit.user {
                words[1] = "--user-unit";
            }
            if logs.follow {
                words.push("--follow");
            }
            hand_over(words.into_iter().map(str::to_owned).collect(), &logs.unit)
        }
    }
}

fn install(install: &Install, environment: &impl Environment) -> Result<String, Failure> {
    let manager = install.manager.unwrap_or(Manager::Systemd);
    let mut paths = paths(install.unit.user, environment)?;
    if let Some(config) = &install.config {
        paths.config.clone_from(config);
    }
    if manager != Manager::Systemd {
        return other(manager, install, &paths);
    }
    unit::check_paths(&paths)?;
    let mut steps = Steps::default();
    if !install.unit.dry_run {
        check_place(&paths, install.unit.user)?;
        if let Some(token) = token(install, &paths, environment)? {
            steps.secret(&paths.token, token);
        }
        check_config(&paths, install, environment)?;
    }
    steps.file(&paths.unit, unit::systemd(&paths, install.unit.user));
    steps.command(systemctl(install.unit.user, &["daemon-reload"]));
    steps.command(systemctl(install.unit.user, &["enable", "--now", UNIT]));
    let done = carry_out(&steps, install.unit.dry_run)?;
    let again = match install.unit.user {
        false => "",
        true => "\nit runs while you are logged in; always: loginctl enable-linger",
    };
    Ok(format!(
        "{done}look at it: relay-agent service status, relay-agent service logs, relay-agent status{again}"
    ))
}

/// Text for managers that are on other machines.
fn other(manager: Manager, install: &Install, paths: &Paths) -> Result<String, Failure> {
    if !install.unit.dry_run {
        return Err(failed("only systemd services are set up by this command")
            .fix("print the text with --dry-run, and follow the comment in it"));
    }
    if install.unit.user {
        return Err(failed("--user is for systemd only"));
    }
    Ok(match manager {
        Manager::Launchd => unit::launchd(paths),
        Manager::Windows => unit::WINDOWS.to_owned(),
        Manager::Systemd => unit::systemd(paths, false),
    })
}

fn paths(is_user: bool, environment: &impl Environment) -> Result<Paths, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| failed(format!("cannot find this program: {error}")))?;
    match is_user {
        true => Paths::of_user(program, environment),
        false => Ok(Paths::of_system(program)),
    }
}

/// Whether a service can start from where the program is, and this user may set it up.
fn check_place(paths: &Paths, is_user: bool) -> Result<(), Failure> {
    let program = &paths.program;
    if !is_user && HIDDEN.iter().any(|hidden| program.starts_with(hidden)) {
        let program = program.display();
        return Err(failed(format!(
            "{program} is where the sandbox of the service sees nothing"
        ))
        .fix(format!(
            "sudo install -m 0755 {program} /usr/local/bin/, and run that one"
        )));
    }
    let unit = paths.unit.parent().unwrap_or(Path::new("/"));
    // Made by systemd itself on every machine that has one.
    if !is_user && !unit.is_dir() {
        let what = format!(
            "{} does not exist: there is no systemd here",
            unit.display()
        );
        return Err(failed(what).fix("see --for, or deploy/ for containers"));
    }
    Ok(())
}

/// The token to put where the unit looks for it, unless it is there already.
fn token(
    install: &Install,
    paths: &Paths,
    environment: &impl Environment,
) -> Result<Option<String>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(
            Code::TokenMissing,
            format!("cannot read the token: {error}"),
        )
    };
    let text = match &install.token_file {
        Some(path) if path == &paths.token => return Ok(None),
        Some(path) => Some(std::fs::read_to_string(path).map_err(unreadable)?),
        None if install.token_stdin => Some(environment.standard_input().map_err(unreadable)?),
        None => None,
    };
    let Some(text) = text else {
        if paths.token.exists() {
            return Ok(None);
        }
        let what = format!("there is no token in {}", paths.token.display());
        return Err(Failure::new(Code::TokenMissing, what)
            .fix("give one with --token-file FILE or --token-stdin; it is copied there"));
    };
    let token = Token::parse(&text).map_err(|wrong| Failure::new(Code::TokenMissing, wrong))?;
    Ok(Some(format!("{}\n", token.reveal())))
}

/// Whether the service would start with its configuration.
fn check_config(
    paths: &Paths,
    install: &Install,
    environment: &impl Environment,
) -> Result<(), Failure> {
    let given = install.token_file.clone();
    let args = args::Run {
        link: LinkArgs {
            config: Some(paths.config.clone()),
            // Whichever of these it is, it has been looked at already.
            token_file: given.or_else(|| paths.token.exists().then(|| paths.token.clone())),
            ..LinkArgs::default()
        },
        // The unit has a directory for it; this one is not opened.
        data_dir: Some("/var/lib/hookferry-agent".into()),
        ..args::Run::default()
    };
    let stated = Stated(environment);
    agent::check(&Loaded::run(&args, &stated)?.config)
}

/// The surroundings as a service will find them: a token of the standard input is not read again.
struct Stated<'a, E>(&'a E);

impl<E: Environment> Environment for Stated<'_, E> {
    fn variable(&self, name: &str) -> Option<std::ffi::OsString> {
        // Neither variables of this shell nor its token reach the service.
        match name {
            "HOOKFERRY_TOKEN" => Some("hf_agent_given".into()),
            name if name.starts_with("HOOKFERRY_") => None,
            name => self.0.variable(name),
        }
    }

    fn host_name(&self) -> Option<String> {
        self.0.host_name()
    }

    fn standard_input(&self) -> std::io::Result<String> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn systemctl(is_user: bool, words: &[&str]) -> Vec<String> {
    let user: &[&str] = if is_user { &["--user"] } else { &[] };
    let all = ["systemctl"].iter().chain(user).chain(words);
    all.map(|word| (*word).to_owned()).collect()
}

fn carry_out(steps: &Steps, is_dry: bool) -> Result<String, Failure> {
    match is_dry {
        true => Ok(format!("{steps}\n")),
        false => steps.carry_out().map(|done| format!("{done}\n")),
    }
}

/// Lets another program have the terminal, and ends as it does.
fn hand_over(words: Vec<String>, unit: &args::ServiceUnit) -> Result<String, Failure> {
    if unit.dry_run {
        return Ok(words.join(" "));
    }
    let (program, arguments) = words.split_first().ok_or_else(|| failed("nothing to do"))?;
    let mut command = Command::new(program);
    let status = command.args(arguments).status().map_err(|error| {
        failed(format!("cannot run {program}: {error}")).fix("it comes with systemd")
    })?;
    match status.code() {
        Some(0) => Ok(String::new()),
        code => std::process::exit(code.unwrap_or(1)),
    }
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::new(Code::ServiceSetup, what)
}

#[cfg(test)]
mod tests;
