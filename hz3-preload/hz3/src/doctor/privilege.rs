//! Privilege: whether the program runs with other rights than its user's, for which the loader ignores `LD_PRELOAD`.
//!
//! Outside rules: ld.so(8), "secure-execution mode"; capabilities(7), "file capabilities".

use super::finding::Finding;
use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid};
use rustix::fs::{StatVfsMountFlags, getxattr, statvfs};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SET_UID: u32 = 0o4000;
/// Set-group-id counts only together with the right of the group to execute.
const SET_GID: u32 = 0o2010;

/// What decides about the rights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rights {
    mode: u32,
    owner: u32,
    group: u32,
    has_capabilities: bool,
    /// Whether the file system's `nosuid` option makes all of it void.
    is_void: bool,
    user: u32,
    user_group: u32,
}

impl Rights {
    /// Reads the file's rights, for the user who asks.
    pub fn read(file: &Path) -> Result<Rights> {
        let metadata = file.metadata().with_context(|| format!("{}", file.display()))?;
        let mut capabilities = [0_u8; 64];
        Ok(Rights {
            mode: metadata.mode(),
            owner: metadata.uid(),
            group: metadata.gid(),
            has_capabilities: getxattr(file, "security.capability", &mut capabilities).is_ok_and(|length| length > 0),
            is_void: statvfs(file).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::NOSUID)),
            user: Uid::current().as_raw(),
            user_group: Gid::current().as_raw(),
        })
    }

    /// Whether the loader runs in secure-execution mode for this user.
    pub fn is_secure(&self) -> bool {
        let of_user = self.mode & SET_UID != 0 && self.owner != self.user;
        let of_group = self.mode & SET_GID == SET_GID && self.group != self.user_group;
        // Root has the capabilities without the file's help.
        let of_capabilities = self.has_capabilities && self.user != 0;
        !self.is_void && (of_user || of_group || of_capabilities)
    }

    /// What follows.
    pub fn findings(&self) -> Option<Finding> {
        let set = [
            (self.mode & SET_UID != 0, "set-user-id"),
            (self.mode & SET_GID == SET_GID, "set-group-id"),
            (self.has_capabilities, "given file capabilities"),
        ];
        let names: Vec<&str> = set.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        if names.is_empty() {
            return None;
        }
        let what = format!("the program is {}", names.join(" and "));
        let meaning = "The loader runs it in secure-execution mode, in which it ignores every library in LD_PRELOAD that \
                       has a slash in its name; hz3 reads no HZ3_ variables then either.";
        let remedy = "take the bits away if they are not needed, or link the program with the library; /etc/ld.so.preload works \
                      too, but for every program of the system.";
        if self.is_secure() {
            Some(Finding::stops(what, meaning, remedy))
        } else if self.is_void {
            let why = "Its file system is mounted with nosuid, so that this has no effect here.";
            Some(Finding::note(what, why, "nothing here; elsewhere LD_PRELOAD would be ignored."))
        } else {
            let why = "For you it has no effect, because you have those rights already; for any other user LD_PRELOAD is \
                       ignored.";
            Some(Finding::bends(what, why, remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const ORDINARY: Rights = Rights {
        mode: 0o755,
        owner: 0,
        group: 0,
        has_capabilities: false,
        is_void: false,
        user: 1000,
        user_group: 1000,
    };

    #[test]
    fn other_rights_than_the_user_s_stop_the_preload() {
        assert_eq!(ORDINARY.findings(), None);
        for rights in [
            Rights { mode: 0o4755, ..ORDINARY },
            Rights { mode: 0o2755, ..ORDINARY },
            Rights { has_capabilities: true, ..ORDINARY },
        ] {
            assert_eq!(rights.findings().unwrap().severity, Severity::Stops, "{rights:?}");
        }
    }

    #[test]
    fn rights_that_the_user_has_already_or_that_are_void_do_not() {
        let own = Rights { mode: 0o4755, owner: 1000, ..ORDINARY };
        assert_eq!(own.findings().unwrap().severity, Severity::Bends);
        let root = Rights { has_capabilities: true, user: 0, user_group: 0, ..ORDINARY };
        assert!(!root.is_secure());
        let void = Rights { mode: 0o4755, is_void: true, ..ORDINARY };
        assert_eq!(void.findings().unwrap().severity, Severity::Note);
    }

    #[test]
    fn the_group_s_bit_without_the_right_to_execute_means_locking_and_nothing_here() {
        assert_eq!(Rights { mode: 0o2745, ..ORDINARY }.findings(), None);
    }
}
