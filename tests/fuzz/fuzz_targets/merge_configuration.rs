#![no_main]

libfuzzer_sys::fuzz_target!(init: cpift_fuzz::allow_contained_panics(), |data: &[u8]| cpift_fuzzing::run("merge_configuration", data));
