//! Whether the machine lives on its battery.

use std::fs;
use std::path::Path;

/// Where the kernel tells of what the machine is fed by.
pub(super) const SUPPLIES: &str = "/sys/class/power_supply";

/// Whether a battery of the machine is being emptied and nothing feeds it. Where that cannot be told it is not.
pub(super) fn on_battery(supplies: &Path) -> bool {
    let mut is_emptied = false;
    for entry in fs::read_dir(supplies).into_iter().flatten().flatten() {
        let said = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        match said("type").trim() {
            // Of a mouse or a headset it says `Device`.
            "Battery" if said("scope").trim() != "Device" => {
                is_emptied |= said("status").trim() == "Discharging"
            }
            "Mains" | "USB" | "Wireless" if said("online").trim() == "1" => return false,
            _ => {}
        }
    }
    is_emptied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(supplies: &[(&str, &[(&str, &str)])]) -> bool {
        let dir = tempfile::tempdir().unwrap();
        for (name, values) in supplies {
            fs::create_dir(dir.path().join(name)).unwrap();
            for (key, value) in *values {
                fs::write(dir.path().join(name).join(key), format!("{value}\n")).unwrap();
            }
        }
        on_battery(dir.path())
    }

    #[test]
    fn a_battery_that_is_emptied_counts_unless_something_feeds_the_machine() {
        let battery: (&str, &[(&str, &str)]) = ("BAT0", &[("type", "Battery"), ("status", "Discharging")]);
        assert!(told(&[battery]));
        assert!(told(&[battery, ("AC", &[("type", "Mains"), ("online", "0")])]));
        assert!(!told(&[battery, ("AC", &[("type", "Mains"), ("online", "1")])]));
        assert!(!told(&[battery, ("ucsi", &[("type", "USB"), ("online", "1")])]));
        assert!(!told(&[("BAT0", &[("type", "Battery"), ("status", "Full")])]));
        assert!(!told(&[("hid", &[("type", "Battery"), ("scope", "Device"), ("status", "Discharging")])]));
        assert!(!told(&[]));
        assert!(!on_battery(Path::new("/nowhere")));
    }
}
