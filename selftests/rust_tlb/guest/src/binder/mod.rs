// SPDX-License-Identifier: GPL-2.0

//! Processes that talk by binder, the kernel's own driver: a service that answers, and clients
//! whose buffers its answers fill.
//!
//! [`wire`] is what goes to and fro, [`endpoint`] one open file of the driver; [`service`] answers
//! each call with as many patterned bytes as it asks for; [`clients`] do the calling. [`switch`] says
//! how the driver's shrinker takes pages out; [`ground`] has all of it. A buffer that a client gives back keeps
//! its pages until the driver's shrinker takes them.

pub mod clients;
pub mod endpoint;
pub mod ground;
pub mod service;
pub mod switch;
pub mod wire;

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

/// A binderfs of its own: nobody else talks there.
pub struct Binderfs {
    folder: PathBuf,
}

impl Binderfs {
    /// Mounts one; `None` if the kernel has no binder.
    pub fn mount() -> Result<Option<Self>> {
        let filesystems = std::fs::read_to_string("/proc/filesystems")?;
        if !filesystems.lines().any(|line| line.ends_with("\tbinder")) {
            return Ok(None);
        }
        let folder = std::env::temp_dir().join(format!("rust-tlb-binder-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        mount("binder", &folder, "binder", MountFlags::empty(), None).context("mount binderfs")?;
        Ok(Some(Self { folder }))
    }

    /// The device that every binderfs has from the start.
    pub fn device(&self) -> PathBuf {
        self.folder.join("binder")
    }
}

impl Drop for Binderfs {
    fn drop(&mut self) {
        // Whoever still has the device open keeps the file system, not the folder.
        let _ = unmount(&self.folder, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.folder);
    }
}
