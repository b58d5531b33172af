//! `relay-server`: the relay and its command line.

use std::{path::Path, process::ExitCode};

use clap::Parser;
use relay_server::{
    args::{Cli, Command, ServeArgs},
    command, serve, verify,
};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = cli.config.as_deref();
    match cli.command {
        Command::Serve(args) => serve(config, &args).await,
        Command::Init(args) => command::init(&args, config, serve::open_settings).await,
        Command::Verify(args) => verify::command::run(&args),
        other => command::run(other, config).await,
    }
}

async fn serve(path: Option<&Path>, args: &ServeArgs) -> ExitCode {
    let loaded = match command::load_config(path, &args.overrides) {
        Ok(loaded) => loaded,
        Err(failure) => return command::report(&failure),
    };
    match serve::run(&loaded.config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => command::report(&command::Failure::from_start(&error)),
    }
}
