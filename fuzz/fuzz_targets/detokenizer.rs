//! Runs `entries::detokenizer` on the fuzzer's inputs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| entries::meter::within(data.len(), || entries::detokenizer(data)));
