//! Which directory below `/sys/fs/cgroup` is a process's memory cgroup.
//!
//! The path in `/proc/PID/cgroup` is relative to the cgroup namespace of whoever reads it, so it fits the monitor's
//! own mount. A process outside that namespace shows up as `/../…`; such paths are refused. conmon: `cgroup.c`,
//! `process_cgroup_subsystem_path`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Room for the thirteen v1 hierarchies and the unified one with paths of more than 1000 bytes each. What is beyond
/// is not looked at.
const PROC_CGROUP_MAX: usize = 16 * 1024;

/// Which interface the memory controller has on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// A mount for each set of controllers; also the hybrid layout, where the unified tree has no controllers.
    V1,
    V2,
}

/// What is mounted on `/sys/fs/cgroup`.
pub fn mounted_hierarchy() -> Hierarchy {
    match statfs(CGROUP_ROOT) {
        Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Hierarchy::V2,
        Ok(_) | Err(_) => Hierarchy::V1,
    }
}

/// The memory cgroup of `process`; `None` where it has none, or is gone.
pub fn memory_directory(process: Pid, hierarchy: Hierarchy) -> Option<PathBuf> {
    let mut buffer = [0; PROC_CGROUP_MAX];
    let text = read_start(Path::new(&format!("/proc/{process}/cgroup")), &mut buffer).ok()?;
    find_memory_directory(text, hierarchy)
}

/// Fills `buffer` with the start of the file and returns the part that was filled.
fn read_start<'a>(path: &Path, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut file = File::open(path)?;
    let mut length = 0;
    while let Some(free) = buffer.get_mut(length..).filter(|free| !free.is_empty()) {
        match file.read(free) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Finds the memory cgroup in the text of `/proc/PID/cgroup`; a last line without its newline is not trusted.
pub fn find_memory_directory(text: &[u8], hierarchy: Hierarchy) -> Option<PathBuf> {
    text.split_inclusive(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .find_map(|line| memory_directory_of_line(line, hierarchy))
}

/// `line` is `ID:CONTROLLER,CONTROLLER:PATH`; the unified tree has the id 0 and no controllers.
fn memory_directory_of_line(line: &[u8], hierarchy: Hierarchy) -> Option<PathBuf> {
    let mut fields = line.splitn(3, |&byte| byte == b':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let mount: &[u8] = match hierarchy {
        Hierarchy::V2 if id == b"0" && controllers.is_empty() => b"",
        // Controllers that share a hierarchy share a directory that is named like the list.
        Hierarchy::V1 if controllers.split(|&byte| byte == b',').any(|name| name == b"memory") => controllers,
        Hierarchy::V1 | Hierarchy::V2 => return None,
    };
    let below = path.strip_prefix(b"/")?;
    let escapes = |part: &[u8]| part == b"..";
    if escapes(mount) || mount.contains(&b'/') || below.split(|&byte| byte == b'/').any(escapes) {
        return None;
    }
    let mut directory = PathBuf::from(CGROUP_ROOT);
    directory.push(OsStr::from_bytes(mount));
    // A path that began with another slash would replace what is there.
    let start = below.iter().take_while(|&&byte| byte == b'/').count();
    directory.push(OsStr::from_bytes(below.get(start..)?));
    Some(directory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &str =
        "9:name=systemd:/user.slice\n4:memory:/pods/a b:c\n1:cpu,cpuacct:/x\n0::/user.slice/s.scope\n";

    #[test]
    fn the_line_of_the_hierarchy_is_taken() {
        let cases: &[(&str, Hierarchy, Option<&str>)] = &[
            (HYBRID, Hierarchy::V1, Some("/sys/fs/cgroup/memory/pods/a b:c")),
            (HYBRID, Hierarchy::V2, Some("/sys/fs/cgroup/user.slice/s.scope")),
            ("0::/\n", Hierarchy::V2, Some("/sys/fs/cgroup/")),
            ("0::/\n", Hierarchy::V1, None),
            ("1:net_cls:/\n0::/a\n", Hierarchy::V2, Some("/sys/fs/cgroup/a")),
            ("3:cpu,memory:/a\n", Hierarchy::V1, Some("/sys/fs/cgroup/cpu,memory/a")),
            ("3:memory2,xmemory,name=memory:/a\n", Hierarchy::V1, None),
            ("10::/a\n", Hierarchy::V2, None),
            ("0::/a", Hierarchy::V2, None),
            ("0::a\n", Hierarchy::V2, None),
            ("0::///a\n", Hierarchy::V2, Some("/sys/fs/cgroup/a")),
            ("0::/../../outside\n", Hierarchy::V2, None),
            ("0::/a/..\n", Hierarchy::V2, None),
            ("0::/a..b\n", Hierarchy::V2, Some("/sys/fs/cgroup/a..b")),
            ("4:memory,/x:/a\n", Hierarchy::V1, None),
            ("", Hierarchy::V1, None),
            ("\n::\n:\n4:memory\n", Hierarchy::V1, None),
        ];
        for (text, hierarchy, wanted) in cases {
            let found = find_memory_directory(text.as_bytes(), *hierarchy);
            assert_eq!(found.as_deref(), wanted.map(Path::new), "{text:?} {hierarchy:?}");
        }
    }

    #[test]
    fn a_long_file_is_cut_and_its_last_line_not_trusted() {
        // The shortest such file is the `0::/` of a process in the root of cgroup v2.
        let mut buffer = [0; 4];
        assert_eq!(read_start(Path::new("/proc/self/cgroup"), &mut buffer).unwrap().len(), 4);
        assert!(read_start(Path::new("/proc/self/nothing"), &mut buffer).is_err());
    }

    #[test]
    fn a_process_that_is_gone_has_no_directory() {
        assert_eq!(memory_directory(Pid::from_raw(i32::MAX), mounted_hierarchy()), None);
    }

    proptest! {
        #[test]
        fn no_text_leads_out_of_the_cgroup_mount(
            text in "([0-9]{0,2}:[a-z,/.]{0,9}:[a-z/.: ]{0,12}\n){0,4}|(0::|4:memory:)[/.a]{0,9}\n",
            v2: bool,
        ) {
            let hierarchy = if v2 { Hierarchy::V2 } else { Hierarchy::V1 };
            if let Some(directory) = find_memory_directory(text.as_bytes(), hierarchy) {
                prop_assert!(directory.starts_with(CGROUP_ROOT));
                prop_assert!(directory.components().all(|part| part.as_os_str() != ".."));
            }
        }
    }
}
