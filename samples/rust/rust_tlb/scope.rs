// SPDX-License-Identifier: GPL-2.0

//! Scopes: unmaps of one or several open files that share a flush.
//!
//! Lock order: [`OPEN_FILES`] → the pages of an open file → the locks of the shared flush. Of two
//! open files, the pages are never locked at the same time.

use crate::{
    abi::{
        Scope,
        SCOPE_ENTER,
        SCOPE_LEAVE,
        SCOPE_NO_FILE, //
    },
    request,
    store::Store,
    strategy, //
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    fs::{
        File,
        LocalFile, //
    },
    mm::tlb,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Arc,
        ArcBorrow, //
    }, //
};

/// An open file of this device, by its address.
pub(crate) struct OpenFile {
    address: usize,
    store: Arc<Store>,
}

global_lock! {
    // SAFETY: The module initialises it before it registers the device.
    pub(crate) unsafe(uninit) static OPEN_FILES: Mutex<KVVec<OpenFile>> = KVVec::new();
}

/// Makes an open file known to others, that want to enter its scope.
pub(crate) fn announce(file: &File, store: Arc<Store>) -> Result {
    let address = file.as_ptr().addr();
    let known = OpenFile { address, store };
    Ok(OPEN_FILES.lock().push(known, GFP_KERNEL)?)
}

/// Takes back what [`announce`] said, and leaves all scopes.
pub(crate) fn retire(file: &File, store: ArcBorrow<'_, Store>) {
    let address = file.as_ptr().addr();
    while leave(store).is_ok() {}
    let mut open_files = OPEN_FILES.lock();
    open_files.retain(|known| known.address != address);
    if open_files.is_empty() {
        // Statics are not dropped with the module.
        *open_files = KVVec::new();
    }
}

/// Returns what the open file `fd` of this process stores.
fn find(open_files: &[OpenFile], fd: i32) -> Result<&Store> {
    let fd = u32::try_from(fd).map_err(|_| EBADF)?;
    let address = LocalFile::fget(fd)?.as_ptr().addr();
    let known = open_files.iter().find(|known| known.address == address);
    known.map(|known| &*known.store).ok_or(EXDEV)
}

/// A scope that open files are in.
pub(crate) struct OpenScope {
    flush: Arc<tlb::Scope>,
    strategy: u32,
    /// Changed with [`OPEN_FILES`] locked.
    nr_levels: Atomic<u32>,
}

impl OpenScope {
    fn new(strategy: u32) -> Result<Arc<Self>> {
        let policies = [strategy::policy(strategy)?, strategy::policy(strategy)?];
        let scope = Self {
            flush: tlb::Scope::new(policies, GFP_KERNEL)?,
            strategy,
            nr_levels: Atomic::new(0),
        };
        Ok(Arc::new(scope, GFP_KERNEL)?)
    }

    /// Returns a policy that leaves the flush to this scope.
    pub(crate) fn policy(&self) -> Result<KBox<tlb::AnyPolicy>> {
        Ok(KBox::new(
            tlb::Hoisted::new(self.flush.clone()),
            GFP_KERNEL,
        )?)
    }

    fn add_levels(&self, nr: i32) -> u32 {
        let nr_levels = self.nr_levels.load(Relaxed).wrapping_add_signed(nr);
        self.nr_levels.store(nr_levels, Relaxed);
        nr_levels
    }
}

/// The scope that an open file is in.
pub(crate) struct Membership {
    scope: Arc<OpenScope>,
    depth: u32,
}

impl Membership {
    /// Returns the scope, if there is one and `strategy` is its.
    pub(crate) fn check(this: Option<&Self>, strategy: u32) -> Result<Option<Arc<OpenScope>>> {
        match this {
            Some(this) if this.scope.strategy != strategy => Err(EINVAL),
            Some(this) => Ok(Some(this.scope.clone())),
            None => Ok(None),
        }
    }

    /// Enters `outer`, or one more level of the scope that the file is in, or a new one.
    fn enter(this: &mut Option<Self>, outer: Option<Arc<OpenScope>>, strategy: u32) -> Result {
        let scope = match (&*this, outer) {
            (Some(this), Some(outer)) if !Arc::ptr_eq(&this.scope, &outer) => return Err(EBUSY),
            (Some(this), _) => this.scope.clone(),
            (None, Some(outer)) => outer,
            (None, None) => OpenScope::new(strategy)?,
        };
        if scope.strategy != strategy {
            return Err(EINVAL);
        }
        let depth = this.as_ref().map_or(0, |this| this.depth) + 1;
        *this = Some(Self { scope, depth });
        Ok(())
    }
}

/// The ioctl.
pub(crate) fn update(store: ArcBorrow<'_, Store>, arg: &mut Scope) -> Result {
    request::all_zero(&[u64::from(arg.reserved)])?;
    let left = match arg.op {
        SCOPE_ENTER => enter(store, arg)?,
        SCOPE_LEAVE if arg.strategy != 0 || arg.outer != SCOPE_NO_FILE => return Err(EINVAL),
        SCOPE_LEAVE => leave(store)?,
        _ => return Err(EINVAL),
    };
    (arg.depth, arg.nr_levels, arg.nr_flush_calls) = (left.depth, left.nr_levels, left.nr_calls);
    Ok(())
}

/// What entering or leaving came to.
struct Outcome {
    depth: u32,
    nr_levels: u32,
    nr_calls: u64,
}

fn enter(store: ArcBorrow<'_, Store>, arg: &Scope) -> Result<Outcome> {
    let strategy = strategy::known(arg.strategy)?;
    if !strategy::defers(strategy) {
        return Err(EINVAL);
    }
    let open_files = OPEN_FILES.lock();
    let outer = match arg.outer {
        SCOPE_NO_FILE => None,
        fd => {
            let outer = find(&open_files, fd)?.lock();
            Some(outer.membership.as_ref().ok_or(EINVAL)?.scope.clone())
        }
    };
    let mut pages = store.lock();
    Membership::enter(&mut pages.membership, outer, strategy)?;
    let entered = pages.membership.as_ref().ok_or(EINVAL)?;
    Ok(Outcome {
        depth: entered.depth,
        nr_levels: entered.scope.add_levels(1),
        nr_calls: 0,
    })
}

/// Leaves a level; the last of all to leave flushes.
fn leave(store: ArcBorrow<'_, Store>) -> Result<Outcome> {
    let open_files = OPEN_FILES.lock();
    let mut pages = store.lock();
    let left = pages.membership.as_mut().ok_or(EINVAL)?;
    left.depth -= 1;
    let (depth, scope) = (left.depth, left.scope.clone());
    if depth == 0 {
        pages.membership = None;
    }
    let nr_levels = scope.add_levels(-1);
    drop(open_files);
    let mut nr_calls = 0;
    if nr_levels == 0 {
        nr_calls += scope.flush.flush().nr_calls as u64;
        pages.counters.nr_flush_calls += nr_calls;
        nr_calls += pages.flush_deferred(tlb::Why::Scope).nr_calls as u64;
    }
    Ok(Outcome {
        depth,
        nr_levels,
        nr_calls,
    })
}
