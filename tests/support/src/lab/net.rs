//! The cable: cut in two ways, slowed down. A boot plugs a fresh one in.

use super::{error::Result, machine::Machine, tool};

/// How a cable fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CableCut {
    /// Pulled out: the carrier is lost, the kernel knows.
    Carrier,
    /// Dead air: packets vanish, nobody is told.
    Silent,
}

impl Machine {
    /// Cuts the cable between this machine and the other one.
    pub fn cable_cut(&self, how: CableCut) -> Result<()> {
        self.link(match how {
            CableCut::Carrier => &["down"],
            CableCut::Silent => &["nomaster"],
        })
    }

    /// Makes the cable whole again, whichever way it was cut.
    pub fn cable_restore(&self) -> Result<()> {
        self.link(&["master", "br0", "up"])
    }

    /// Limits what reaches this machine to so many kilobits a second; `None` lifts the limit.
    pub fn limit_rate(&self, kbit_per_s: Option<u32>) -> Result<()> {
        self.door()?;
        let port = self.hostname();
        self.shared.hub.run(|| {
            let Some(kbit_per_s) = kbit_per_s else {
                // There may be no limit to lift.
                let _ = tool::run("tc", ["qdisc", "del", "dev", port, "root"]);
                return Ok(());
            };
            let rate = format!("{kbit_per_s}kbit");
            let limit = [
                "qdisc", "replace", "dev", port, "root", "tbf", "rate", &rate, "burst", "64kb", "latency",
                "400ms",
            ];
            tool::run("tc", limit).map(drop)
        })
    }

    fn link(&self, change: &[&str]) -> Result<()> {
        self.door()?;
        let words = ["link", "set", self.hostname()].into_iter().chain(change.iter().copied());
        self.shared.hub.run(|| tool::run("ip", words).map(drop))
    }
}
