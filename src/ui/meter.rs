//! Rate and remaining time, from progress reports and their stamps.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::{ModuleName, Progress};

use crate::session::text;

/// Weight of a new measurement against the older ones.
const SMOOTHING: f64 = 0.3;
/// Shortest span that is measured.
const SPAN: Duration = Duration::from_millis(500);

/// What is known of one module.
#[derive(Debug, Clone, Default)]
struct Gauge {
    fraction: Option<f64>,
    done: bool,
    mark: Option<(Timestamp, u64)>,
    rate: Option<f64>,
    eta: Option<Duration>,
}

/// Rates and shares of all modules of a session.
#[derive(Debug, Default)]
pub(super) struct Meter {
    modules: Vec<ModuleName>,
    gauges: BTreeMap<ModuleName, Gauge>,
}

impl Meter {
    /// Sets which modules make up the whole.
    pub(super) fn expect(&mut self, modules: &[ModuleName]) {
        self.modules = modules.to_vec();
    }

    /// Takes a report and returns its line, for example `42 %, 84.0 MiB of 200.0 MiB, 12.0 MiB/s, 10 s left`.
    pub(super) fn update(&mut self, module: &ModuleName, at: Timestamp, progress: &Progress) -> String {
        let gauge = self.gauges.entry(module.clone()).or_default();
        gauge.fraction = progress.fraction.map(|fraction| fraction.get()).or(gauge.fraction);
        if let Some((done, _)) = progress.bytes {
            gauge.measure(at, done);
        }
        gauge.eta = progress.eta.or_else(|| {
            let (done, total) = progress.bytes?;
            let rate = gauge.rate.filter(|rate| *rate >= 1.0)?;
            Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate).ok()
        });
        let mut parts = Vec::new();
        parts.extend(progress.fraction.map(percent));
        parts.extend(
            progress.bytes.map(|(done, total)| format!("{} of {}", text::bytes(done), text::bytes(total))),
        );
        parts.extend(gauge.rate.map(|rate| format!("{}/s", text::bytes(rate as u64))));
        parts.extend(gauge.eta.map(|eta| format!("{} left", text::duration(eta))));
        parts.join(", ")
    }

    /// Notes that a module is done with.
    pub(super) fn finish(&mut self, module: &ModuleName) {
        let gauge = self.gauges.entry(module.clone()).or_default();
        gauge.done = true;
        gauge.rate = None;
        gauge.eta = None;
    }

    /// Returns the share of the whole session, every module counting the same.
    pub(super) fn overall(&self) -> f64 {
        if self.modules.is_empty() {
            return 0.0;
        }
        let share = |module: &ModuleName| match self.gauges.get(module) {
            Some(gauge) if gauge.done => 1.0,
            Some(gauge) => gauge.fraction.unwrap_or(0.0),
            None => 0.0,
        };
        self.modules.iter().map(share).sum::<f64>() / self.modules.len() as f64
    }

    /// Returns what stands behind the overall bar: modules done, rate, and the time left if only one module is.
    pub(super) fn overall_text(&self) -> String {
        let gauges: Vec<_> = self.modules.iter().map(|module| self.gauges.get(module)).collect();
        let done = gauges.iter().filter(|gauge| gauge.is_some_and(|g| g.done)).count();
        let mut parts = vec![format!("{done} of {}", text::count(gauges.len() as u64, "module"))];
        let rate: f64 = gauges.iter().flatten().filter_map(|gauge| gauge.rate).sum();
        if rate >= 1.0 {
            parts.push(format!("{}/s", text::bytes(rate as u64)));
        }
        if gauges.len() - done == 1
            && let Some(eta) = gauges.iter().flatten().find(|gauge| !gauge.done).and_then(|gauge| gauge.eta)
        {
            parts.push(format!("{} left", text::duration(eta)));
        }
        parts.join(", ")
    }
}

impl Gauge {
    fn measure(&mut self, at: Timestamp, done: u64) {
        let Some((since, before)) = self.mark else {
            self.mark = Some((at, done));
            return;
        };
        let span = at.duration_since(since).unsigned_abs();
        if span < SPAN {
            return;
        }
        let now = done.saturating_sub(before) as f64 / span.as_secs_f64();
        self.rate = Some(self.rate.map_or(now, |rate| rate + SMOOTHING * (now - rate)));
        self.mark = Some((at, done));
    }
}

/// Returns for example `42 %`; 100 % is said of the whole alone.
pub(super) fn percent(fraction: pc_switcher_contract::Fraction) -> String {
    format!("{} %", (fraction.get() * 100.0).floor())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::Fraction;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn step(done: u64) -> Progress {
        Progress {
            fraction: Some(Fraction::of(done, 100 << 20)),
            item: "x".into(),
            eta: None,
            bytes: Some((done, 100 << 20)),
        }
    }

    #[test]
    fn rate_and_time_left_follow_from_bytes_and_stamps() {
        let mut meter = Meter::default();
        let module = ModuleName::literal("user-data");
        meter.expect(std::slice::from_ref(&module));
        assert_eq!(meter.update(&module, at(0), &step(0)), "0 %, 0 B of 100.0 MiB");
        let text = meter.update(&module, at(2), &step(20 << 20));
        assert_eq!(text, "20 %, 20.0 MiB of 100.0 MiB, 10.0 MiB/s, 8 s left");
        assert_eq!(meter.overall_text(), "0 of 1 module, 10.0 MiB/s, 8 s left");
    }

    #[test]
    fn the_whole_is_done_when_all_modules_are() {
        let mut meter = Meter::default();
        let modules = ["a", "b"].map(ModuleName::literal);
        meter.expect(&modules);
        meter.update(&modules[0], at(0), &step(50 << 20));
        assert!((meter.overall() - 0.25).abs() < 1e-9);
        meter.finish(&modules[0]);
        meter.finish(&modules[1]);
        assert!((meter.overall() - 1.0).abs() < 1e-9);
        assert_eq!(meter.overall_text(), "2 of 2 modules");
    }

    #[test]
    fn almost_all_is_not_all() {
        assert_eq!(percent(Fraction::new(0.9999).unwrap()), "99 %");
    }
}
