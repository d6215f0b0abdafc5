// SPDX-License-Identifier: GPL-2.0

//! Processes that end, in order or not, and modules that come and go.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::path::PathBuf;
use std::thread;
use std::{env, fs};

use anyhow::{ensure, Context, Result};
use rustix::fs::{FileType, Mode, OFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, UnmountFlags};

use crate::abi::{self, strategy};
use crate::child::Child;
use crate::device::{self, Device, REAL_STRATEGIES};
use crate::kernel_module::{self, Unloaded};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::memory_use::MemoryUse;
use crate::page_holder::PageHolder;
use crate::selection::Selection;

crate::tests! {
    fork_and_exit,
    a_failed_mmap_leaves_nothing,
    a_failed_mmap_over_a_mapping_leaves_a_hole,
    kill_in_the_middle_of_unmaps,
    kill_with_an_own_device,
    exit_with_a_batch_pending_on_a_shared_file,
    exit_with_a_batch_pending_on_an_own_file,
    unload_is_refused_while_in_use,
    load_and_unload_fifty_times,
    parameters_set_the_limits,
    a_parameter_sets_files_up,
    a_parameter_makes_folios,
    bad_parameters_are_refused,
    many_pages_at_once_lock_nothing_up within 180,
    a_file_system_goes_when_its_node_is_closed,
}

const NR_PAGES: u64 = 32;
/// How a file's mappings can be.
const FLAVOURS: [u32; 4] = [
    0,
    abi::SETUP_NOTIFY,
    abi::SETUP_PFNMAP,
    abi::SETUP_PFNMAP | abi::SETUP_NOTIFY,
];

/// The device works: pages come, keep their data, and go.
fn expect_working(device: &Device) -> Result<()> {
    let mapping = device.map(NR_PAGES)?;
    for strategy in REAL_STRATEGIES {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
        let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy, 0)?;
        ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
        ensure!(
            (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Relaxed) == 0),
            "old pages"
        );
        device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_FREE)?;
    }
    Ok(())
}

fn fork_and_exit(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    for round in 0..20 {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(round + 1, Relaxed));
        let child = Child::fork(|| {
            let kept = (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Relaxed) == round + 1);
            ensure!(kept, "the child sees other pages");
            device.unmap(&Selection::scattered(0, NR_PAGES / 2), strategy::PRECISE, 0)?;
            Ok(())
        })?;
        child.join()?;
        for page in 0..NR_PAGES {
            let expected = if page % 2 == 0 { 0 } else { round + 1 };
            ensure!(
                mapping.word(page, 0).load(Relaxed) == expected,
                "page {page}"
            );
        }
    }
    expect_working(&device)
}

/// The VMA owned a reference already: if it is not put, all that belongs to the file stays, some 75
/// pages of memory each time.
fn a_failed_mmap_leaves_nothing(_: &Options) -> Result<()> {
    const NR_FILES: usize = 1000;
    let fail = || -> Result<()> {
        for flavour in FLAVOURS {
            let device = Device::open()?;
            device.setup(abi::SETUP_BREAK_MAP | flavour)?;
            let failed = device.map(NR_PAGES).err();
            ensure!(failed == Some(Errno::NODEV), "{failed:?}");
            // It can be mapped as any other, when nothing breaks it.
            device.setup(flavour)?;
            let mapping = device.map(NR_PAGES)?;
            mapping.word(0, 0).store(1, Relaxed);
        }
        Ok(())
    };
    if Device::open()?.setup(abi::SETUP_BREAK_MAP) == Err(Errno::OPNOTSUPP) {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    fail()?;
    let before = MemoryUse::read()?.free;
    (0..NR_FILES / FLAVOURS.len()).try_for_each(|_| fail())?;
    let lost = before - MemoryUse::read()?.free;
    ensure!(lost < 1000, "{lost} pages are lost");
    Ok(())
}

/// It has unmapped what was there before it fails. Nothing of that is lost.
fn a_failed_mmap_over_a_mapping_leaves_a_hole(_: &Options) -> Result<()> {
    // If a page were left of each round, that would be more than may be left in the end.
    const NR_ROUNDS: usize = NR_PAGES as usize + FLAVOURS.len();
    if Device::open()?.setup(abi::SETUP_BREAK_MAP) == Err(Errno::OPNOTSUPP) {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    for flavour in FLAVOURS {
        let device = Device::open()?;
        device.setup(flavour)?;
        let broken = FLAVOURS.map(|flavour| -> Result<Device> {
            let broken = Device::open()?;
            broken.setup(abi::SETUP_BREAK_MAP | flavour)?;
            Ok(broken)
        });
        let broken: Vec<_> = broken.into_iter().collect::<Result<_>>()?;
        for (round, broken) in broken.iter().cycle().take(NR_ROUNDS).enumerate() {
            let child = Child::fork_with_code(|| {
                let done = fail_over(&device, broken);
                done.as_ref().err().inspect(|error| println!("# {error:#}"));
                i32::from(done.is_err())
            })?;
            child.join().with_context(|| format!("round {round}"))?;
        }
        let mapping = device.map(NR_PAGES)?;
        let kept = (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Relaxed) == page + 1);
        ensure!(kept, "pages were lost with the mapping");
        device.unmap(
            &Selection::run(0, NR_PAGES),
            strategy::BROADCAST,
            abi::UNMAP_FREE,
        )?;
        // What is left is in the pool.
        let held = device.counters()?.nr_pages_held;
        ensure!(held <= NR_PAGES, "{held} pages are left");
    }
    Ok(())
}

fn fail_over(device: &Device, broken: &Device) -> Result<()> {
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    // Its flush is owed as the mapping goes.
    let some = Selection::run(0, NR_PAGES / 2);
    let save = abi::UNMAP_DEFER | abi::UNMAP_WRITE_BACK;
    device.unmap(&some, strategy::PRECISE, save)?;
    let failed = mapping.renew(broken);
    ensure!(failed == Err(Errno::NODEV), "{failed:?}");
    let in_hole = Child::fork_with_code(|| mapping.word(0, 0).load(Relaxed) as i32)?;
    let status = in_hole.wait()?;
    ensure!(
        status.terminating_signal() == Some(libc::SIGSEGV),
        "{status:?}"
    );
    device.flush()?;
    // Nothing is there to be unmapped.
    core::mem::forget(mapping);
    Ok(())
}

/// More than the kernel should do without letting others run.
fn many_pages_at_once_lock_nothing_up(_: &Options) -> Result<()> {
    const NR_MANY: u64 = 1 << 15;
    const PARAMETERS: &str = "pages_per_device=32768 max_list=32768 max_pending=32768";
    const THRESHOLD: &str = "/proc/sys/kernel/watchdog_thresh";
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    kernel_module::load(PARAMETERS)?.context(PARAMETERS)?;
    let before = fs::read_to_string(THRESHOLD).context(THRESHOLD)?;
    // A soft lockup takes twice as long.
    fs::write(THRESHOLD, "5")?;
    let all = || Selection::run(0, NR_MANY);
    let done = [
        (0, abi::UNMAP_FREE),
        (0, abi::UNMAP_WRITE_BACK),
        (abi::SETUP_PFNMAP, 0),
    ]
    .into_iter()
    .try_for_each(|(flavour, flags)| {
        let device = Device::open()?;
        device.setup(flavour)?;
        let mapping = device.map(NR_MANY)?;
        (0..NR_MANY).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        let unmapper = Child::fork(|| {
            device.unmap(&all(), strategy::PRECISE, flags)?;
            Ok(())
        })?;
        thread::sleep(Duration::from_millis(2));
        unmapper.kill()?;
        // With all pages by number still there, or with all gone.
        if flavour == 0 {
            device.unmap(&all(), strategy::PRECISE, flags)?;
        }
        drop(mapping);
        anyhow::Ok(())
    });
    fs::write(THRESHOLD, before.trim())?;
    done
}

/// A file system with a node of the device, mounted while it lasts.
struct NodeElsewhere {
    folder: PathBuf,
    node: PathBuf,
}

impl NodeElsewhere {
    fn new() -> Result<Self> {
        let folder = env::temp_dir().join(format!("rust-tlb-node-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        mount::mount("none", &folder, "tmpfs", MountFlags::empty(), None).context("tmpfs")?;
        let node = folder.join("rust-tlb");
        let number = rustix::fs::stat(device::PATH)?.st_rdev;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, mode, number)?;
        Ok(Self { folder, node })
    }

    fn unmount(&self) -> Result<(), Errno> {
        mount::unmount(&self.folder, UnmountFlags::empty())
    }
}

impl Drop for NodeElsewhere {
    fn drop(&mut self) {
        // An error if it is unmounted already.
        let _ = mount::unmount(&self.folder, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A mapping keeps it, as an open file does; a scope that others are still in does not.
fn a_file_system_goes_when_its_node_is_closed(_: &Options) -> Result<()> {
    for flavour in FLAVOURS {
        let elsewhere = NodeElsewhere::new()?;
        let theirs = Device::open_at(&elsewhere.node, OFlags::RDWR)?;
        theirs.setup(flavour)?;
        theirs.enter(strategy::BROADCAST, None)?;
        let ours = Device::open()?;
        ours.enter(strategy::BROADCAST, Some(&theirs))?;
        let mapping = theirs.map(NR_PAGES)?;
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        let some = Selection::run(0, NR_PAGES / 2);
        theirs.unmap(&some, strategy::BROADCAST, abi::UNMAP_DEFER)?;
        drop(theirs);
        let child = Child::fork(|| {
            ensure!(mapping.word(NR_PAGES - 1, 0).load(Relaxed) == 1, "no page");
            Ok(())
        })?;
        child.join()?;
        ensure!(elsewhere.unmount() == Err(Errno::BUSY), "nobody keeps it");
        drop(mapping);
        elsewhere.unmount().context("something keeps it")?;
        let mapping = ours.map(NR_PAGES)?;
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        ours.unmap(&some, strategy::BROADCAST, abi::UNMAP_DEFER)?;
        ours.leave()?;
    }
    expect_working(&Device::open()?)
}

/// Touches and unmaps until it is killed.
fn churn(device: &Device, seed: u64) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mapping = device.map(NR_PAGES)?;
    loop {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(seed, Relaxed));
        let nr = rng.usize(1..NR_PAGES as usize);
        let selection = Selection::random(&mut rng, NR_PAGES, nr);
        let strategy = REAL_STRATEGIES[rng.usize(..REAL_STRATEGIES.len())];
        let can_defer = [strategy::BROADCAST, strategy::PRECISE].contains(&strategy);
        let defer = if can_defer && rng.bool() {
            abi::UNMAP_DEFER
        } else {
            0
        };
        let free = if rng.bool() { abi::UNMAP_FREE } else { 0 };
        device.unmap(&selection, strategy, defer | free)?;
    }
}

/// Forks two that churn, kills them after a random time.
fn kill_twice(rng: &mut fastrand::Rng, churn: impl Fn(u64) -> Result<()>) -> Result<()> {
    let children = [rng.u64(1..), rng.u64(1..)].map(|seed| Child::fork(|| churn(seed)));
    for child in children {
        thread::sleep(Duration::from_micros(rng.u64(..20_000)));
        let status = child?.kill()?;
        ensure!(
            status.terminating_signal() == Some(9),
            "it had ended before: {status:?}"
        );
    }
    Ok(())
}

const NR_KILLS: u32 = 40;

fn kill_in_the_middle_of_unmaps(options: &Options) -> Result<()> {
    let mut rng = options.rng();
    let device = Device::open()?;
    for _ in 0..NR_KILLS * options.effort {
        kill_twice(&mut rng, |seed| churn(&device, seed))?;
    }
    let counters = device.counters()?;
    println!("# {counters:?}");
    ensure!(counters.nr_unmapped > 0, "killed before they did anything");
    device.flush()?;
    expect_working(&device)?;
    let held = device.counters()?.nr_pages_held;
    ensure!(held <= device.describe()?.nr_pages, "{held} pages held");
    Ok(())
}

fn kill_with_an_own_device(options: &Options) -> Result<()> {
    let mut rng = options.rng();
    for _ in 0..NR_KILLS * options.effort {
        kill_twice(&mut rng, |seed| churn(&Device::open()?, seed))?;
    }
    expect_working(&Device::open()?)
}

fn defer_some(device: &Device) -> Result<Mapping> {
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
    let reply = device.unmap(&Selection::run(0, 8), strategy::PRECISE, abi::UNMAP_DEFER)?;
    ensure!(
        reply.nr_pages == 8 && reply.nr_flush_calls == 0,
        "{reply:?}"
    );
    Ok(mapping)
}

fn exit_with_a_batch_pending_on_a_shared_file(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    Child::fork(|| defer_some(&device).map(drop))?.join()?;
    ensure!(
        mapping.word(0, 0).load(Relaxed) == 0,
        "the old page is still there"
    );
    let counters = device.counters()?;
    ensure!(
        counters.nr_pending_hits == 1,
        "the batch was not pending: {counters:?}"
    );
    expect_working(&device)
}

fn exit_with_a_batch_pending_on_an_own_file(_: &Options) -> Result<()> {
    for _ in 0..10 {
        let child = Child::fork(|| {
            let device = Device::open()?;
            // Exits with the pages mapped and the file open.
            core::mem::forget((defer_some(&device)?, device));
            Ok(())
        })?;
        child.join()?;
    }
    expect_working(&Device::open()?)
}

fn expect_unload_refused(what: &str) -> Result<()> {
    let answer = kernel_module::unload(kernel_module::NAME);
    ensure!(answer == Err(Errno::AGAIN), "{what}: {answer:?}");
    ensure!(kernel_module::is_loaded(), "{what}: it is gone");
    Ok(())
}

/// Whatever becomes of it, the module is there for the next suite.
fn unload_is_refused_while_in_use(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let device = Device::open()?;
    expect_unload_refused("open")?;
    let mapping = device.map(1)?;
    mapping.word(0, 0).store(1, Relaxed);
    expect_unload_refused("open and mapped")?;
    drop(device);
    expect_unload_refused("mapped only")?;
    ensure!(mapping.word(0, 0).load(Relaxed) == 1, "the page");
    drop(mapping);
    let _again = Unloaded::new().context("not in use any more")?;
    ensure!(
        Device::open().map(drop) == Err(Errno::NOENT),
        "the node is still there"
    );
    Ok(())
}

fn load_and_unload_fifty_times(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    for round in 0..50 {
        kernel_module::load("")?.with_context(|| format!("load {round}"))?;
        if round % 10 == 0 {
            expect_working(&Device::open()?)?;
        }
        kernel_module::unload(kernel_module::NAME).with_context(|| format!("unload {round}"))?;
    }
    Ok(())
}

const PARAMETERS: &str = "pages_per_device=64 max_list=16 max_pending=8";

fn parameters_set_the_limits(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    kernel_module::load(PARAMETERS)?.context(PARAMETERS)?;
    let device = Device::open()?;
    let describe = device.describe()?;
    let limits = (describe.nr_pages, describe.max_list, describe.max_pending);
    ensure!(limits == (64, 16, 8), "{describe:?}");
    limits_have_errnos(&device)?;
    a_small_batch_flushes_itself(&device)
}

fn limits_have_errnos(device: &Device) -> Result<()> {
    ensure!(
        device.map(65).map(drop) == Err(Errno::NXIO),
        "a mapping beyond the device"
    );
    ensure!(
        device.populate(60, 5) == Err(Errno::NXIO),
        "populate beyond the device"
    );
    ensure!(
        device.populate(0, 17) == Err(Errno::TOOBIG),
        "populate more than max_list"
    );
    ensure!(device.populate(0, 16) == Ok(16), "populate max_list");
    let list = |nr| Selection::List((0..nr).collect());
    for strategy in REAL_STRATEGIES {
        for long in [list(17), Selection::run(0, 17), Selection::scattered(0, 17)] {
            let answer = device.unmap(&long, strategy, 0).map(drop);
            ensure!(answer == Err(Errno::TOOBIG), "{long:?}: {answer:?}");
        }
        device
            .unmap(&list(16), strategy, 0)
            .context("a list of max_list")?;
    }
    let mut long = abi::Invalidate {
        len: 17 * PAGE_SIZE as u64,
        strategy: strategy::PRECISE,
        ..Default::default()
    };
    let answer = device.call(&mut long);
    ensure!(answer == Err(Errno::TOOBIG), "invalidate: {answer:?}");
    Ok(())
}

/// With room for 8 pages, 12 deferred ones cannot all be pending.
fn a_small_batch_flushes_itself(device: &Device) -> Result<()> {
    let mapping = device.map(16)?;
    (0..12).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
    let before = device.counters()?;
    let most = device.unmap(&Selection::run(0, 9), strategy::BROADCAST, abi::UNMAP_DEFER);
    ensure!(most == Err(Errno::TOOBIG), "9 pages in a batch: {most:?}");
    for first in [0, 6] {
        device.unmap(
            &Selection::run(first, 6),
            strategy::BROADCAST,
            abi::UNMAP_DEFER,
        )?;
    }
    let batches = device.counters()?.nr_batches - before.nr_batches;
    ensure!(batches == 1, "{batches} batches flushed");
    let pending = device.flush()?.nr_pages;
    ensure!((1..=8).contains(&pending), "{pending} pages were pending");
    Ok(())
}

/// Of who opens the device by its name, and cannot call [`abi::SETUP`]: the kernel's own tests.
fn a_parameter_sets_files_up(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    kernel_module::load(&format!("setup={}", abi::SETUP_PFNMAP))?.context("setup")?;
    for (flags, is_pfnmap) in [(None, true), (Some(0), false)] {
        let device = Device::open()?;
        if let Some(flags) = flags {
            device.setup(flags)?;
        }
        let mapping = device.map(1)?;
        mapping.word(0, 0).store(1, Relaxed);
        // A page that is mapped by its number is nobody's to hold.
        let is_refused = PageHolder::take(&mapping).is_err();
        ensure!(
            is_refused == is_pfnmap,
            "{flags:?}: by number {}",
            !is_refused
        );
    }
    Ok(())
}

/// Unless a file says otherwise.
fn a_parameter_makes_folios(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    kernel_module::load("folio_order=4")?.context("folio_order=4")?;
    for (order, nr_allocated) in [(None, 16), (Some(0), 1), (Some(2), 4)] {
        let device = Device::open()?;
        if let Some(order) = order {
            device.setup_folios(0, order)?;
        }
        let found = device.populate(5, 1)?;
        ensure!(found == nr_allocated, "{order:?}: {found} pages");
    }
    Ok(())
}

fn bad_parameters_are_refused(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    let bad = [
        "pages_per_device=0",
        "max_list=0",
        "max_pending=0",
        "pages_per_device=16777217",
        "max_list=1048577",
        "max_pending=1048577",
        "pages_per_device=many",
        // No such flag, and one that goes with another one only.
        "setup=2147483648",
        "setup=32",
        // No such order, and one that there is no whole number of.
        "folio_order=1",
        "folio_order=10",
        "folio_order=4294967295",
        "folio_order=3 pages_per_device=100",
    ];
    for parameters in bad {
        let answer = kernel_module::load(parameters)?;
        ensure!(answer == Err(Errno::INVAL), "{parameters}: {answer:?}");
        ensure!(!kernel_module::is_loaded(), "{parameters}: it is loaded");
    }
    Ok(())
}
