//! Entry point: the command line, and the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use outbox_config::program;
use outbox_deliverer::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // For Icinga, the usual 2 would be CRITICAL.
        Err(error) if error.use_stderr() && Cli::asks_for_status(std::env::args_os()) => {
            let _ = error.print();
            return outbox_deliverer::UNKNOWN.into();
        }
        Err(error) => error.exit(),
    };
    match &cli.command {
        Command::Status(asked) => outbox_deliverer::status(&cli.common, asked),
        Command::Task(task) => {
            program::run(&cli.common, |config| outbox_deliverer::run(task, config))
        }
    }
}
