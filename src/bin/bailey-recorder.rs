//! The node's recorder.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    bailey::recorder::cli::run(std::env::args_os()).into()
}
