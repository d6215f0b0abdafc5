// SPDX-License-Identifier: GPL-2.0

//! What is asked of the device, checked before anything is done: ranges, flags, lists. No page, no
//! lock.

#[cfg(CONFIG_RUST_TLB_FAULTS)]
use crate::broken_tables::BrokenTables;
use crate::{
    abi::{
        self,
        Move,
        Unmap,
        MOVE_BREAK_PIN,
        MOVE_BREAK_RANGE,
        MOVE_DEFER,
        MOVE_HOLD,
        MOVE_LOCK_PAGE,
        MOVE_MAX_HOLD_MS,
        SETUP_BREAK_MAP,
        SETUP_BUNDLES,
        SETUP_FREE_TABLES,
        SETUP_FREE_TABLES_LATER,
        SETUP_HUGE,
        SETUP_MAX_FOLIO_ORDER,
        SETUP_NOTIFY,
        SETUP_PFNMAP,
        SETUP_RING,
        UNMAP_BREAK_CONTEXT,
        UNMAP_BREAK_LEAVES,
        UNMAP_BREAK_RELEASE,
        UNMAP_BREAK_TABLES_HINT,
        UNMAP_BREAK_TABLES_LAZY,
        UNMAP_BREAK_TABLES_LOCK,
        UNMAP_BREAK_TABLES_PENDING,
        UNMAP_BREAK_TABLES_RANGE,
        UNMAP_BREAK_TABLES_RECHECK,
        UNMAP_BREAK_WRITE_BACK,
        UNMAP_DEFER,
        UNMAP_FREE,
        UNMAP_LIST,
        UNMAP_TWO_PHASE,
        UNMAP_WRITE_BACK, //
    },
    strategy, //
};
use kernel::{
    mm::{
        range::PageRange,
        tlb::moves::When, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Limits of an open file; see the module's parameters.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) nr_pages: u32,
    pub(crate) max_list: u32,
    pub(crate) max_pending: u32,
    pub(crate) max_age_ms: u32,
    pub(crate) tables_age_ms: u32,
    /// What files are as they are opened.
    pub(crate) setup: Setup,
}

/// A range of the device, in pages: not empty, and within it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) nr_pages: usize,
}

impl Run {
    /// Checks a range in bytes.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: not aligned, or empty.
    /// - `ENXIO`: ends behind the device.
    pub(crate) fn new(limits: &Limits, offset: u64, len: u64) -> Result<Self> {
        let run = Self {
            first: whole_pages(offset)?,
            nr_pages: whole_pages(len)?,
        };
        if run.nr_pages == 0 {
            return Err(EINVAL);
        }
        let end = run.first.checked_add(run.nr_pages).ok_or(ENXIO)?;
        if end > limits.nr_pages as usize {
            return Err(ENXIO);
        }
        Ok(run)
    }

    /// As [`Run::new`], for a call that works on at most `max_pages` pages: `E2BIG`.
    pub(crate) fn at_most(
        limits: &Limits,
        offset: u64,
        len: u64,
        max_pages: usize,
    ) -> Result<Self> {
        let run = Self::new(limits, offset, len)?;
        if run.nr_pages > max_pages {
            return Err(E2BIG);
        }
        Ok(run)
    }

    /// Returns the last page.
    pub(crate) fn last(&self) -> usize {
        self.first + self.nr_pages - 1
    }

    /// Returns all pages.
    pub(crate) fn pages(&self) -> core::ops::Range<usize> {
        self.first..self.first + self.nr_pages
    }
}

/// Turns bytes into pages.
fn whole_pages(bytes: u64) -> Result<usize> {
    let bytes = usize::try_from(bytes).map_err(|_| EINVAL)?;
    if bytes % PAGE_SIZE != 0 {
        return Err(EINVAL);
    }
    Ok(bytes >> PAGE_SHIFT)
}

/// Refuses `EINVAL` unless every one of `fields` is zero.
pub(crate) fn all_zero(fields: &[u64]) -> Result {
    if fields.iter().any(|field| *field != 0) {
        return Err(EINVAL);
    }
    Ok(())
}

/// Returns whether gathers are to be opened where they may not be.
fn check_context_control(flags: u32, strategy: u32) -> Result {
    match (flags & UNMAP_BREAK_CONTEXT != 0, strategy) {
        (false, _) => Ok(()),
        (true, abi::strategy::GATHER) if cfg!(CONFIG_RUST_TLB_FAULTS) => Ok(()),
        (true, abi::strategy::GATHER) => Err(EOPNOTSUPP),
        _ => Err(EINVAL),
    }
}

/// Refuses to leave the flush of leaves to later, where nothing else is.
fn check_leaf_control(flags: u32) -> Result {
    match (flags & UNMAP_BREAK_LEAVES != 0, flags & UNMAP_DEFER != 0) {
        (false, _) => Ok(()),
        (true, false) => Err(EINVAL),
        (true, true) if cfg!(CONFIG_RUST_TLB_FAULTS) => Ok(()),
        (true, true) => Err(EOPNOTSUPP),
    }
}

/// Returns whether pages are to be released too early.
fn breaks_release(flags: u32, strategy: u32) -> Result<bool> {
    if flags & UNMAP_BREAK_RELEASE == 0 {
        return Ok(false);
    }
    let is_allowed = strategy::defers(strategy) && !strategy::is_control(strategy);
    let is_allowed = is_allowed && flags & UNMAP_WRITE_BACK == 0;
    if !is_allowed {
        return Err(EINVAL);
    }
    if !cfg!(CONFIG_RUST_TLB_FAULTS) {
        return Err(EOPNOTSUPP);
    }
    Ok(true)
}

/// All flags of a setup.
const ALL_SETUP_FLAGS: u32 = SETUP_PFNMAP
    | SETUP_NOTIFY
    | SETUP_RING
    | SETUP_FREE_TABLES
    | SETUP_FREE_TABLES_LATER
    | SETUP_HUGE
    | SETUP_BUNDLES
    | SETUP_BREAK_MAP;

/// What becomes of page tables that an unmap leaves empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EmptyTables {
    /// They stay.
    #[default]
    Keep,
    /// They go with the flush of the unmap.
    Free,
    /// They go with a flush of their own.
    FreeLater,
}

impl EmptyTables {
    fn new(flags: u32) -> Result<Self> {
        let is_set = |flag| flags & flag != 0;
        match (is_set(SETUP_FREE_TABLES), is_set(SETUP_FREE_TABLES_LATER)) {
            (false, false) => Ok(Self::Keep),
            (true, false) => Ok(Self::Free),
            (true, true) => Ok(Self::FreeLater),
            (false, true) => Err(EINVAL),
        }
    }
}

/// How an open file is mapped.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// By frame number, without references.
    pub(crate) pfnmap: bool,
    /// Read-only until the first write.
    pub(crate) notify: bool,
    /// With a ring of flushes for who maps it.
    pub(crate) ring: bool,
    pub(crate) empty_tables: EmptyTables,
    /// As a whole, where that can be.
    pub(crate) huge: bool,
    /// By folios of so many pages, as a power of two, ...
    pub(crate) folio_order: u32,
    /// ... or by bundles.
    pub(crate) bundles: bool,
    /// Not at all.
    pub(crate) break_map: bool,
}

impl Setup {
    /// Checks what [`SETUP`](crate::abi::SETUP) says of a file of `nr_pages`.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: an unknown flag, or one that goes with another one only; an order that there is not,
    ///   or of which the file has no whole number.
    /// - `EOPNOTSUPP`: it breaks a rule, and the kernel was built without `CONFIG_RUST_TLB_FAULTS`.
    pub(crate) fn new(flags: u32, folio_order: u32, nr_pages: u32) -> Result<Self> {
        if flags & !ALL_SETUP_FLAGS != 0 {
            return Err(EINVAL);
        }
        let bundles = flags & SETUP_BUNDLES != 0;
        let is_order = match bundles {
            true => matches!(folio_order, 1..=SETUP_MAX_FOLIO_ORDER),
            false => matches!(folio_order, 0 | 2..=SETUP_MAX_FOLIO_ORDER),
        };
        if !is_order || nr_pages % (1 << folio_order) != 0 {
            return Err(EINVAL);
        }
        let huge = flags & SETUP_HUGE != 0;
        let pfnmap = flags & SETUP_PFNMAP != 0;
        let notify = flags & SETUP_NOTIFY != 0;
        // A leaf is one folio, or made of pages.
        let can_be_huge = folio_order == SETUP_MAX_FOLIO_ORDER || pfnmap && folio_order == 0;
        if huge && (notify || bundles || !can_be_huge) || bundles && !pfnmap {
            return Err(EINVAL);
        }
        let break_map = flags & SETUP_BREAK_MAP != 0;
        if break_map && !cfg!(CONFIG_RUST_TLB_FAULTS) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self {
            pfnmap,
            notify,
            ring: flags & SETUP_RING != 0,
            empty_tables: EmptyTables::new(flags)?,
            huge,
            folio_order,
            bundles,
            break_map,
        })
    }

    /// Returns whether what it populates with is more than the kernel kills for to get it
    /// (`PAGE_ALLOC_COSTLY_ORDER`), or, of a bundle, so much that to try again may be to try for ever.
    pub(crate) fn is_costly(&self) -> bool {
        self.folio_order > 3
    }
}

/// Whether contents are saved before pages are released.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    No,
    Yes,
    /// Without the flush that has to come first.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    Broken,
}

impl WriteBack {
    fn new(flags: u32, strategy: u32) -> Result<Self> {
        match (
            flags & UNMAP_WRITE_BACK != 0,
            flags & UNMAP_BREAK_WRITE_BACK != 0,
        ) {
            (false, false) => Ok(Self::No),
            (false, true) => Err(EINVAL),
            (true, _) if !strategy::batches(strategy) => Err(EINVAL),
            (true, false) => Ok(Self::Yes),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            (true, true) => Ok(Self::Broken),
            #[cfg(not(CONFIG_RUST_TLB_FAULTS))]
            (true, true) => Err(EOPNOTSUPP),
        }
    }
}

/// Where an unmap takes its pages from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `nr` offsets at this user address.
    List { address: usize, nr: usize },
    /// Every `step`th page of a run.
    Stride { run: Run, step: usize },
}

/// What breaks the taking out of page tables.
const TABLE_CONTROLS: u32 = UNMAP_BREAK_TABLES_HINT
    | UNMAP_BREAK_TABLES_RANGE
    | UNMAP_BREAK_TABLES_LOCK
    | UNMAP_BREAK_TABLES_RECHECK
    | UNMAP_BREAK_TABLES_PENDING
    | UNMAP_BREAK_TABLES_LAZY;

/// Refuses those controls where they do not belong.
fn check_table_controls(flags: u32, strategy: u32) -> Result {
    if flags & TABLE_CONTROLS == 0 {
        return Ok(());
    }
    if !strategy::batches(strategy) {
        return Err(EINVAL);
    }
    if !cfg!(CONFIG_RUST_TLB_FAULTS) {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Whether page tables are taken out that map something.
fn loses_tables(flags: u32) -> bool {
    const AT_ALL_UNLOCKED: u32 = UNMAP_BREAK_TABLES_HINT | UNMAP_BREAK_TABLES_LOCK;
    flags & UNMAP_BREAK_TABLES_RECHECK != 0 || flags & AT_ALL_UNLOCKED == AT_ALL_UNLOCKED
}

/// All flags of an unmap.
const ALL_FLAGS: u32 = TABLE_CONTROLS
    | UNMAP_LIST
    | UNMAP_DEFER
    | UNMAP_FREE
    | UNMAP_WRITE_BACK
    | UNMAP_TWO_PHASE
    | UNMAP_BREAK_CONTEXT
    | UNMAP_BREAK_LEAVES
    | UNMAP_BREAK_RELEASE
    | UNMAP_BREAK_WRITE_BACK;

/// A checked [`Unmap`], but for its list, which is still in user space.
#[derive(Clone, Copy)]
pub(crate) struct UnmapRequest {
    pub(crate) strategy: u32,
    pub(crate) defer: bool,
    pub(crate) free: bool,
    pub(crate) write_back: WriteBack,
    pub(crate) two_phase: bool,
    /// Open gathers where they may not be.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) break_context: bool,
    /// Take page tables out with rules broken.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) broken_tables: BrokenTables,
    /// A page table that maps something may be lost.
    pub(crate) loses_tables: bool,
    /// Leave the flush of leaves to later, too.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) break_leaves: bool,
    /// Release the pages before the flush.
    pub(crate) break_release: bool,
    pub(crate) source: Source,
}

impl UnmapRequest {
    /// Checks everything but the list's contents.
    ///
    /// # Errors
    ///
    /// As `abi.rs` says.
    pub(crate) fn new(limits: &Limits, arg: &Unmap) -> Result<Self> {
        let flags = arg.flags;
        if flags & !ALL_FLAGS != 0 {
            return Err(EINVAL);
        }
        all_zero(&[u64::from(arg.reserved)])?;
        all_zero(&arg.reserved2)?;
        let strategy = strategy::known(arg.strategy)?;
        let defer = flags & UNMAP_DEFER != 0;
        if defer && !strategy::defers(strategy) {
            return Err(EINVAL);
        }
        check_table_controls(flags, strategy)?;
        check_context_control(flags, strategy)?;
        check_leaf_control(flags)?;
        let two_phase = flags & UNMAP_TWO_PHASE != 0;
        if two_phase && !strategy::batches(strategy) {
            return Err(EINVAL);
        }
        Ok(Self {
            strategy,
            defer,
            free: flags & UNMAP_FREE != 0,
            write_back: WriteBack::new(flags, strategy)?,
            two_phase,
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            break_context: flags & UNMAP_BREAK_CONTEXT != 0,
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            broken_tables: BrokenTables::new(flags),
            loses_tables: loses_tables(flags),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            break_leaves: flags & UNMAP_BREAK_LEAVES != 0,
            break_release: breaks_release(flags, strategy)?,
            source: if flags & UNMAP_LIST != 0 {
                list(limits, arg)?
            } else {
                stride(limits, arg)?
            },
        })
    }

    /// Whether it is a negative control that releases pages before their flush.
    pub(crate) fn is_broken(&self) -> bool {
        self.break_release || self.loses_tables || self.strategy == abi::strategy::NONE
    }
}

fn list(limits: &Limits, arg: &Unmap) -> Result<Source> {
    all_zero(&[arg.offset, arg.len, arg.stride])?;
    if arg.nr_list == 0 {
        return Err(EINVAL);
    }
    if arg.nr_list > limits.max_list {
        return Err(E2BIG);
    }
    Ok(Source::List {
        address: usize::try_from(arg.list).map_err(|_| EFAULT)?,
        nr: arg.nr_list as usize,
    })
}

fn stride(limits: &Limits, arg: &Unmap) -> Result<Source> {
    all_zero(&[arg.list, u64::from(arg.nr_list)])?;
    let run = Run::new(limits, arg.offset, arg.len)?;
    let step = whole_pages(arg.stride)?.max(1);
    if run.nr_pages.div_ceil(step) > limits.max_list as usize {
        return Err(E2BIG);
    }
    Ok(Source::Stride { run, step })
}

/// Sorts a list of page offsets, and checks it: `ENXIO` for one behind the device, `EINVAL` for one
/// that is there twice.
pub(crate) fn sort_list(limits: &Limits, list: &mut [usize]) -> Result {
    list.sort_unstable();
    if list
        .last()
        .is_some_and(|pgoff| *pgoff >= limits.nr_pages as usize)
    {
        return Err(ENXIO);
    }
    if list.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(EINVAL);
    }
    Ok(())
}

/// A checked [`Move`], but for what is mapped where.
pub(crate) struct MoveRequest {
    pub(crate) when: When,
    pub(crate) old: PageRange,
    pub(crate) new: PageRange,
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) hold_ms: u32,
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) locks_page: bool,
}

impl MoveRequest {
    /// Checks everything but the mappings.
    ///
    /// # Errors
    ///
    /// As `abi.rs` says.
    pub(crate) fn new(limits: &Limits, arg: &Move) -> Result<Self> {
        let faults = MOVE_HOLD | MOVE_LOCK_PAGE | MOVE_BREAK_PIN | MOVE_BREAK_RANGE;
        let has = |flag: u32| arg.flags & flag != 0;
        let is_known = arg.flags & !(MOVE_DEFER | faults) == 0;
        let is_one = !(has(MOVE_BREAK_PIN) && has(MOVE_BREAK_RANGE));
        if !is_known || !is_one || has(faults) && !has(MOVE_DEFER) {
            return Err(EINVAL);
        }
        all_zero(&arg.reserved)?;
        if arg.hold_ms > MOVE_MAX_HOLD_MS || (arg.hold_ms != 0) != has(MOVE_HOLD) {
            return Err(EINVAL);
        }
        if has(faults) && !cfg!(CONFIG_RUST_TLB_FAULTS) {
            return Err(EOPNOTSUPP);
        }
        let (old, new) = (range(arg.old, arg.len)?, range(arg.new, arg.len)?);
        if old.span_pages() > limits.max_list as usize {
            return Err(E2BIG);
        }
        if old.start() < new.end() && new.start() < old.end() {
            return Err(EINVAL);
        }
        Ok(Self {
            when: when(arg.flags),
            old,
            new,
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            hold_ms: arg.hold_ms,
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            locks_page: has(MOVE_LOCK_PAGE),
        })
    }

    /// Whether it is a negative control that leaves stale translations.
    pub(crate) fn is_broken(&self) -> bool {
        !matches!(self.when, When::Locked | When::Deferred)
    }
}

fn when(flags: u32) -> When {
    match flags {
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        flags if flags & MOVE_BREAK_PIN != 0 => When::Unpinned,
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        flags if flags & MOVE_BREAK_RANGE != 0 => When::NewOnly,
        flags if flags & MOVE_DEFER != 0 => When::Deferred,
        _ => When::Locked,
    }
}

/// Addresses of a process: whole pages, and not none.
fn range(address: u64, len: u64) -> Result<PageRange> {
    let start = usize::try_from(address).map_err(|_| EINVAL)?;
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    let end = start.checked_add(len).ok_or(EFAULT)?;
    PageRange::new(start, end).ok_or(EINVAL)
}
