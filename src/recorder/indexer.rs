//! Indexes of the log's segments, made beside the event loop in a thread of their own. They are caches: a question finds the
//! same without them, only later.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::server::say;
use crate::audit::segment::Directory;
use crate::failure::Failure;
use crate::trace::index;

/// The newest segment's index is extended after so many bytes of log, and not more often than this: it is written as a whole,
/// and under load the launchers come first.
const EVERY: u64 = 4 << 20;
const PAUSE: Duration = Duration::from_secs(30);
/// Segments that may wait; one that finds no room is indexed at the next start, or by the first question.
const WAITING: usize = 64;

/// The thread, and what it was told.
pub(super) struct Indexer {
    work: Option<SyncSender<String>>,
    /// The newest segment, and its length when its index was last asked for.
    newest: (String, u64),
    asked: Instant,
}

impl Indexer {
    /// Starts the thread; it begins with the segments that have no index. Without a thread there are no indexes.
    pub(super) fn start(dir: &Path) -> Self {
        let (work, jobs) = sync_channel::<String>(WAITING);
        let dir = PathBuf::from(dir);
        let thread = std::thread::Builder::new().name("indexer".to_owned()).spawn(move || {
            let mut trouble: Option<Failure> = None;
            for segment in without_index(&dir).into_iter().chain(jobs) {
                let failed = index::write_for(&dir, &segment).err();
                // A disk that is full is full for a while: it is said once.
                if let Some(failure) = &failed
                    && trouble.is_none()
                {
                    say(failure);
                }
                trouble = failed;
            }
        });
        Self { work: thread.is_ok().then_some(work), newest: (String::new(), 0), asked: Instant::now() }
    }

    /// Called at every beat with the newest segment and its length.
    pub(super) fn look(&mut self, segment: &str, length: u64) {
        let (name, indexed) = &self.newest;
        if name == segment && (length < indexed + EVERY || self.asked.elapsed() < PAUSE) {
            return;
        }
        self.asked = Instant::now();
        if name != segment && !name.is_empty() {
            let closed = name.clone();
            self.ask(closed);
        } else if name == segment {
            self.ask(segment.to_owned());
        }
        self.newest = (segment.to_owned(), length);
    }

    fn ask(&mut self, segment: String) {
        let gone = self
            .work
            .as_ref()
            .is_some_and(|work| matches!(work.try_send(segment), Err(TrySendError::Disconnected(_))));
        if gone {
            self.work = None;
        }
    }
}

/// Closed segments without an index beside them, oldest first.
fn without_index(dir: &Path) -> Vec<String> {
    let mut names = Directory::for_reading(dir).and_then(|dir| dir.segments()).unwrap_or_default();
    names.pop();
    names.retain(|name| !dir.join(name).with_extension("idx").exists());
    names
}
