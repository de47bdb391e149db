//! The `anabranch` command: parse, compose, call one use case.
//!
//! | file | what lives there |
//! |---|---|
//! | `account` | the stream on AWS, from the `[source]` settings |
//! | `args` | the command line, and the help that teaches |
//! | `settings` | `anabranch.toml`, environment overrides |
//! | `compose` | settings to components: the only place that reads clock, chance and environment |
//! | `failure` | errors to exit codes |
//! | `log` | the log on stderr |
//! | `plan/` | what a deployment on AWS needs and costs |
//! | `remote` | asking a running stream over loopback |
//! | `ui` | progress bars and tables |
//! | `commands/` | one file a use case |

mod account;
mod args;
mod commands;
mod compose;
mod failure;
mod log;
mod plan;
mod remote;
mod settings;
mod topic;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};
use crate::compose::Context;
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.exit_code()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if matches!(arguments.command, Command::Settings) {
        return commands::settings::run(arguments);
    }
    let context = Context::new(arguments)?;
    match &arguments.command {
        Command::Demo(command) => commands::demo::run(&context, command),
        Command::Generate(command) => commands::generate::run(&context, command),
        Command::Etl(command) => commands::etl::run(&context, command),
        Command::Train(command) => commands::train::run(&context, command),
        Command::Evaluate(command) => commands::train::evaluate(&context, command),
        Command::Stream(command) => commands::stream::run(&context, command),
        Command::Replay(command) => commands::replay::run(&context, command),
        Command::Recommend(command) => commands::recommend::run(&context, command),
        Command::Similar(command) => commands::similar::run(&context, command),
        Command::History(command) => commands::history::run(&context, command),
        Command::Forget(command) => commands::forget::run(&context, command),
        Command::Models(command) => commands::models::run(&context, command),
        Command::Status => commands::status::run(&context),
        Command::Backup(command) => commands::backup::backup(&context, command),
        Command::Restore(command) => commands::backup::restore(&context, command),
        Command::Plan(command) => commands::plan::run(&context, command),
        Command::Settings => Ok(()),
    }
}
