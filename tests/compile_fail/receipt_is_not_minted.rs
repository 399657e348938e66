// ...and only the room that made the record durable can ask for one.
use bailey::audit::Receipt;

fn minted(launch: bailey::request::LaunchId, pidfd: std::os::fd::OwnedFd) -> Receipt {
    Receipt::mint(launch, 1, [0; 32], pidfd)
}

fn main() {}
