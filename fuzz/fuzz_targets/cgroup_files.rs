//! Whatever the cgroup files hold, the directory that is looked at stays below the mount, and counters never wrap.

#![no_main]

use std::path::Component;

use ferromon::supervise::oom::cgroup::{Hierarchy, find_memory_directory};
use ferromon::supervise::oom::counters::{kills_in_memory_events, parse_count, parse_oom_control};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
        if let Some(directory) = find_memory_directory(data, hierarchy) {
            assert!(directory.starts_with("/sys/fs/cgroup"));
            let plain = |part: Component<'_>| !matches!(part, Component::ParentDir);
            assert!(directory.components().all(plain), "leaves the mount: {directory:?}");
        }
    }
    let kills = kills_in_memory_events(data);
    // What is appended behind the last line doesn't change what the first lines say.
    let longer = [data, b"\noom_kill 5\n"].concat();
    assert!(kills_in_memory_events(&longer) >= kills);
    let control = parse_oom_control(data);
    if control.kills.is_some() {
        assert_eq!(parse_oom_control(&longer), control);
    }
    let count = parse_count(data);
    assert_eq!(parse_count(format!(" {count}\n").as_bytes()), count);
});
