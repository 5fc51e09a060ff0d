//! The system calls that can be made to fail, what they are about, and the errors they can really end in.
//!
//! A call that is not listed is never touched: either it can't fail (`getpid`), or it fails for nothing but a mistake
//! in its arguments (`setsid`, `lseek`).

use libc::{EINTR, EIO, EMFILE, ENOMEM, ENOSPC};

/// Which argument tells what a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Nothing,
    Path(usize),
    Fd(usize),
}

use Subject::{Fd, Nothing, Path};

/// One kind of system call.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub number: libc::c_long,
    pub name: &'static str,
    pub subject: Subject,
    pub errors: &'static [i32],
}

const NEW_FD: &[i32] = &[EMFILE, ENOMEM];
const OPEN: &[i32] = &[ENOMEM, EMFILE, ENOSPC, EIO, EINTR];
const MAKE: &[i32] = &[ENOSPC, ENOMEM, EIO];
const WRITE: &[i32] = &[ENOSPC, EIO, EINTR];
const READ: &[i32] = &[EIO, EINTR, ENOMEM];
const LOOK: &[i32] = &[ENOMEM, EIO];
const MESSAGE: &[i32] = &[ENOMEM, EINTR];
const MEMORY: &[i32] = &[ENOMEM];
const WAIT: &[i32] = &[EINTR];

const fn kind(number: libc::c_long, name: &'static str, subject: Subject, errors: &'static [i32]) -> Kind {
    Kind { number, name, subject, errors }
}

/// All kinds, by name.
pub const KINDS: &[Kind] = &[
    kind(libc::SYS_accept4, "accept4", Fd(0), &[EMFILE, ENOMEM, EINTR]),
    kind(libc::SYS_bind, "bind", Fd(0), MAKE),
    kind(libc::SYS_brk, "brk", Nothing, MEMORY),
    kind(libc::SYS_clone, "clone", Nothing, MEMORY),
    kind(libc::SYS_close, "close", Fd(0), &[EIO, EINTR]),
    kind(libc::SYS_connect, "connect", Fd(0), &[EINTR]),
    kind(libc::SYS_dup3, "dup3", Fd(0), &[EMFILE, EINTR]),
    kind(libc::SYS_epoll_create1, "epoll_create1", Nothing, NEW_FD),
    kind(libc::SYS_epoll_ctl, "epoll_ctl", Fd(2), &[ENOMEM, ENOSPC]),
    kind(libc::SYS_epoll_pwait, "epoll_pwait", Nothing, WAIT),
    kind(libc::SYS_eventfd2, "eventfd2", Nothing, NEW_FD),
    kind(libc::SYS_fallocate, "fallocate", Fd(0), WRITE),
    kind(libc::SYS_fchmod, "fchmod", Fd(0), LOOK),
    kind(libc::SYS_fchmodat, "fchmodat", Path(1), LOOK),
    kind(libc::SYS_fdatasync, "fdatasync", Fd(0), WRITE),
    kind(libc::SYS_fstat, "fstat", Fd(0), LOOK),
    kind(libc::SYS_fsync, "fsync", Fd(0), WRITE),
    kind(libc::SYS_ftruncate, "ftruncate", Fd(0), &[EIO, EINTR]),
    kind(libc::SYS_getcwd, "getcwd", Nothing, MEMORY),
    kind(libc::SYS_getdents64, "getdents64", Fd(0), LOOK),
    kind(libc::SYS_getrandom, "getrandom", Nothing, WAIT),
    kind(libc::SYS_inotify_add_watch, "inotify_add_watch", Path(1), &[ENOMEM, ENOSPC]),
    kind(libc::SYS_inotify_init1, "inotify_init1", Nothing, NEW_FD),
    kind(libc::SYS_ioctl, "ioctl", Fd(0), &[EIO]),
    kind(libc::SYS_linkat, "linkat", Path(3), MAKE),
    kind(libc::SYS_madvise, "madvise", Nothing, MEMORY),
    kind(libc::SYS_memfd_create, "memfd_create", Nothing, NEW_FD),
    kind(libc::SYS_mkdirat, "mkdirat", Path(1), MAKE),
    kind(libc::SYS_mknodat, "mknodat", Path(1), MAKE),
    kind(libc::SYS_mmap, "mmap", Nothing, MEMORY),
    kind(libc::SYS_mprotect, "mprotect", Nothing, MEMORY),
    kind(libc::SYS_mremap, "mremap", Nothing, MEMORY),
    kind(libc::SYS_munmap, "munmap", Nothing, MEMORY),
    kind(libc::SYS_newfstatat, "newfstatat", Path(1), LOOK),
    kind(libc::SYS_openat, "openat", Path(1), OPEN),
    kind(libc::SYS_pidfd_open, "pidfd_open", Nothing, NEW_FD),
    kind(libc::SYS_pipe2, "pipe2", Nothing, NEW_FD),
    kind(libc::SYS_pread64, "pread64", Fd(0), READ),
    kind(libc::SYS_prctl, "prctl", Nothing, MEMORY),
    kind(libc::SYS_pwrite64, "pwrite64", Fd(0), WRITE),
    kind(libc::SYS_read, "read", Fd(0), READ),
    kind(libc::SYS_readlinkat, "readlinkat", Path(1), LOOK),
    kind(libc::SYS_recvfrom, "recvfrom", Fd(0), MESSAGE),
    kind(libc::SYS_recvmsg, "recvmsg", Fd(0), MESSAGE),
    kind(libc::SYS_renameat, "renameat", Path(1), MAKE),
    kind(libc::SYS_renameat2, "renameat2", Path(1), MAKE),
    kind(libc::SYS_sendmmsg, "sendmmsg", Fd(0), MESSAGE),
    kind(libc::SYS_sendmsg, "sendmsg", Fd(0), MESSAGE),
    kind(libc::SYS_sendto, "sendto", Fd(0), MESSAGE),
    kind(libc::SYS_signalfd4, "signalfd4", Nothing, NEW_FD),
    kind(libc::SYS_socket, "socket", Nothing, NEW_FD),
    kind(libc::SYS_socketpair, "socketpair", Nothing, NEW_FD),
    kind(libc::SYS_statfs, "statfs", Path(0), &[ENOMEM, EIO, EINTR]),
    kind(libc::SYS_statx, "statx", Path(1), LOOK),
    kind(libc::SYS_symlinkat, "symlinkat", Path(2), MAKE),
    kind(libc::SYS_unlinkat, "unlinkat", Path(1), LOOK),
    kind(libc::SYS_wait4, "wait4", Nothing, WAIT),
    kind(libc::SYS_write, "write", Fd(0), WRITE),
    kind(libc::SYS_writev, "writev", Fd(0), WRITE),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_access, "access", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_chmod, "chmod", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_dup2, "dup2", Fd(0), &[EMFILE, EINTR]),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_epoll_wait, "epoll_wait", Nothing, WAIT),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_fork, "fork", Nothing, MEMORY),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_lstat, "lstat", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_mkdir, "mkdir", Path(0), MAKE),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_mknod, "mknod", Path(0), MAKE),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_open, "open", Path(0), OPEN),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_poll, "poll", Nothing, &[EINTR, ENOMEM]),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_readlink, "readlink", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_rename, "rename", Path(0), MAKE),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_rmdir, "rmdir", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_stat, "stat", Path(0), LOOK),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_symlink, "symlink", Path(1), MAKE),
    #[cfg(target_arch = "x86_64")]
    kind(libc::SYS_unlink, "unlink", Path(0), LOOK),
];

/// The calls that an allocation is made of; when one of them fails the allocator tries another.
pub const OF_MEMORY: [&str; 3] = ["brk", "mmap", "mremap"];
/// Stands for all of them in a fault.
pub const MEMORY_GROUP: &str = "memory";

/// The kind of the call with this number; `None`: one that is left alone.
#[must_use]
pub fn by_number(number: u64) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| u64::try_from(kind.number) == Ok(number))
}

/// # Panics
/// When there is no such kind.
#[must_use]
pub fn by_name(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("no call named {name}"))
}
