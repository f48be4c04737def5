//! Entry point: collect the environment, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    let env = pc_switcher::cli::collect_env();
    // Not locked: a sync writes its events from another thread.
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let exit = pc_switcher::cli::run(std::env::args_os(), env, &mut out, &mut err);
    ExitCode::from(exit.code())
}
