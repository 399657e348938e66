//! The launcher.

fn main() -> std::process::ExitCode {
    bailey::app::main()
}
