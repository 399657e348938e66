//! The node's recorder.
#![forbid(unsafe_code)]

#[global_allocator]
static MEMORY: bailey::sys::alloc::Keeping = bailey::sys::alloc::Keeping;

fn main() -> std::process::ExitCode {
    bailey::recorder::cli::run(std::env::args_os()).into()
}
