//! `relay-agent`: see `relay-agent --help`.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use relay_agent::{
    agent::{self, Agent, Reloader},
    args::{self, Args, Ask, Command, ConfigCommand, Output, ReportFormat},
    config::{self, Config, Loaded, Process},
    doctor::{self, Show},
    explain::{self, Code, Exit, Failure},
    install,
    logs::Logs,
    send,
    shutdown::{Hangup, Signals},
    status::{self, Report},
    terminal::{self, Lines, Log, Screen, View, give_terminal_back},
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    match execute(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.code.exit().code())
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Listen(args) => {
            let config = Loaded::listen(&args, &Process)?.config;
            listen(
                config,
                args.output.or(args.log.quiet.then_some(Output::Quiet)),
            )
        }
        Command::Send(args) => {
            let sent = send::run(&args, &Process)?;
            let _ = writeln!(std::io::stderr(), "{sent}");
            print(&sent.id);
            Ok(())
        }
        Command::Run(args) => {
            let config = Loaded::run(&args, &Process)?.config;
            let logs = Logs::start(&config.log, &Process);
            let reload = Some((args, logs));
            serve(config, reload, |_| Ok(Box::new(Log::default())))
        }
        Command::Ready(args) => match ask(&args, "/readyz?verbose", str::to_owned)? {
            true => Ok(()),
            false => std::process::exit(Exit::Failure.code().into()),
        },
        Command::Status(args) => {
            let show = |text: &str| match args.output {
                ReportFormat::Json => text.to_owned(),
                ReportFormat::Text => serde_json::from_str::<Report>(text)
                    .map_or_else(|_| text.to_owned(), |report| report.to_string()),
            };
            ask(&args.ask, "/status", show).map(drop)
        }
        Command::Service(command) => {
            let done = install::run(&command, &Process)?;
            if !done.is_empty() {
                print(&done);
            }
            Ok(())
        }
        Command::Config(ConfigCommand::Check(args)) => {
            let loaded = Loaded::run(&args, &Process)?;
            agent::check(&loaded.config)?;
            print(&loaded.to_string());
            Ok(())
        }
        Command::Doctor(args) => diagnose(&args),
        Command::Explain { code } => {
            match explain::explain(code.as_deref(), terminal::width()) {
                Ok(page) => print(&page),
                Err(unknown) => {
                    let _ = writeln!(std::io::stderr(), "error: {unknown}");
                    std::process::exit(2);
                }
            }
            Ok(())
        }
        Command::Version => {
            print(concat!("relay-agent ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
}

/// Prints what each check found as soon as it did, or all of it as JSON.
fn diagnose(args: &args::Doctor) -> Result<(), Failure> {
    let show = Show::new();
    let report = doctor::run(args, &Process, &mut |report, check| {
        if args.json {
            return;
        }
        if report.checks.is_empty() {
            print(&show.head(report));
        }
        print(&show.check(check));
    })?;
    match args.json {
        true => print(&report.to_json()),
        false => print(&show.end(&report)),
    }
    match report.exit_code {
        0 => Ok(()),
        code => std::process::exit(code.into()),
    }
}

fn listen(config: Config, output: Option<Output>) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let output = output.unwrap_or(if is_terminal {
        Output::Tui
    } else {
        Output::Compact
    });
    if output == Output::Tui {
        let relay = config.link.server.authority.clone();
        // A log would be written over the screen, which shows the same.
        return serve(config, None, |stop| {
            Ok(Box::new(Screen::open(relay, stop).map_err(no_screen)?))
        });
    }
    Logs::start(&config.log, &Process);
    serve(config, None, |_| {
        Ok(Box::new(Lines::new(output).map_err(no_thread)?))
    })
}

/// Serves until a signal; with `reload` SIGHUP has the configuration read again. `view` is opened within
/// the runtime and may ask for a stop, too.
fn serve(
    config: Config,
    reload: Option<(args::Run, Logs)>,
    view: impl FnOnce(CancellationToken) -> Result<Box<dyn View>, Failure>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(no_thread)?;
    let result = runtime.block_on(async {
        // Before anything else: until then a signal would end the process without a word.
        let mut signals = Signals::take().map_err(no_signals)?;
        let stop = CancellationToken::new();
        let mut hangup = reload
            .is_some()
            .then(Hangup::take)
            .transpose()
            .map_err(no_signals)?;
        let mut agent = Agent::bind(config, view(stop.clone())?).await?;
        let reloader = agent.reloader();
        if let Some(address) = agent.status_address() {
            tracing::info!(%address, "Local listener is open");
        }
        tokio::select! {
            result = agent.run(stop.clone()) => result,
            () = stop_on_signal(&mut signals, &stop) => {
                give_terminal_back();
                std::process::exit(Exit::Failure.code().into())
            }
            () = reload_on_signal(hangup.as_mut(), reload, reloader) => Ok(()),
        }
    });
    // A name that still resolves must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Asks for a stop on the first signal; returns on the second, or on a second ^C.
async fn stop_on_signal(signals: &mut Signals, stop: &CancellationToken) {
    signals.stop().await;
    stop.cancel();
    signals.stop().await;
}

/// Reads the configuration again whenever asked to; never returns.
async fn reload_on_signal(
    hangup: Option<&mut Hangup>,
    reload: Option<(args::Run, Logs)>,
    reloader: Option<Reloader>,
) {
    if let (Some(hangup), Some((args, logs)), Some(mut reloader)) = (hangup, reload, reloader) {
        loop {
            tokio::select! {
                () = hangup.asked() => {
                    let load = || Ok(Loaded::run(&args, &Process)?.config);
                    reloader.reload(load).await;
                }
                config = reloader.in_force() => logs.set_level(config.log.level),
            }
        }
    }
    std::future::pending().await
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::new(Code::Resources, format!("cannot handle signals: {error}"))
}

/// Asks the agent of this machine something and prints the answer. Whether it was a good one.
fn ask(args: &Ask, path: &str, show: impl FnOnce(&str) -> String) -> Result<bool, Failure> {
    let listener = config::status_address(args, &Process)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_thread)?;
    let asked = runtime.block_on(status::ask(listener, path))?;
    print(show(&asked.text).trim_end());
    Ok(asked.status.is_success())
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::new(
        Code::Resources,
        format!("the system gives no thread: {error}"),
    )
}

fn no_screen(error: std::io::Error) -> Failure {
    Failure::new(
        Code::Resources,
        format!("this terminal cannot show the screen: {error}"),
    )
    .fix("use --output compact")
}

/// A closed pipe is no reason to panic.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
