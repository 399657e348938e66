//! What one uid may do, so that none takes the log, the descriptors or the disk from the others.
//!
//! Ends of payloads are never counted against anybody: what was let in must be able to end.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config;
use crate::failure::{Code, Failure, Fault};

/// A second's worth of launches times this may come at once.
const BURST: u32 = 10;
/// Records of checks that may come at once.
const CHECKS: f64 = 10.0;
const DAY: Duration = Duration::from_secs(86_400);

/// One uid.
#[derive(Debug)]
struct Account {
    /// Connections without a live payload.
    idle: usize,
    /// Live payloads.
    live: u64,
    /// Launches and other records that may still come now.
    tokens: f64,
    filled: Instant,
    /// Bytes of log since `day`.
    bytes: u64,
    day: Instant,
    /// The last refusal was recorded at this time: a flood of refusals is one record a second.
    refused: Option<Instant>,
    /// Records of checks that may still come now, as of then.
    checks: (f64, Instant),
}

/// All of them. One that has nothing open and nothing used is forgotten.
#[derive(Debug)]
pub(super) struct Accounts {
    limits: config::Recorder,
    /// Connections of one uid that carry no live payload.
    most_idle: usize,
    of: HashMap<u32, Account>,
}

impl Accounts {
    pub(super) fn new(limits: config::Recorder, most_idle: usize) -> Self {
        Self { limits, most_idle, of: HashMap::new() }
    }

    fn account(&mut self, uid: u32, now: Instant) -> &mut Account {
        let most = self.most();
        self.of.entry(uid).or_insert_with(|| Account {
            idle: 0,
            live: 0,
            tokens: most,
            filled: now,
            bytes: 0,
            day: now,
            refused: None,
            checks: (CHECKS, now),
        })
    }

    fn most(&self) -> f64 {
        self.limits.launches_per_second as f64 * f64::from(BURST)
    }

    /// A connection comes: whether it may.
    pub(super) fn connect(&mut self, uid: u32, now: Instant) -> Result<(), Failure> {
        let most = self.most_idle;
        let account = self.account(uid, now);
        if account.idle >= most {
            return Err(refused(
                format!("uid {uid} has {most} connections that carry no payload"),
                "close some of them",
            ));
        }
        account.idle += 1;
        Ok(())
    }

    /// A connection without a live payload goes, or gets one.
    pub(super) fn idle_less(&mut self, uid: u32) {
        if let Some(account) = self.of.get_mut(&uid) {
            account.idle = account.idle.saturating_sub(1);
        }
    }

    /// A connection's payload ended, and the connection stays.
    pub(super) fn idle_more(&mut self, uid: u32) {
        if let Some(account) = self.of.get_mut(&uid) {
            account.idle += 1;
        }
    }

    /// Whether one more payload may begin.
    pub(super) fn launch(&mut self, uid: u32, now: Instant) -> Result<(), Failure> {
        let most = self.limits.live_per_uid;
        self.spend(uid, now)?;
        let account = self.account(uid, now);
        if account.live >= most {
            return Err(Failure {
                code: Code::ParallelLimit,
                ..refused(
                    format!("uid {uid} has {most} payloads live on this node (recorder.live_per_uid)"),
                    "wait for one to end, or use another node",
                )
            });
        }
        Ok(())
    }

    /// One record more that is not an end.
    pub(super) fn spend(&mut self, uid: u32, now: Instant) -> Result<(), Failure> {
        let (rate, most) = (self.limits.launches_per_second as f64, self.most());
        let day = self.limits.bytes_per_day;
        let account = self.account(uid, now);
        if now.duration_since(account.day) >= DAY {
            (account.day, account.bytes) = (now, 0);
        }
        if account.bytes >= day {
            return Err(refused(
                format!("uid {uid} filled {day} bytes of the log within a day (recorder.bytes_per_day)"),
                "ask the site's administrator",
            ));
        }
        let gained = now.duration_since(account.filled).as_secs_f64() * rate;
        account.tokens = (account.tokens + gained).min(most);
        account.filled = now;
        if account.tokens < 1.0 {
            return Err(refused(
                format!("uid {uid} sends more than {rate} records a second (recorder.launches_per_second)"),
                "launch more slowly",
            ));
        }
        account.tokens -= 1.0;
        Ok(())
    }

    /// Whether a check of this uid is to be recorded: one a second is, and some more at once.
    pub(super) fn may_record_check(&mut self, uid: u32, now: Instant) -> bool {
        let (left, since) = &mut self.account(uid, now).checks;
        let has = (*left + now.duration_since(*since).as_secs_f64()).min(CHECKS);
        let may = has >= 1.0;
        (*left, *since) = (if may { has - 1.0 } else { has }, now);
        may
    }

    /// Whether a refusal of this uid is to be recorded: one a second is.
    pub(super) fn may_record_refusal(&mut self, uid: u32, now: Instant) -> bool {
        let day = self.limits.bytes_per_day;
        let account = self.account(uid, now);
        if account.bytes >= day && now.duration_since(account.day) < DAY {
            return false;
        }
        let may = account.refused.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if may {
            account.refused = Some(now);
        }
        may
    }

    /// A payload is live from now on, or its launch record is about to be written.
    pub(super) fn begun(&mut self, uid: u32, now: Instant) {
        self.account(uid, now).live += 1;
    }

    /// A payload's end is written.
    pub(super) fn ended(&mut self, uid: u32) {
        if let Some(account) = self.of.get_mut(&uid) {
            account.live = account.live.saturating_sub(1);
        }
    }

    /// A record of this many bytes was written for the uid.
    pub(super) fn filled(&mut self, uid: u32, bytes: u64) {
        if let Some(account) = self.of.get_mut(&uid) {
            account.bytes += bytes;
        }
    }

    /// Forgets who has been quiet for a day.
    pub(super) fn forget(&mut self, now: Instant) {
        self.of.retain(|_, account| {
            account.idle > 0 || account.live > 0 || now.duration_since(account.filled) < DAY
        });
    }
}

fn refused(why: String, next: &str) -> Failure {
    Failure::new(Code::RecordFailed, Fault::Site, "this node takes no more of this account", why, next)
}

/// Each refusal of an account, for the list of what users read.
#[cfg(test)]
pub(crate) fn refusals() -> Vec<Failure> {
    let now = Instant::now();
    let of = |live, rate, bytes| {
        let mut limits = config::Config::default().recorder;
        (limits.live_per_uid, limits.launches_per_second, limits.bytes_per_day) = (live, rate, bytes);
        let mut accounts = Accounts::new(limits, 16);
        let _ = accounts.launch(7, now);
        accounts.filled(7, 1);
        (0..100).find_map(|_| accounts.launch(7, now).err()).expect("a limit")
    };
    vec![of(0, 1000, 1 << 20), of(10, 1, 1 << 20), of(10, 1000, 1)]
}

/// For [`crate::fuzzing`]: the bytes are what three uids do, one after the other. Nobody gets past a limit, and what one does
/// takes nothing from another.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    const MOST_IDLE: usize = 3;
    let mut limits = config::Config::default().recorder;
    (limits.live_per_uid, limits.launches_per_second, limits.bytes_per_day) = (4, 2, 1000);
    let mut accounts = Accounts::new(limits, MOST_IDLE);
    let mut now = Instant::now();
    let (mut idle, mut live) = ([0_usize; 3], [0_u64; 3]);
    let mut launched = 0_u64;
    let begin = now;
    for byte in bytes {
        let (uid, what, much) = (u32::from(byte % 3), byte / 3 % 8, u64::from(byte / 24));
        let (Some(idle), Some(live)) = (idle.get_mut(uid as usize), live.get_mut(uid as usize)) else {
            continue;
        };
        match what {
            0 => *idle += usize::from(accounts.connect(uid, now).is_ok()),
            1 if *idle > 0 => {
                accounts.idle_less(uid);
                *idle -= 1;
            }
            2 if accounts.launch(uid, now).is_ok() => {
                accounts.begun(uid, now);
                (*live, launched) = (*live + 1, launched + 1);
            }
            3 if *live > 0 => {
                accounts.ended(uid);
                *live -= 1;
            }
            4 => accounts.filled(uid, much * 50),
            5 => now += Duration::from_millis(much * 100),
            6 => now += Duration::from_secs(much * 10_000),
            7 => {
                accounts.forget(now);
                let _ = accounts.may_record_refusal(uid, now);
            }
            _ => {}
        }
        assert!(*idle <= MOST_IDLE && *live <= 4, "{idle} {live}");
        let gained = (now.duration_since(begin).as_secs_f64() * 2.0) as u64;
        assert!(launched <= 3 * (u64::from(BURST) * 2 + gained + 1), "{launched} launches");
    }
    for (uid, live) in (0..).zip(live) {
        let known = accounts.of.get(&uid).map_or(0, |account| account.live);
        assert_eq!(known, live, "payloads of uid {uid}");
    }
    launched > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_IDLE: usize = 16;

    fn accounts(live: u64, rate: u64, bytes: u64) -> Accounts {
        let mut limits = config::Config::default().recorder;
        (limits.live_per_uid, limits.launches_per_second, limits.bytes_per_day) = (live, rate, bytes);
        Accounts::new(limits, MOST_IDLE)
    }

    #[test]
    fn a_rate_is_refilled_by_time() {
        let (mut accounts, begin) = (accounts(10_000, 2, u64::MAX), Instant::now());
        let burst = (0..1000).take_while(|_| accounts.launch(7, begin).is_ok()).count();
        assert_eq!(burst, 20);
        assert!(accounts.launch(8, begin).is_ok(), "another uid is not touched");
        let later = begin + Duration::from_secs(1);
        let more = (0..1000).take_while(|_| accounts.launch(7, later).is_ok()).count();
        assert_eq!(more, 2);
    }

    #[test]
    fn live_payloads_and_bytes_are_limited() {
        let (mut accounts, now) = (accounts(2, 1000, 100), Instant::now());
        for _ in 0..2 {
            accounts.launch(7, now).unwrap();
            accounts.begun(7, now);
        }
        assert_eq!(accounts.launch(7, now).unwrap_err().code, Code::ParallelLimit);
        accounts.ended(7);
        accounts.launch(7, now).unwrap();
        accounts.filled(7, 100);
        assert!(accounts.launch(7, now).unwrap_err().why.contains("bytes_per_day"));
        assert!(accounts.launch(7, now + DAY).is_ok());
    }

    #[test]
    fn one_check_a_second_is_recorded() {
        let (mut accounts, begin) = (accounts(1, 1, 1), Instant::now());
        let mut burst = |uid, at| (0..1000).take_while(|_| accounts.may_record_check(uid, at)).count();
        assert_eq!(burst(7, begin), 10);
        assert_eq!(burst(8, begin), 10, "another uid is not touched");
        assert_eq!(burst(7, begin + Duration::from_millis(900)), 0);
        assert_eq!(burst(7, begin + Duration::from_millis(2100)), 2);
        assert_eq!(burst(7, begin + DAY), 10);
    }

    #[test]
    fn idle_connections_are_counted() {
        let (mut accounts, now) = (accounts(1, 1, 1), Instant::now());
        for _ in 0..MOST_IDLE {
            accounts.connect(7, now).unwrap();
        }
        assert!(accounts.connect(7, now).is_err());
        assert!(accounts.connect(8, now).is_ok());
        accounts.idle_less(7);
        assert!(accounts.connect(7, now).is_ok());
    }
}
