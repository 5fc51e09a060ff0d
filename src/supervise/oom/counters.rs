//! What the kernel's memory files say about kills: `memory.events` (v2) and `memory.oom_control` (v1).
//!
//! Both are lines of a name, a space and a decimal number. A line that can't be understood counts as absent. Kills are
//! counted by Linux 4.13 and later.

/// More than the longest of these files with all its counters at their maximum.
pub const FILE_MAX: usize = 512;

/// Kills counted by `memory.events`, in this cgroup and below it; 0 where the kernel counts none.
///
/// `oom_kill` rises for each process killed. `oom_group_kill` (Linux 5.17) rises once when a whole cgroup with
/// `memory.oom.group` is killed, after `oom_kill` has risen for each member. Only the sum's rise is of use.
/// Plain `oom` rises also when nobody dies, so it is not looked at.
pub fn kills_in_memory_events(text: &[u8]) -> u64 {
    let count = |name| number(text, name).unwrap_or(0);
    count(b"oom_kill").saturating_add(count(b"oom_group_kill"))
}

/// The text of `memory.oom_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomControl {
    /// Processes of this very cgroup that were killed, not those of cgroups below it. `None`: not counted by this
    /// kernel.
    pub kills: Option<u64>,
    pub killer: Killer,
}

/// What happens to a process that hits the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killer {
    Enabled,
    /// `oom_kill_disable`: it waits until there is memory. Events come all the same.
    Disabled,
}

/// Reads `memory.oom_control`.
pub fn parse_oom_control(text: &[u8]) -> OomControl {
    let killer = match number(text, b"oom_kill_disable") {
        Some(0) | None => Killer::Enabled,
        Some(_) => Killer::Disabled,
    };
    OomControl { kills: number(text, b"oom_kill"), killer }
}

/// A file that is one decimal number (`memory.failcnt`); 0 for anything else.
pub fn parse_count(text: &[u8]) -> u64 {
    decimal(text.trim_ascii()).unwrap_or(0)
}

/// The number behind the first line's `name`.
fn number(text: &[u8], name: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(b" "))
        .and_then(|value| decimal(value.trim_ascii()))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_kills_count() {
        let cases: &[(&str, u64)] = &[
            ("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n", 11),
            ("low 0\nhigh 0\nmax 9\noom 9\noom_kill 0\n", 0),
            ("low 0\nhigh 0\nmax 9\noom 9\n", 0),
            ("oom_kill 7", 7),
            ("oom_kill 18446744073709551615\noom_group_kill 1\n", u64::MAX),
            ("oom_kill 18446744073709551616\noom_group_kill 1\n", 1),
            ("oom_kill invalid\noom_group_kill 2\n", 2),
            ("oom_kill\noom_kill -1\nxoom_kill 3\noom_kills 4\n", 0),
            ("oom_kill  8 \n", 8),
            ("\n\n\0\u{ff}", 0),
            ("", 0),
        ];
        for (text, wanted) in cases {
            assert_eq!(kills_in_memory_events(text.as_bytes()), *wanted, "{text:?}");
        }
    }

    #[test]
    fn oom_control_of_old_and_new_kernels() {
        let cases: &[(&str, Option<u64>, Killer)] = &[
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3), Killer::Enabled),
            ("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n", Some(0), Killer::Disabled),
            ("oom_kill_disable 0\nunder_oom 0\n", None, Killer::Enabled),
            ("", None, Killer::Enabled),
        ];
        for (text, kills, killer) in cases {
            let wanted = OomControl { kills: *kills, killer: *killer };
            assert_eq!(parse_oom_control(text.as_bytes()), wanted, "{text:?}");
        }
    }

    #[test]
    fn counts_are_whole_decimal_numbers() {
        for (text, wanted) in [("0\n", 0), ("12\n", 12), ("12", 12), ("12 3\n", 0), ("", 0), ("max\n", 0)] {
            assert_eq!(parse_count(text.as_bytes()), wanted, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..FILE_MAX)) {
            kills_in_memory_events(&text);
            parse_oom_control(&text);
            parse_count(&text);
        }

        #[test]
        fn what_the_kernel_prints_is_read_back(before in "(max [0-9]{1,5}\n){0,3}", kills: u64) {
            let text = format!("{before}oom_kill {kills}\n");
            prop_assert_eq!(kills_in_memory_events(text.as_bytes()), kills);
            prop_assert_eq!(parse_oom_control(text.as_bytes()).kills, Some(kills));
        }
    }
}
