// SPDX-License-Identifier: GPL-2.0

//! A cgroup at its limit, most of which idle pages take: they make room for what the group needs,
//! and nobody is killed for it. Those of other groups stay.

use core::sync::atomic::Ordering::Relaxed;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

use crate::abi::IDLE_MARK;
use crate::child::Child;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE, READ_WRITE};

crate::tests! {
    idle_pages_make_room_in_their_group within 120,
    who_opened_a_file_pays_for_it,
}

const MIB: usize = 1 << 20;
const LIMIT: usize = 64 * MIB;
const IDLE: usize = 48 * MIB;
const OTHERS: usize = 32 * MIB;

/// The hierarchy, mounted for one test, with one group of that test's.
struct Group {
    root: PathBuf,
    path: PathBuf,
}

impl Group {
    /// [`None`] if the kernel has no groups with a limit of memory.
    fn new() -> Result<Option<Self>> {
        let root = std::env::temp_dir().join(format!("rust-tlb-cgroup-{}", std::process::id()));
        fs::create_dir(&root)?;
        match mount("none", &root, "cgroup2", MountFlags::empty(), None) {
            Err(Errno::NODEV) => return Ok(None),
            mounted => mounted.context("mounting cgroup2")?,
        }
        let path = root.join("rust-tlb-test");
        let group = Self { root, path };
        if !fs::read_to_string(group.root.join("cgroup.controllers"))?.contains("memory") {
            return Ok(None);
        }
        fs::write(group.root.join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(&group.path)?;
        fs::write(group.path.join("memory.max"), LIMIT.to_string())?;
        Ok(Some(group))
    }

    /// Moves this process into the group.
    fn enter(&self) -> Result<()> {
        Ok(fs::write(self.path.join("cgroup.procs"), "0")?)
    }

    fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = fs::read_to_string(self.path.join(file))?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        value.with_context(|| format!("no {key} in {file}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
        let _ = unmount(&self.root, UnmountFlags::DETACH);
        let _ = fs::remove_dir(Path::new(&self.root));
    }
}

/// Devices with so many bytes of pages, all idle.
fn hoard(len: usize) -> Result<Vec<(Device, Mapping)>> {
    let nr_each = Device::open()?.describe()?.nr_pages;
    let nr_devices = (len / PAGE_SIZE).div_ceil(nr_each as usize);
    let fill = |_| {
        let device = Device::open()?;
        let mapping = device.map(nr_each)?;
        (0..nr_each).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
        device.idle(0, nr_each, IDLE_MARK)?;
        Ok((device, mapping))
    };
    (0..nr_devices).map(fill).collect()
}

fn nr_reclaimed(hoard: &[(Device, Mapping)]) -> Result<u64> {
    let each = hoard.iter().map(|(device, _)| device.counters());
    each.map(|counters| Ok(counters?.nr_reclaimed)).sum()
}

/// Touches so many bytes of private memory.
fn use_memory(len: usize) -> Result<()> {
    // SAFETY: A mapping at an address of the kernel's choice replaces no other, and is inside it
    // when it is written to.
    unsafe {
        let start = mm::mmap_anonymous(core::ptr::null_mut(), len, READ_WRITE, MapFlags::PRIVATE)?;
        for at in (0..len).step_by(PAGE_SIZE) {
            start.cast::<u8>().add(at).write_volatile(1);
        }
        mm::munmap(start, len)?;
    }
    Ok(())
}

fn idle_pages_make_room_in_their_group(_: &Options) -> Result<()> {
    let outside = hoard(MIB)?;
    let Some(group) = Group::new()? else {
        return skip("the kernel has no CONFIG_MEMCG");
    };
    let child = Child::fork(|| {
        group.enter()?;
        let idle = hoard(IDLE)?;
        use_memory(OTHERS)?;
        let nr = nr_reclaimed(&idle)?;
        println!("# {nr} pages were reclaimed");
        ensure!(nr > 0, "no page was reclaimed");
        Ok(())
    })?;
    child.join()?;
    let nr_killed = group.number("memory.events", "oom_kill ")?;
    ensure!(nr_killed == 0, "{nr_killed} processes were killed");
    ensure!(nr_reclaimed(&outside)? == 0, "pages of others were taken");
    Ok(())
}

/// Whoever touches a page that is not there has it allocated, at the expense of who opened the file.
fn who_opened_a_file_pays_for_it(_: &Options) -> Result<()> {
    const NR_PAGES: u64 = 2048;
    let outside = Device::open()?;
    let Some(group) = Group::new()? else {
        return skip("the kernel has no CONFIG_MEMCG");
    };
    let touch = |device: &Device| -> Result<()> {
        let mapping = device.map(NR_PAGES)?;
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        Ok(())
    };
    let child = Child::fork(|| {
        group.enter()?;
        let used = || -> Result<u64> { group.number("memory.current", "") };
        let before = used()?;
        touch(&outside)?;
        let for_others = used()?.saturating_sub(before);
        let inside = Device::open()?;
        let before = used()?;
        touch(&inside)?;
        let for_own = used()?.saturating_sub(before);
        println!("# {for_others} bytes for others, {for_own} for its own");
        let all = NR_PAGES * PAGE_SIZE as u64;
        ensure!(for_own >= all * 9 / 10, "it did not pay for its own");
        ensure!(for_others < all / 2, "it paid for others");
        Ok(())
    })?;
    child.join()
}
