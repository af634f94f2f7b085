//! Runs `entries::safetensors` on whatever the fuzzer comes up with.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| entries::meter::within(data.len(), || entries::safetensors(data)));
