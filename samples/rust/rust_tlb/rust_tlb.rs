// SPDX-License-Identifier: GPL-2.0

//! `/dev/rust-tlb`: maps pages into processes, and takes them back by a flush policy of the
//! caller's choice.
//!
//! A user of [`kernel::mm::tlb`], for tests and measurements. Each open file is a device of its
//! own: pages by offset, a pool of released ones, and at most one batch whose flush is deferred.
//!
//! - `abi`: what user space sees.
//! - `request`: what is asked, checked before anything is done. Pure.
//! - `strategy`, `membership`, `deferred`: a flush policy; a scope, and a file's place in it; a batch,
//!   and what is to become of its pages.
//! - `pages`: which page is where, and what becomes of those that are flushed. The rule that a pending
//!   page is not replaced is kept here. `slots`, `sparse` and `pool`, below it, are pure.
//! - `marks`: where page tables may be empty. Pure.
//! - `later`: page tables that are not freed at once.
//! - `unmap`: the strategies.
//! - `store`: what an open file and its mappings share; faults, deadlines, what memory pressure
//!   takes.
//! - `huge`: mappings of 2 MiB.
//! - `open_files`, `pressure`: all open files; the shrinker that goes around them.
//! - `scope`: unmaps that share a flush, also across open files.
//! - `moves`: PTEs that go from one mapping to another.
//! - `statistics`: what debugfs shows.
//! - `device`: open, mmap, ioctl.
//!
//! No file but this one, which has the module's parameters, uses one that uses it, however far around.

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::tlb::Rings,
    prelude::*, //
};

mod abi;
#[cfg(CONFIG_RUST_TLB_FAULTS)]
mod broken_tables;
mod deferred;
mod device;
mod huge;
mod later;
mod marks;
mod membership;
mod moves;
mod open_files;
mod pool;
mod pressure;
mod request;
mod scope;
mod slots;
mod sparse;
mod state;
mod statistics;
mod store;
mod strategy;
mod unmap;

use device::Device;
use request::{
    Limits,
    Setup, //
};

module! {
    type: RustTlb,
    name: "rust_tlb",
    authors: ["rust-tlb authors"],
    description: "Batched TLB flushes: test device",
    license: "GPL",
    params: {
        pages_per_device: u32 {
            default: 4096,
            description: "Pages that one open file can map (1 to 16777216)",
        },
        max_list: u32 {
            default: 4096,
            description: "Pages that one call takes (1 to 1048576)",
        },
        max_pending: u32 {
            default: 4096,
            description: "Pages whose flush may be deferred (1 to 1048576)",
        },
        max_age_ms: u32 {
            default: 5000,
            description: "Milliseconds for which a flush may be deferred (1 to 1048576)",
        },
        tables_age_ms: u32 {
            default: 20,
            description: "Milliseconds for which empty page tables may stay (1 to 1048576)",
        },
        setup: u32 {
            default: 0,
            description: "How open files are set up unless they say (SETUP_* of abi.rs, added up)",
        },
        folio_order: u32 {
            default: 0,
            description: "Populate by folios of so many pages, unless files say (0, or 2 to 9; 9: 2 MiB; bundles: 1 to 9)",
        },
    },
}

/// Most that a module parameter may be.
const MAX_LIMIT: u32 = 1 << 20;
/// Most pages of an open file: 64 GiB. Those that are not there take hardly any memory.
const MAX_PAGES: u32 = 1 << 24;

/// Returns a module parameter's value, if it is sane.
fn checked(name: &str, value: u32, max: u32) -> Result<u32> {
    if value == 0 || value > max {
        pr_err!("{name}={value} is not between 1 and {max}\n");
        return Err(EINVAL);
    }
    Ok(value)
}

/// Returns what open files are set up as, if there is such.
fn setup(flags: u32, folio_order: u32, nr_pages: u32) -> Result<Setup> {
    let refused = |_: &Error| {
        pr_err!("setup={flags} folio_order={folio_order} is not what SETUP would take\n");
    };
    Setup::new(flags, folio_order, nr_pages).inspect_err(refused)
}

/// Returns the limits that the module was loaded with.
fn limits() -> Result<Limits> {
    let nr_pages = checked(
        "pages_per_device",
        module_parameters::pages_per_device.value(),
        MAX_PAGES,
    )?;
    Ok(Limits {
        nr_pages,
        max_list: checked("max_list", module_parameters::max_list.value(), MAX_LIMIT)?,
        max_pending: checked(
            "max_pending",
            module_parameters::max_pending.value(),
            MAX_LIMIT,
        )?,
        max_age_ms: checked(
            "max_age_ms",
            module_parameters::max_age_ms.value(),
            MAX_LIMIT,
        )?,
        tables_age_ms: checked(
            "tables_age_ms",
            module_parameters::tables_age_ms.value(),
            MAX_LIMIT,
        )?,
        setup: setup(
            module_parameters::setup.value(),
            module_parameters::folio_order.value(),
            nr_pages,
        )?,
    })
}

#[pin_data]
struct RustTlb {
    /// Those of open files count on: no branch is patched when one is opened.
    _rings: Rings,
    #[pin]
    _device: MiscDeviceRegistration<Device>,
    _pressure: pressure::Registration,
    #[pin]
    _statistics: statistics::Files,
}

impl kernel::InPlaceModule for RustTlb {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Once, and before there is a device whose files use it.
        unsafe { open_files::OPEN_FILES.init() };
        // SAFETY: Once, and before there is a shrinker.
        unsafe { pressure::SHRINKER.init() };
        let options = MiscDeviceOptions { name: c"rust-tlb" };
        pin_init::pin_init_scope(move || {
            limits()?;
            Ok(try_pin_init!(Self {
                _rings: Rings::enable(),
                _pressure: pressure::Registration::new()?,
                _device <- MiscDeviceRegistration::register(options),
                _statistics <- statistics::Files::new(),
            }))
        })
    }
}
