// SPDX-License-Identifier: GPL-2.0

//! The open files of this device, for those who look for them: another file that wants to enter
//! their scope, and memory pressure.
//!
//! Nothing is waited for while [`OPEN_FILES`] is locked: no memory is allocated, and no file's pages
//! are locked. Else whoever opens or closes the device would wait as well.

use crate::store::Store;
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    fs::{
        File,
        LocalFile, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        global_lock,
        Arc, //
    }, //
};

/// By the address of the `struct file`. [`None`] if there are none: statics are not dropped with
/// the module.
type OpenFiles = Option<RBTree<usize, Arc<Store>>>;

global_lock! {
    // SAFETY: The module initialises it before it registers the device.
    pub(crate) unsafe(uninit) static OPEN_FILES: Mutex<OpenFiles> = None;
}

fn address(file: &File) -> usize {
    file.as_ptr().addr()
}

/// Makes an open file known.
pub(crate) fn announce(file: &File, store: Arc<Store>) -> Result {
    let node = RBTreeNode::new(address(file), store, GFP_KERNEL_ACCOUNT)?;
    let mut files = OPEN_FILES.lock();
    files.get_or_insert_with(RBTree::new).insert(node);
    Ok(())
}

/// Takes back what [`announce`] said.
pub(crate) fn retire(file: &File) {
    let mut files = OPEN_FILES.lock();
    let gone = files.as_mut().and_then(|f| f.remove_node(&address(file)));
    if files.as_ref().is_some_and(RBTree::is_empty) {
        *files = None;
    }
    // It may be the last who knows of the store.
    drop(files);
    drop(gone);
}

/// Returns what the open file `fd` of this process stores. The file may be closed meanwhile.
///
/// # Errors
///
/// - `EBADF`: no open file.
/// - `EXDEV`: not one of this device.
pub(crate) fn find(fd: i32) -> Result<Arc<Store>> {
    let fd = u32::try_from(fd).map_err(|_| EBADF)?;
    let address = LocalFile::fget(fd)?.as_ptr().addr();
    let files = OPEN_FILES.lock();
    let store = files.as_ref().and_then(|f| f.get(&address));
    store.cloned().ok_or(EXDEV)
}

/// For memory pressure, which goes around: the first file from address `from` on that `wanted` says
/// yes to. [`None`] if the list is locked.
pub(crate) fn try_next(
    from: usize,
    wanted: impl Fn(&Arc<Store>) -> bool,
) -> Option<Option<(usize, Arc<Store>)>> {
    let mut files = OPEN_FILES.try_lock()?;
    let mut cursor = files.as_mut().and_then(|f| f.cursor_lower_bound_mut(&from));
    while let Some(at) = cursor {
        let (address, store) = at.current();
        if wanted(store) {
            return Some(Some((*address, store.clone())));
        }
        cursor = at.move_next();
    }
    Some(None)
}

/// For memory pressure: the sum of `value` over all files. [`None`] if the list is locked.
pub(crate) fn try_sum(value: impl Fn(&Store) -> usize) -> Option<usize> {
    let files = OPEN_FILES.try_lock()?;
    let stores = files.iter().flat_map(RBTree::values);
    Some(stores.map(|store| value(store)).sum())
}
