// SPDX-License-Identifier: GPL-2.0

//! Memory of this process, read as if it were another's: by get_user_pages(), which holds a reference to
//! a page that may be unmapped meanwhile.

use anyhow::{ensure, Result};

use crate::mapping::{Mapping, PAGE_SIZE, WORDS_PER_PAGE};

/// Copies all pages that are used, by process_vm_readv().
pub fn read(mapping: &Mapping) -> Result<Vec<u64>> {
    let page_at = |page| libc::iovec {
        iov_base: mapping.part(page, 1),
        iov_len: PAGE_SIZE,
    };
    let remote: Vec<_> = mapping.used().map(page_at).collect();
    let mut copy = vec![0_u64; remote.len() * WORDS_PER_PAGE];
    let len = size_of_val(&*copy);
    let local = libc::iovec {
        iov_base: copy.as_mut_ptr().cast(),
        iov_len: len,
    };
    let (pid, nr_remote) = (rustix::process::getpid(), remote.len() as libc::c_ulong);
    // SAFETY: `local` describes `copy`, which is borrowed mutably; what `remote` describes is only read.
    let nr_read = unsafe {
        let pid = pid.as_raw_nonzero().get();
        libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), nr_remote, 0)
    };
    let error = std::io::Error::last_os_error();
    ensure!(nr_read == len as isize, "{nr_read} of {len} bytes: {error}");
    Ok(copy)
}
