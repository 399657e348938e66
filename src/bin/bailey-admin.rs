//! The administrator's commands.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    bailey::admin::cli::run(std::env::args_os()).into()
}
