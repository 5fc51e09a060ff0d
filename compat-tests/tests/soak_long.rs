//! Thousands of containers, hundreds of real ones, and a day's output through one monitor. Takes minutes: `make soak`.

use compat_tests::soak::{Engine, flood, soak};

#[test]
fn two_thousand_containers() {
    soak(2000, 200, Engine::Standin);
}

#[test]
fn two_hundred_real_containers() {
    soak(200, 20, Engine::Runc);
}

/// 200 lines of 100 bytes a second.
#[test]
fn a_day_of_output_in_constant_memory() {
    flood(17_280_000);
}
