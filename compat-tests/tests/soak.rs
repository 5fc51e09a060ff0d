//! Many containers at once, and an hour's output through one monitor. `make soak` runs the long ones of `soak_long`.

use compat_tests::soak::{Engine, flood, soak};

#[test]
fn two_hundred_containers() {
    soak(200, 50, Engine::Standin);
}

#[test]
fn an_hour_of_output_in_constant_memory() {
    flood(720_000);
}
