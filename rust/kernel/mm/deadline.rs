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
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::mechanism;
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
/// `raw` is initialised with a pointer to `data`.
#[pin_data(PinnedDrop)]
pub struct Deadline<T: Overdue> {
    #[pin]
    raw: Opaque<bindings::tlb_batch_deadline>,
    data: Arc<T::Data>,
}

// SAFETY: The work can be started and cancelled from any thread, and the data is `Send` and `Sync`.
unsafe impl<T: Overdue> Send for Deadline<T> {}

// SAFETY: As above.
unsafe impl<T: Overdue> Sync for Deadline<T> {}

impl<T: Overdue> Deadline<T> {
    /// Makes a deadline that is not started.
    pub fn new(data: Arc<T::Data>) -> impl PinInit<Self> {
        let raw_data = Arc::as_ptr(&data).cast_mut().cast();
        pin_init!(Self {
            // INVARIANT: `data` is kept as long as `raw`.
            raw <- Opaque::ffi_init(move |raw| {
                // SAFETY: `raw` is pinned, and cancelled when it is dropped. `data` is kept until
                // then, and is what `expired` wants.
                unsafe { mechanism::deadline_init(raw, Self::expired, raw_data) }
            }),
            data,
        })
    }

    /// Has it done in `delay_ms` milliseconds; a time that was set before is forgotten.
    pub fn start(&self, delay_ms: u32) {
        // SAFETY: It is initialised by the type invariants.
        unsafe { mechanism::deadline_start(self.raw.get(), delay_ms) }
    }

    /// As [`Deadline::start`], unless a time is set that has not passed.
    pub fn start_once(&self, delay_ms: u32) {
        // SAFETY: It is initialised by the type invariants.
        unsafe { mechanism::deadline_start_once(self.raw.get(), delay_ms) }
    }

    /// # Safety
    ///
    /// `data` must be valid, of a deadline for `T`.
    unsafe extern "C" fn expired(data: *mut c_void) {
        // SAFETY: The deadline keeps an `Arc`, and waits for this function before it puts it.
        T::overdue(unsafe { ArcBorrow::from_raw(data.cast_const().cast()) })
    }
}

#[pinned_drop]
impl<T: Overdue> PinnedDrop for Deadline<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is initialised by the type invariants, and `overdue` does not drop it.
        unsafe { mechanism::deadline_cancel(self.raw.get()) }
    }
}
