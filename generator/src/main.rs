//! Entry point: arguments, log, and words and an exit code for what went wrong.

use std::process::ExitCode;

use clap::Parser as _;
use outbox_config::{Config, Failure, logging};
use outbox_generator::cli::Cli;
use tracing::{Level, error};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = Config::load(cli.config.as_deref());
    let level = match cli.verbose {
        0 => config.as_ref().map_or(Level::INFO, |config| config.logging_level),
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    logging::start(cli.log_format, level);
    let done =
        config.map_err(Failure::from).and_then(|config| outbox_generator::run(&cli, &config));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            failure.exit_code()
        }
    }
}
