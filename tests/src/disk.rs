//! A disk that is small enough to be filled.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    process::Command,
};

use crate::note;

/// A file system of a few megabytes, unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, and a word why, where the test may not mount.
    pub fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(directory.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            refused => {
                note(&format!(
                    "NOT TESTED: a full disk. Mounting a tmpfs needs root: {refused:?}"
                ));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no more than this many bytes free.
    pub fn fill_up_to(&self, free: u64) {
        let ballast = self.path().join("ballast");
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(ballast)
            .unwrap();
        let space = rustix::fs::statvfs(self.path()).unwrap();
        let excess = (space.f_bavail * space.f_frsize).saturating_sub(free);
        let written = io::copy(&mut io::repeat(1).take(excess), &mut file);
        assert!(free == 0 || written.is_ok(), "{written:?}");
    }

    /// Makes room again.
    pub fn free(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The relay that still uses it is killed after this value: detach now, vanish then.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}
