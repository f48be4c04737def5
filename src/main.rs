//! Entry point: collect the environment, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    pc_switcher::bus_error::listen();
    pc_switcher::memory::give_back();
    let mut env = pc_switcher::cli::collect_env();
    // Said here, since `tests/build-program lab` tells it to this file alone: no other program can be halted.
    env.halts = cfg!(lab);
    // Not locked: a sync writes its events from another thread.
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let exit = pc_switcher::cli::run(std::env::args_os(), env, &mut out, &mut err);
    ExitCode::from(exit.code())
}
