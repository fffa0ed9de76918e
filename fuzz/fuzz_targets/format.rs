//! Fuzz target `format`: bytes in, no panic out. What it does stands in `tests/common/fuzz_entry.rs`.

#![no_main]

#[path = "../../tests/common/fuzz_entry.rs"]
#[allow(dead_code)]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entry::format(data));
