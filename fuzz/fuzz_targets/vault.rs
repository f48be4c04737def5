#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pc_switcher_fuzz::vault::run(data));
