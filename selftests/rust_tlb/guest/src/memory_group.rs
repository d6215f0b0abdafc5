// SPDX-License-Identifier: GPL-2.0

//! A group of processes (cgroup v2) whose memory can be reclaimed without anybody being short of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::tlb_events::counter;

const ROOT: &str = "/sys/fs/cgroup";

/// A group with this process in it. The process leaves when it goes out of scope.
pub struct Group {
    folder: PathBuf,
}

impl Group {
    /// Makes a group, and moves this process into it.
    pub fn join() -> Result<Self> {
        mount()?;
        write(&Path::new(ROOT).join("cgroup.subtree_control"), "+memory")?;
        let folder = Path::new(ROOT).join(format!("rust-tlb-test-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        // From here on, it is removed.
        let group = Self { folder };
        write(&group.folder.join("cgroup.procs"), "0")?;
        Ok(group)
    }

    /// Reclaims `len_bytes` of what is charged to the group, or less, if there is not as much.
    pub fn reclaim(&self, len_bytes: u64) -> Result<()> {
        let file = self.folder.join("memory.reclaim");
        match fs::write(&file, len_bytes.to_string()) {
            Err(error) if error.raw_os_error() != Some(Errno::AGAIN.raw_os_error()) => {
                Err(error).with_context(|| file.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Pages that were reclaimed so far of what is charged to the group.
    pub fn nr_reclaimed(&self) -> Result<u64> {
        let file = self.folder.join("memory.stat");
        let counts = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        counter(&counts, "pgsteal").context("a group without a count of what was reclaimed")
    }

    fn leave(&self) -> io::Result<()> {
        fs::write(Path::new(ROOT).join("cgroup.procs"), "0")?;
        fs::remove_dir(&self.folder)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            println!("# {}: {error}", self.folder.display());
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}

/// Mounts them, unless someone has.
fn mount() -> Result<()> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return Ok(());
    }
    rustix::mount::mount("nodev", ROOT, "cgroup2", MountFlags::empty(), None)
        .context("mounting the groups (CONFIG_CGROUPS)")
}
