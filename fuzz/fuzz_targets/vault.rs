#![no_main]

use std::sync::LazyLock;

use pc_switcher_fuzz::vault;

/// Named by `FUZZ_KIND`: the first byte of what the fuzzer invents is then of no meaning.
static KIND: LazyLock<Option<u8>> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_KIND").ok().filter(|name| !name.is_empty())?;
    let known = ["header", "tree", "index", "snapshot", "config"].iter().position(|known| *known == name);
    Some(known.unwrap_or_else(|| panic!("FUZZ_KIND: no kind is called {name}")) as u8)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| match (*KIND, data.split_first()) {
    (Some(kind), Some((_, body))) => vault::run_as(kind, body),
    _ => vault::run(data),
});
