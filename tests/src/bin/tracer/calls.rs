//! The system calls of interest: what each is about, and what can happen to it.

use nix::libc::{self, user_regs_struct};

/// What a call is about.
#[derive(Clone, Copy)]
pub enum Subject {
    /// The path that this argument is, the first being 0.
    Path(u8),
    /// The descriptor that the first argument is.
    Descriptor,
    /// The kind of socket that the first argument is.
    Domain,
}

use Subject::{Descriptor, Domain, Path};

/// A system call.
#[derive(Clone, Copy)]
pub struct Call {
    pub number: i64,
    pub name: &'static str,
    pub subject: Subject,
    /// The argument that is the new path.
    pub target: Option<u8>,
    /// Whether files, or what others know, are different after it.
    changes: bool,
    /// What it can fail with.
    errors: &'static [&'static str],
    /// Whether it may do a part of what is asked for.
    pub can_be_short: bool,
}

/// An argument of a call.
pub fn argument(registers: &user_regs_struct, number: u8) -> u64 {
    match number {
        0 => registers.rdi,
        1 => registers.rsi,
        2 => registers.rdx,
        _ => registers.r10,
    }
}

impl Call {
    pub fn opens(&self) -> bool {
        matches!(self.name, "open" | "openat")
    }

    /// Whether it may make a file, or changes one.
    pub fn changes(&self, registers: &user_regs_struct) -> bool {
        if self.opens() { self.flags(registers) & WRITES != 0 } else { self.changes }
    }

    pub fn can_fail_with(&self, error: &str, registers: &user_regs_struct) -> bool {
        let only_reads = self.opens() && !self.changes(registers);
        self.errors.contains(&error) && !(only_reads && error == "ENOSPC")
    }

    pub fn reads(&self) -> bool {
        matches!(self.name, "read" | "recvfrom")
    }

    /// Whether its second argument is data and the third how much of it.
    pub fn moves_data(&self) -> bool {
        matches!(self.name, "read" | "recvfrom" | "write" | "sendto")
    }

    fn flags(&self, registers: &user_regs_struct) -> u64 {
        argument(registers, if self.name == "open" { 1 } else { 2 })
    }
}

const WRITES: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;

const OPEN: &[&str] = &["EIO", "ENOSPC", "EACCES", "EMFILE", "EINTR"];
const ENTRY: &[&str] = &["EIO", "ENOSPC", "EACCES"];
const LOOK: &[&str] = &["EIO", "EACCES"];
const READ: &[&str] = &["EIO", "EINTR"];
const WRITE: &[&str] = &["EIO", "ENOSPC", "EINTR"];
const TALK: &[&str] = &["EIO", "EINTR"];

const fn path(
    number: i64,
    name: &'static str,
    argument: u8,
    errors: &'static [&'static str],
) -> Call {
    let changes = true;
    let subject = Path(argument);
    Call { number, name, subject, target: None, changes, errors, can_be_short: false }
}

const fn descriptor(number: i64, name: &'static str, errors: &'static [&'static str]) -> Call {
    let changes = true;
    Call { number, name, subject: Descriptor, target: None, changes, errors, can_be_short: false }
}

const fn looks(call: Call) -> Call {
    Call { changes: false, ..call }
}

const fn to(argument: u8, call: Call) -> Call {
    Call { target: Some(argument), ..call }
}

const fn short(call: Call) -> Call {
    Call { can_be_short: true, ..call }
}

/// All of them.
pub const CALLS: &[Call] = &[
    path(libc::SYS_open, "open", 0, OPEN),
    path(libc::SYS_openat, "openat", 1, OPEN),
    to(1, path(libc::SYS_rename, "rename", 0, ENTRY)),
    to(3, path(libc::SYS_renameat, "renameat", 1, ENTRY)),
    to(3, path(libc::SYS_renameat2, "renameat2", 1, ENTRY)),
    to(1, path(libc::SYS_link, "link", 0, ENTRY)),
    to(3, path(libc::SYS_linkat, "linkat", 1, ENTRY)),
    path(libc::SYS_symlink, "symlink", 1, ENTRY),
    path(libc::SYS_symlinkat, "symlinkat", 2, ENTRY),
    path(libc::SYS_unlink, "unlink", 0, LOOK),
    path(libc::SYS_unlinkat, "unlinkat", 1, LOOK),
    path(libc::SYS_mkdir, "mkdir", 0, ENTRY),
    path(libc::SYS_mkdirat, "mkdirat", 1, ENTRY),
    path(libc::SYS_rmdir, "rmdir", 0, LOOK),
    path(libc::SYS_truncate, "truncate", 0, ENTRY),
    path(libc::SYS_chmod, "chmod", 0, LOOK),
    path(libc::SYS_fchmodat, "fchmodat", 1, LOOK),
    looks(path(libc::SYS_stat, "stat", 0, LOOK)),
    looks(path(libc::SYS_lstat, "lstat", 0, LOOK)),
    looks(path(libc::SYS_newfstatat, "newfstatat", 1, LOOK)),
    looks(path(libc::SYS_statx, "statx", 1, LOOK)),
    looks(path(libc::SYS_statfs, "statfs", 0, LOOK)),
    looks(path(libc::SYS_access, "access", 0, LOOK)),
    looks(path(libc::SYS_faccessat, "faccessat", 1, LOOK)),
    looks(path(libc::SYS_faccessat2, "faccessat2", 1, LOOK)),
    looks(descriptor(libc::SYS_fstat, "fstat", &["EIO"])),
    looks(descriptor(libc::SYS_fstatfs, "fstatfs", &["EIO"])),
    looks(descriptor(libc::SYS_getdents64, "getdents64", &["EIO"])),
    looks(short(descriptor(libc::SYS_read, "read", READ))),
    looks(short(descriptor(libc::SYS_pread64, "pread64", READ))),
    short(descriptor(libc::SYS_write, "write", WRITE)),
    short(descriptor(libc::SYS_pwrite64, "pwrite64", WRITE)),
    descriptor(libc::SYS_writev, "writev", WRITE),
    descriptor(libc::SYS_pwritev, "pwritev", WRITE),
    descriptor(libc::SYS_copy_file_range, "copy_file_range", WRITE),
    descriptor(libc::SYS_sendfile, "sendfile", WRITE),
    descriptor(libc::SYS_fsync, "fsync", &["EIO", "ENOSPC", "EINTR"]),
    descriptor(libc::SYS_fdatasync, "fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    descriptor(libc::SYS_ftruncate, "ftruncate", &["EIO", "EINTR"]),
    descriptor(libc::SYS_fallocate, "fallocate", WRITE),
    descriptor(libc::SYS_fchmod, "fchmod", &["EIO"]),
    descriptor(libc::SYS_flock, "flock", &["EINTR"]),
    Call {
        number: libc::SYS_socket,
        name: "socket",
        subject: Domain,
        target: None,
        changes: true,
        errors: &["EACCES", "EMFILE"],
        can_be_short: false,
    },
    descriptor(libc::SYS_connect, "connect", &["EACCES", "EINTR"]),
    short(descriptor(libc::SYS_sendto, "sendto", TALK)),
    descriptor(libc::SYS_sendmsg, "sendmsg", TALK),
    short(descriptor(libc::SYS_recvfrom, "recvfrom", TALK)),
    descriptor(libc::SYS_recvmsg, "recvmsg", TALK),
    descriptor(libc::SYS_shutdown, "shutdown", &[]),
];
