//! What goes over a slow cable, and over a fast one.

use std::time::Instant;

use pc_switcher_testkit::lab::Machine;

use crate::hosts::{CONFIG, alice, assert_moved, first_sync, lab, root, sync};

/// Kilobits a second of a slow cable: 2.5 MB/s.
const SLOW: u32 = 20_000;

/// Bytes that came over the network so far.
fn received(machine: &Machine) -> u64 {
    let all = "cat /sys/class/net/*/statistics/rx_bytes | awk '{ sum += $1 } END { printf \"%.0f\", sum }'";
    root(machine, all).trim().parse().unwrap()
}

/// Makes 24 MB that become much smaller, and 4 MB that do not.
fn write(laptop: &Machine, name: &str) {
    alice(
        laptop,
        &format!(
            "mkdir {name} && cd {name} && seq -f 'line %.0f of {name} and so on' 1000000 | head -c 24M >text && head -c 4M /dev/urandom >noise"
        ),
    );
}

#[test]
fn what_gets_smaller_is_compressed_for_a_slow_cable_and_only_for_a_slow_one() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);

    write(laptop, "fast");
    let so_far = received(desk);
    let ran = sync(laptop, "desk", &[]).ends_with(0);
    let bytes = received(desk) - so_far;
    // A machine with very much else to do may take it for a slow one for a moment.
    assert!(bytes > 20 << 20, "{bytes} bytes\n{}", ran.text);

    write(laptop, "slow");
    let so_far = received(desk);
    desk.limit_rate(Some(SLOW)).unwrap();
    let began = Instant::now();
    let ran =
        sync(laptop, "desk", &[]).ends_with(0).says(&["were compressed to", "the link took", "28.0 MiB"]);
    let took = began.elapsed();
    desk.limit_rate(None).unwrap();
    let bytes = received(desk) - so_far;
    // What was on its way before the link was known to be slow, and the noise, went as they were.
    assert!(bytes < 18 << 20, "{bytes} bytes in {took:?}\n{}", ran.text);
    assert_moved(laptop, desk);
}

#[test]
fn whoever_wants_it_always_or_never_gets_that() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    let mut bytes = Vec::new();
    for wish in ["on", "off"] {
        alice(
            laptop,
            &format!(
                "mkdir -p $(dirname {CONFIG}) && printf '[user-data]\ncompress = \"{wish}\"\n' >{CONFIG}"
            ),
        );
        write(laptop, wish);
        let so_far = received(desk);
        let ran = sync(laptop, "desk", &[]).ends_with(0);
        assert_eq!(ran.text.contains("were compressed to"), wish == "on", "{}", ran.text);
        bytes.push(received(desk) - so_far);
    }
    assert!(bytes[0] < 12 << 20 && bytes[1] > 28 << 20, "{bytes:?}");
    assert_moved(laptop, desk);
}
