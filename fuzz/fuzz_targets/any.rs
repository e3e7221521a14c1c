//! Any target of tpde-tests' `fuzz`, under libFuzzer: the one whose name this binary has.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (tpde_tests::fuzz::target(env!("CARGO_BIN_NAME")).run)(bytes);
});
