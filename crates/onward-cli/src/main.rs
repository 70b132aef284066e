//! The binary `onward`: a development server and the command line.
//!
//! No rules live here: every command asks the HTTP API, of a server or of an engine that is served inside this process, and translates
//! the answer into output and an exit code.

mod args;
mod audit;
mod bench;
mod cache;
mod config;
mod deed;
mod dev;
mod doctor;
mod failure;
mod follow;
mod help;
mod local;
mod lock;
mod migrate;
mod object;
mod output;
mod pages;
mod progress;
mod prove;
mod save;
mod seed;
mod serve;
mod store;
mod target;
mod token;
mod units;
mod wait;

use std::process::ExitCode;

use args::{Cli, Command};
use failure::{Failure, Result};
use output::Out;

/// The exit code of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name == lock::SHIM) {
        return lock::become_command(args);
    }
    let (ended, out) = match args::read(std::env::args_os()) {
        Ok(cli) => {
            let out = Out::new(cli.global.output, cli.global.quiet, cli.global.verbose, cli.global.color, cli.global.progress);
            (run(cli, &out), out)
        }
        Err((failure, out)) => (Err(failure), out),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

fn run(cli: Cli, out: &Out) -> Result<()> {
    let target = cli.global.target();
    let mut builder = match &cli.command {
        Command::Serve(serve) => serve.runtime()?,
        Command::Dev(_) | Command::Prove(_) | Command::Bench(_) | Command::ProveHolder(_) => tokio::runtime::Builder::new_multi_thread(),
        // One thread starts fast; and the command under a lock must be a child of the main thread.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|e| Failure::io("cannot start", &e))?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(dev) => dev.run(out).await,
            Command::Serve(serve) => serve.run(out).await,
            Command::Config(config) => config.run(out).await,
            Command::Prove(prove) => interruptible(prove.run(target.url.clone(), cli.global.output)).await,
            Command::ProveHolder(holder) => holder.run().await,
            Command::Lock(lock::Lock::Run(run)) => run.run(&target, out).await,
            Command::Lock(lock) => interruptible(lock.run(&target, out)).await,
            Command::Object(object) => interruptible(object.run(&target, out)).await,
            Command::Store(store) => interruptible(store.run(&target, out)).await,
            Command::Migrate(migrate) => interruptible(migrate.run(&target, out)).await,
            Command::Cache(cache) => interruptible(cache.run(&target, out)).await,
            Command::Audit(audit) => interruptible(audit.run(&target, out)).await,
            Command::Token(token) => interruptible(token.run(&target, out)).await,
            Command::Bench(bench) => interruptible(bench.run(&target, out)).await,
            Command::Doctor(doctor) => interruptible(doctor.run(&target, out)).await,
            Command::Completions(completions) => completions.run(out),
            Command::Man(man) => man.run(out),
            Command::Help(help) => help.run(out),
        }
    })
}

/// Runs a command that Ctrl-C may end at any point: the API keeps every write whole.
async fn interruptible(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        done = command => done,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Exit(INTERRUPTED)),
    }
}
