//! Looking up the addresses of hosts, on a few threads for all plugins.
//!
//! A look-up by the system cannot be stopped. A thread for each would let a plugin collect threads without end: it asks
//! for a slow name, gives up after a millisecond and asks for the next one. So there are as many threads as look-ups may be
//! under way, and as many places to wait. Who finds none is refused at once.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Look-ups under way at a time.
const THREADS: usize = 8;

/// Look-ups that may wait for a thread.
const WAITING: usize = 32;

/// Why there are no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookUpError {
    /// Not in time.
    Late,
    /// Too many look-ups wait.
    Busy,
    /// The host has none.
    Unknown,
}

/// One look-up.
struct Job {
    /// Host and port.
    host: String,
    /// When nobody waits for it any more.
    end: Instant,
    found: SyncSender<Option<Vec<SocketAddr>>>,
}

/// Threads that look up names, and the places to wait for them.
struct LookUps {
    jobs: SyncSender<Job>,
}

impl LookUps {
    /// None if no thread can be started.
    fn start(threads: usize, waiting: usize, look_up: fn(&str) -> Option<Vec<SocketAddr>>) -> Option<Self> {
        let (jobs, queue) = mpsc::sync_channel(waiting);
        let queue = Arc::new(Mutex::new(queue));
        let start = |nth: usize| {
            let queue = queue.clone();
            let thread = std::thread::Builder::new().name(format!("plugin-names-{nth}"));
            thread.spawn(move || work(&queue, look_up)).is_ok()
        };
        (0..threads).map(start).fold(false, |any, started| any | started).then_some(Self { jobs })
    }

    fn addresses(&self, host: &str, time: Duration) -> Result<Vec<SocketAddr>, LookUpError> {
        let (found, answer) = mpsc::sync_channel(1);
        let end = Instant::now().checked_add(time).ok_or(LookUpError::Late)?;
        match self.jobs.try_send(Job { host: host.to_owned(), end, found }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(LookUpError::Busy),
        }
        match answer.recv_timeout(time) {
            Ok(found) => found.ok_or(LookUpError::Unknown),
            Err(RecvTimeoutError::Timeout) => Err(LookUpError::Late),
            Err(RecvTimeoutError::Disconnected) => Err(LookUpError::Late),
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, look_up: fn(&str) -> Option<Vec<SocketAddr>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { host, end, found }) = next else { return };
        if Instant::now() < end {
            // Whoever asked may have given up.
            drop(found.try_send(look_up(&host)));
        }
    }
}

/// The addresses of a host with a port, in the system's order.
pub(super) fn addresses(host: &str, time: Duration) -> Result<Vec<SocketAddr>, LookUpError> {
    static LOOK_UPS: OnceLock<Option<LookUps>> = OnceLock::new();
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let look_up = |host: &str| host.to_socket_addrs().ok().map(Iterator::collect);
    let look_ups = LOOK_UPS.get_or_init(|| LookUps::start(THREADS, WAITING, look_up));
    // A day is more than any call may take.
    let time = time.min(Duration::from_secs(24 * 60 * 60));
    look_ups.as_ref().ok_or(LookUpError::Busy)?.addresses(host, time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_slow_names_has_a_few_threads_and_the_rest_is_refused_at_once() {
        fn slow(_: &str) -> Option<Vec<SocketAddr>> {
            std::thread::sleep(Duration::from_millis(300));
            None
        }
        let look_ups = LookUps::start(2, 3, slow).unwrap();
        let begun = Instant::now();
        let mut refused = 0;
        for _ in 0..200 {
            match look_ups.addresses("slow.example:80", Duration::from_millis(1)) {
                Err(LookUpError::Busy) => refused += 1,
                other => assert_eq!(other, Err(LookUpError::Late)),
            }
        }
        // Without the bound there would be 200 threads.
        assert!(refused >= 150, "{refused} of 200");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn an_address_needs_no_look_up_and_localhost_is_found() {
        let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
        assert_eq!(addresses("192.0.2.1:80", Duration::ZERO), Ok(vec![address]));
        let found = addresses("localhost:80", Duration::from_secs(10)).unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    }
}
