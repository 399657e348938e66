//! The site's policy as the recorder has it: a thread looks at the files, the loop has what came of it.
//!
//! 1. The loop touches none of these files: one on a network file system may hang, and must not keep anybody waiting.
//! 2. What the kernel tells of changes (inotify(7)) only makes it quicker. Every file is looked at every `bans.poll` in any
//!    case, because changes on a network file system, made elsewhere, are told to nobody.
//! 3. A configuration that cannot be read changes nothing: the one before holds, and that is said.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::server::{failed, say};
use crate::audit::Timestamp;
use crate::config::{self, Config, Place};
use crate::failure::Failure;
use crate::policy::store::{Policy, Stamp};

/// The site as it was at one moment.
#[derive(Debug)]
pub(super) struct Site {
    /// The configuration; what of it the recorder reads only when it starts is not taken from here.
    pub(super) config: Config,
    /// Rules, persons, bans.
    pub(super) policy: Policy,
    /// Why the files as they are now cannot be used: `config` is what they were before.
    pub(super) broken: Option<String>,
    stamps: Vec<Stamp>,
}

impl Site {
    /// Reads the site's files. `keep`: where the last good versions of the lists are.
    pub(super) fn read(place: &Place, keep: &Path) -> Result<Self, Failure> {
        let now = Timestamp::now();
        let (config, stamps) = config::load_stamped(place, now)?;
        let policy = Policy::read(&config, Some(keep), now);
        Ok(Self { config, policy, broken: None, stamps })
    }

    /// What has changed since. A configuration that cannot be used leaves the one before in force; the lists are read anew in any
    /// case.
    fn again(&self, place: &Place, keep: &Path) -> Self {
        // By the files as they were before they were read: what is repaired meanwhile is seen the next time.
        let now = Timestamp::now();
        let stamps = config::stamps(place, now);
        Self::read(place, keep).unwrap_or_else(|failure| {
            say(&failure);
            let config = self.config.clone();
            let policy = Policy::read(&config, Some(keep), now);
            Self { config, policy, broken: Some(failure.to_string()), stamps }
        })
    }

    fn is_old(&self, now: Timestamp) -> bool {
        let matured = |stamp: &Stamp| stamp.matures().is_some_and(|at| at <= now);
        self.stamps.iter().any(|stamp| matured(stamp) || !stamp.holds()) || self.policy.is_old(now)
    }
}

struct Shared {
    newest: Mutex<Option<Arc<Site>>>,
    /// Tells the loop.
    ready: EventFd,
    /// Tells the thread to look now.
    look: EventFd,
}

/// The thread.
pub(super) struct Watch(Arc<Shared>);

impl Watch {
    /// Starts it.
    pub(super) fn start(place: Place, keep: PathBuf, site: Arc<Site>) -> Result<Self, Failure> {
        let event = || {
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|errno| failed("cannot watch the site's files", errno))
        };
        let shared = Arc::new(Shared { newest: Mutex::new(None), ready: event()?, look: event()? });
        let theirs = Arc::clone(&shared);
        let named = std::thread::Builder::new().name("site".to_owned()).stack_size(512 << 10);
        named.spawn(move || watch(&theirs, &place, &keep, site)).map_err(|error| {
            Failure::site("cannot watch the site's files", error.to_string(), "raise the limit on threads")
        })?;
        Ok(Self(shared))
    }

    /// Readable when there is something new.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.ready.as_fd()
    }

    /// What is new.
    pub(super) fn take(&self) -> Option<Arc<Site>> {
        let _ = self.0.ready.read();
        lock(&self.0.newest).take()
    }

    /// Somebody seems to know newer files: looks at once.
    pub(super) fn look(&self) {
        let _ = self.0.look.write(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(shared: &Shared, place: &Place, keep: &Path, mut site: Arc<Site>) {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
    loop {
        if let Some(inotify) = &inotify {
            watch_directories(inotify, place, &site);
        }
        wait(shared, inotify.as_ref(), &site);
        if site.is_old(Timestamp::now()) {
            site = Arc::new(site.again(place, keep));
            *lock(&shared.newest) = Some(Arc::clone(&site));
            let _ = shared.ready.write(1);
        }
    }
}

/// The directories of every file: what is replaced by a rename is told there.
fn watch_directories(inotify: &Inotify, place: &Place, site: &Site) {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    let files = site.policy.files().chain([place.main.as_path()]).chain(place.conf_d.as_deref());
    for path in files.flat_map(|path| path.parent().into_iter().chain(path.is_dir().then_some(path))) {
        // Again each time: a directory that was removed and made again is another one, and a watch that is there costs nothing.
        let _ = inotify.add_watch(path, flags); // what cannot be watched is looked at
    }
}

/// Until something may have changed.
fn wait(shared: &Shared, inotify: Option<&Inotify>, site: &Site) {
    let timeout = PollTimeout::try_from(site.config.policy.bans.poll).unwrap_or(PollTimeout::MAX);
    let look = shared.look.as_fd();
    let mut fds = [
        PollFd::new(look, PollFlags::POLLIN),
        PollFd::new(inotify.map_or(look, |inotify| inotify.as_fd()), PollFlags::POLLIN),
    ];
    let _ = poll(&mut fds, timeout);
    let _ = shared.look.read();
    if let Some(inotify) = inotify {
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}
