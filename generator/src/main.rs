//! Entry point: the command line, and the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use outbox_config::program;
use outbox_generator::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::run(&cli.common, |config| outbox_generator::run(&cli, config))
}
