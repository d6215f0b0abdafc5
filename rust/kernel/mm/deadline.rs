// SPDX-License-Identifier: GPL-2.0

//! Something that has to be done after a while, at the latest.
//!
//! Unlike a work item, it does not outlive its owner: dropping a [`Deadline`] waits for it. So a
//! module can be unloaded, and what is done needs no reference of its own.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::deadline::{Deadline, Overdue},
//!     sync::{Arc, ArcBorrow, Completion}, //
//! };
//!
//! struct Wake;
//!
//! impl Overdue for Wake {
//!     type Data = Completion;
//!
//!     fn overdue(passed: ArcBorrow<'_, Completion>) {
//!         passed.complete_all();
//!     }
//! }
//!
//! let passed = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
//! let deadline = KBox::pin_init(Deadline::<Wake>::new(passed.clone()), GFP_KERNEL)?;
//! deadline.start(1);
//! passed.wait_for_completion();
//! // One that has not passed is forgotten when it is dropped.
//! deadline.start(60_000);
//! drop(deadline);
//! # Ok::<(), Error>(())
//! ```
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h); contracts in
//! [`mm/rust_tlb/defer.c`](srctree/mm/rust_tlb/defer.c)

use crate::{
    bindings,
    ffi::c_void,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

/// What is done when a deadline has passed.
pub trait Overdue: 'static {
    /// What it is done to.
    type Data: Send + Sync + 'static;

    /// Does it. Must not drop the [`Deadline`].
    ///
    /// # Context
    ///
    /// Process context, may sleep.
    fn overdue(data: ArcBorrow<'_, Self::Data>);
}

/// A deadline for `T`.
///
/// # Invariants
///
/// `work` calls `expired` with a pointer to `data`. It is declared, and so dropped, before that.
#[pin_data]
pub struct Deadline<T: Overdue> {
    #[pin]
    work: Work,
    data: Arc<T::Data>,
}

impl<T: Overdue> Deadline<T> {
    /// Makes a deadline that is not started.
    pub fn new(data: Arc<T::Data>) -> impl PinInit<Self> {
        let raw_data = Arc::as_ptr(&data).cast_mut().cast();
        pin_init!(Self {
            // INVARIANT: `data` is dropped after `work`.
            // SAFETY: For the same reason it is kept until then, and it is what `expired` wants. That
            // does not drop `work` (`Overdue`).
            work <- unsafe { Work::new(Self::expired, raw_data) },
            data,
        })
    }

    /// Has it done in `delay_ms` milliseconds; a time that was set before is forgotten.
    pub fn start(&self, delay_ms: u32) {
        self.work.start(delay_ms);
    }

    /// As [`Deadline::start`], unless a time is set that has not passed.
    pub fn start_once(&self, delay_ms: u32) {
        self.work.start_once(delay_ms);
    }

    /// # Safety
    ///
    /// `data` must be valid, of a deadline for `T`.
    unsafe extern "C" fn expired(data: *mut c_void) {
        // SAFETY: The deadline keeps an `Arc`, and waits for this function before it puts it.
        T::overdue(unsafe { ArcBorrow::from_raw(data.cast_const().cast()) })
    }
}

/// Delayed work that is waited for when it is dropped.
///
/// # Invariants
///
/// It is initialised.
#[pin_data(PinnedDrop)]
struct Work {
    #[pin]
    raw: Opaque<bindings::tlb_batch_deadline>,
}

// SAFETY: The work can be started and cancelled from any thread.
unsafe impl Send for Work {}

// SAFETY: As above.
unsafe impl Sync for Work {}

impl Work {
    /// # Safety
    ///
    /// `expired` must be fit to be called with `data`, from another task, until this was dropped, and
    /// not drop it.
    unsafe fn new(
        expired: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: It is initialised here.
            // SAFETY: `raw` is pinned, and cancelled when it is dropped; `expired` and `data` are as
            // the caller promises.
            raw <- Opaque::ffi_init(move |raw| unsafe { Self::init(raw, expired, data) }),
        })
    }

    /// # Safety
    ///
    /// As [`Work::new`]; `raw` must be valid for writes, and pinned until it was cancelled.
    #[inline(never)]
    unsafe fn init(
        raw: *mut bindings::tlb_batch_deadline,
        expired: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) {
        // SAFETY: As promised by the caller.
        unsafe { bindings::tlb_batch_deadline_init(raw, Some(expired), data) }
    }

    #[inline(never)]
    fn start(&self, delay_ms: u32) {
        // SAFETY: It is initialised by the type invariants.
        unsafe { bindings::tlb_batch_deadline_start(self.raw.get(), delay_ms) }
    }

    #[inline(never)]
    fn start_once(&self, delay_ms: u32) {
        // SAFETY: It is initialised by the type invariants.
        unsafe { bindings::tlb_batch_deadline_start_once(self.raw.get(), delay_ms) }
    }
}

#[pinned_drop]
impl PinnedDrop for Work {
    #[inline(never)]
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is initialised by the type invariants, and not cancelled by its own function: that
        // would wait for itself for ever, but no memory would be at risk.
        unsafe { bindings::tlb_batch_deadline_cancel(self.raw.get()) }
    }
}
