//! The command line of `bailey-recorder`, and how it starts.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::listen;
use super::log::{Options, RecorderLog};
use super::server::{Server, failed, say};
use super::site::{Site, Watch};
use crate::audit::Timestamp;
use crate::audit::record::Recorder;
use crate::audit::wire;
use crate::config::{self, Config, Place};
use crate::failure::Failure;
use crate::host;
use crate::sys::signal::AllSignals;

/// Exit code when it cannot serve.
const CANNOT: u8 = 1;
/// Exit code of a wrong command line or configuration. (The unit tries again all the same, once a second: with launchers waiting
/// at the socket, systemd would otherwise start it in a loop.)
const MISUSED: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "bailey-recorder",
    version,
    about = "Writes this node's audit log of payloads, on behalf of the launchers"
)]
struct Cli {
    /// Where to listen, without systemd's socket activation; else audit.socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The log's directory; else recorder.dir
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Where the signing key is; else recorder.state
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Runs one command line (with the program's name) and gives the exit code.
pub fn run<I: IntoIterator<Item = OsString>>(args: I) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            say(&crate::frontend::usage(&error, "see bailey-recorder --help"));
            return MISUSED;
        }
        Err(error) => {
            let _ = error.print(); // nobody is left to tell
            return 0;
        }
    };
    let place = Place::system();
    let config = match config::load(&place) {
        Ok(config) => with_options(config, cli),
        Err(failure) => {
            say(&failure);
            return MISUSED;
        }
    };
    match serve(config, place) {
        Ok(()) => 0,
        Err(failure) => {
            say(&failure);
            CANNOT
        }
    }
}

fn with_options(mut config: Config, cli: Cli) -> Config {
    let replace = |place: &mut PathBuf, option: Option<PathBuf>| {
        if let Some(path) = option {
            *place = std::path::absolute(&path).unwrap_or(path);
        }
    };
    replace(&mut config.audit.socket, cli.socket);
    replace(&mut config.recorder.dir, cli.log);
    replace(&mut config.recorder.state, cli.state);
    config
}

fn serve(config: Config, place: Place) -> Result<(), Failure> {
    raise_descriptors();
    // The socket first: launchers that come now wait in its queue, and find no closed door.
    let listener = listen::socket_at(&config.audit.socket)?;
    let node = host::node()?;
    let recorder = &config.recorder;
    let log = RecorderLog::open(Options {
        dir: recorder.dir.clone(),
        state: recorder.state.clone(),
        host: node,
        writer: format!("recorder-{}", nix::unistd::geteuid()),
        segment_size: recorder.segment_size,
        live_list_every: recorder.live_list_every,
        checkpoint_records: recorder.checkpoint_records,
        checkpoint_every: recorder.checkpoint_every,
        reserve: recorder.reserve,
        retention_days: config.retention.days,
        retention_size: config.retention.size,
        network_filesystem: config.audit.network_filesystem,
        clock: Timestamp::now,
    })?;
    let identity = Recorder {
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        protocol: Some(u32::from(wire::NEWEST)),
        pid: Some(i64::from(std::process::id())),
        uid: Some(nix::unistd::geteuid().as_raw()),
        config_hash: Some(config.hash.clone()),
        key: Some(log.key_id()),
    };
    let readers = std::fs::metadata(&recorder.dir).map_or(u32::MAX, |meta| meta.gid());
    if let Err(failure) = super::observe::can_see_others() {
        // Every launch of another account will be refused with the same words; a launcher must hear them.
        say(&failure);
    }
    // Before any thread is started: in one that did not block it, SIGTERM would end the recorder without its last records.
    let signals = AllSignals::block().map_err(|errno| failed("cannot take over signals", errno))?;
    // Before the first launch: without the site's lists nobody is let in.
    let keep = recorder.state.join("bans");
    let site = Arc::new(Site::read(&place, &keep)?);
    let watch = Watch::start(place, keep, Arc::clone(&site))?;
    Server::new(config, (site, watch), signals, listener, log, identity, readers)?.run()
}

/// Every live payload takes three descriptors.
fn raise_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
