// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: what a driver gives back when memory is short.
//!
//! Memory can be short in the whole machine, or in a cgroup. A shrinker is asked for what one cgroup
//! pays for, and has to know what that is: so a driver charges its memory to a [`Payer`].
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::shrinker::{account_reclaimed_pages, Shrink, Shrinker, Wanted},
//!     new_mutex,
//!     page::Page,
//!     sync::{Arc, ArcBorrow, Mutex}, //
//! };
//!
//! /// Pages that are kept for whoever wants one next.
//! #[pin_data]
//! struct Cache {
//!     #[pin]
//!     pages: Mutex<KVec<Page>>,
//! }
//!
//! impl Shrink for Cache {
//!     fn count(cache: ArcBorrow<'_, Self>, _wanted: &Wanted<'_>) -> usize {
//!         cache.pages.try_lock().map_or(0, |pages| pages.len())
//!     }
//!
//!     fn scan(cache: ArcBorrow<'_, Self>, wanted: &Wanted<'_>) -> Option<usize> {
//!         let mut pages = cache.pages.try_lock()?;
//!         let nr_freed = pages.len().min(wanted.nr_to_scan());
//!         let nr_left = pages.len() - nr_freed;
//!         pages.truncate(nr_left);
//!         account_reclaimed_pages(nr_freed);
//!         Some(nr_freed)
//!     }
//! }
//!
//! let new = pin_init!(Cache { pages <- new_mutex!(KVec::new()) });
//! let cache = Arc::pin_init(new, GFP_KERNEL)?;
//! let shrinker = Shrinker::register(c"an_example", cache.clone())?;
//! // Dropped, it waits for those who are in it: nobody calls `cache` afterwards.
//! drop(shrinker);
//! # Ok::<(), Error>(())
//! ```
//!
//! C headers: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h),
//! [`include/linux/tlb_charge.h`](srctree/include/linux/tlb_charge.h); contracts in
//! [`mm/rust_tlb/charge.c`](srctree/mm/rust_tlb/charge.c)

use crate::{
    bindings,
    ffi::c_void,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::NotThreadSafe, //
};
use core::ptr::NonNull;

/// A cache that can be shrunk.
///
/// Both functions run in whatever task needs memory, with whatever locks it holds: of the driver's
/// own locks, they may only try those under which the driver allocates. Several tasks can be in
/// them at a time.
pub trait Shrink: Send + Sync + 'static {
    /// Returns how many objects of those that are wanted could be freed; `0` if that is not known
    /// now.
    ///
    /// # Context
    ///
    /// Process context. Must wait for nothing: of locks that are held while others wait, it may
    /// try them.
    fn count(this: ArcBorrow<'_, Self>, wanted: &Wanted<'_>) -> usize;

    /// Frees up to [`Wanted::nr_to_scan`] objects, and returns how many, or [`None`] if it cannot
    /// get on, for example because a lock is taken. If they are whole pages, it says so
    /// ([`account_reclaimed_pages`]).
    ///
    /// # Context
    ///
    /// Process context, may sleep. Must not allocate in a way that reclaims.
    fn scan(this: ArcBorrow<'_, Self>, wanted: &Wanted<'_>) -> Option<usize>;
}

/// What a shrinker is asked for.
pub struct Wanted<'a>(&'a bindings::shrink_control);

impl Wanted<'_> {
    /// Returns how many objects are to be freed.
    pub fn nr_to_scan(&self) -> usize {
        self.0.nr_to_scan
    }

    /// Returns whether what `payer` pays for is wanted.
    #[inline(never)]
    pub fn is_of(&self, payer: &Payer) -> bool {
        // SAFETY: By its invariants `payer` owns a reference.
        unsafe { bindings::tlb_charge_is_wanted(payer.0, self.0) }
    }
}

/// Tells reclaim that pages were freed that it does not see by itself: those that a shrinker gives
/// back to the page allocator.
#[inline(never)]
pub fn account_reclaimed_pages(nr_pages: usize) {
    // SAFETY: Changes what belongs to the current task.
    unsafe { bindings::tlb_charge_account_reclaimed(nr_pages) }
}

/// Who pays for memory: a cgroup, or nobody.
///
/// # Invariants
///
/// The pointer comes from `tlb_charge_get_current()`, and owns a reference, or is null.
pub struct Payer(*mut bindings::obj_cgroup);

// SAFETY: The reference is counted, and whoever has it can put it.
unsafe impl Send for Payer {}

// SAFETY: What is done with a reference to it changes only the current task.
unsafe impl Sync for Payer {}

impl Payer {
    /// Returns who pays for the current task.
    #[inline(never)]
    pub fn current() -> Self {
        // INVARIANT: As it says.
        // SAFETY: Looks at the current task, and takes a reference.
        Self(unsafe { bindings::tlb_charge_get_current() })
    }

    /// Calls `allocate`. What that allocates with `__GFP_ACCOUNT`, this payer pays for.
    pub fn charge<R>(&self, allocate: impl FnOnce() -> R) -> R {
        let _charging = Charging::begin(self);
        allocate()
    }
}

impl Drop for Payer {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the invariants the reference is owned, and is not used afterwards.
        unsafe { bindings::tlb_charge_put(self.0) }
    }
}

/// What the current task allocates is charged to a [`Payer`], as long as this exists.
///
/// # Invariants
///
/// `before` is what `tlb_charge_begin()` returned to this task. Those of a task are on its stack, in
/// [`Payer::charge`] only, and so are dropped in the reverse order.
struct Charging {
    before: *mut bindings::mem_cgroup,
    _nts: NotThreadSafe,
}

impl Charging {
    #[inline(never)]
    fn begin(payer: &Payer) -> Self {
        // INVARIANT: It begins here.
        Self {
            // SAFETY: By its invariants `payer` owns a reference; what begins here ends in `drop`.
            before: unsafe { bindings::tlb_charge_begin(payer.0) },
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for Charging {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::tlb_charge_end(self.before) }
    }
}

/// `SHRINK_STOP`, which bindgen takes for an `i32`.
const STOP: c_ulong = c_ulong::MAX;

/// A shrinker that memory pressure knows of, until it is dropped.
///
/// # Invariants
///
/// The private data of `raw` point to `data`, and its functions are those of this type. It is declared,
/// and so dropped, before `data`.
pub struct Shrinker<T: Shrink> {
    raw: Registered,
    _data: Arc<T>,
}

impl<T: Shrink> Shrinker<T> {
    /// Registers a shrinker for `data`.
    ///
    /// What is returned must belong to something that the exit of the module of `T` drops. The types
    /// do not see to that: a shrinker that is forgotten (`mem::forget()`), or in a static that nobody
    /// empties, stays registered, and memory pressure calls code that is gone. `data` are kept.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there is no memory for it.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn register(name: &'static CStr, data: Arc<T>) -> Result<Self> {
        let calls = Calls {
            count: Self::count,
            scan: Self::scan,
            data: Arc::as_ptr(&data).cast_mut().cast(),
        };
        // SAFETY: The functions are of the module that this code was compiled into, and are done with
        // when `raw` is dropped: before the module goes, if its exit drops what is returned here.
        // `data` are what they take, and are dropped later.
        let raw = unsafe { Registered::new(name, calls) }?;
        // INVARIANT: It was registered with these functions, and a pointer to `data`.
        Ok(Self { raw, _data: data })
    }

    /// There is something to be freed again that `payer` pays for. Without this, a cgroup that is
    /// short of memory does not ask.
    pub fn tell(&self, payer: &Payer) {
        self.raw.tell(payer);
    }

    /// # Safety
    ///
    /// `raw` must be that of a `Shrinker<T>`.
    unsafe fn data<'a>(raw: *mut bindings::shrinker) -> ArcBorrow<'a, T> {
        // SAFETY: The data are kept until the shrinker is freed, which waits for its functions.
        unsafe { ArcBorrow::from_raw((*raw).private_data.cast_const().cast()) }
    }

    /// # Safety
    ///
    /// As `data`; `control` must be valid, and not be changed meanwhile.
    unsafe extern "C" fn count(
        raw: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As promised by the caller.
        let (data, wanted) = unsafe { (Self::data(raw), Wanted(&*control)) };
        T::count(data, &wanted)
    }

    /// # Safety
    ///
    /// As `count`.
    unsafe extern "C" fn scan(
        raw: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As promised by the caller.
        let (data, wanted) = unsafe { (Self::data(raw), Wanted(&*control)) };
        T::scan(data, &wanted).unwrap_or(STOP)
    }
}

/// What a shrinker calls, and with what.
struct Calls {
    count: unsafe extern "C" fn(*mut bindings::shrinker, *mut bindings::shrink_control) -> c_ulong,
    scan: unsafe extern "C" fn(*mut bindings::shrinker, *mut bindings::shrink_control) -> c_ulong,
    data: *mut c_void,
}

/// A shrinker of any type.
///
/// # Invariants
///
/// It is registered.
struct Registered(NonNull<bindings::shrinker>);

// SAFETY: It can be freed from any thread; whose functions it calls, sees to it that they can be called
// from any (`Shrink`).
unsafe impl Send for Registered {}

// SAFETY: What can be done with a reference, is done atomically.
unsafe impl Sync for Registered {}

impl Registered {
    /// # Safety
    ///
    /// The functions of `calls` must be fit to be called from any task, several at a time, with a
    /// shrinker that has its `data`, until what is returned was dropped.
    #[inline(never)]
    unsafe fn new(name: &'static CStr, calls: Calls) -> Result<Self> {
        // SAFETY: `name` is a valid string, which is copied.
        let raw = unsafe { bindings::tlb_charge_shrinker_alloc(name.as_char_ptr()) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        // SAFETY: It was just allocated; these are the fields to be filled in. They are as the caller
        // promises.
        unsafe {
            (*raw.as_ptr()).count_objects = Some(calls.count);
            (*raw.as_ptr()).scan_objects = Some(calls.scan);
            (*raw.as_ptr()).private_data = calls.data;
            bindings::shrinker_register(raw.as_ptr());
        }
        // INVARIANT: It was just registered.
        Ok(Self(raw))
    }

    #[inline(never)]
    fn tell(&self, payer: &Payer) {
        // SAFETY: By its invariants `payer` owns a reference, and by ours this is registered.
        unsafe { bindings::tlb_charge_tell(payer.0, self.0.as_ptr()) }
    }
}

impl Drop for Registered {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: It is registered by the type invariants, and not used afterwards. Its functions have
        // returned for the last time when this returns.
        unsafe { bindings::shrinker_free(self.0.as_ptr()) }
    }
}
