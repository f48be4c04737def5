//! Sizes as people read them, everywhere in the same unit.

/// Writes bytes with a binary unit, for example `9.8 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_the_largest_unit_that_fits() {
        let said = [0, 1023, 1024, 84 << 20, 3 << 39, u64::MAX].map(human_bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "84.0 MiB", "1.5 TiB", "16777216.0 TiB"]);
    }
}
