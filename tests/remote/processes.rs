//! Processes told by a word in their command line that no other process has.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Returns a number of seconds that only one test sleeps.
pub fn unique_seconds() -> String {
    format!("3600.{}{:04}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns the ids of processes that are `sleep` with that argument.
pub fn sleepers(seconds: &str) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let wanted = format!("sleep\0{seconds}\0");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        })
        .collect()
}

/// Waits until so many of them run; false after ten seconds.
pub async fn wait_for_sleepers(seconds: &str, count: usize) -> bool {
    let since = Instant::now();
    while sleepers(seconds).len() != count {
        if since.elapsed() > Duration::from_secs(10) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
