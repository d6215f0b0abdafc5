// SPDX-License-Identifier: GPL-2.0

//! Negative controls: page tables are taken out with a rule broken.

use crate::{
    abi::{
        UNMAP_BREAK_TABLES_LAZY,
        UNMAP_BREAK_TABLES_LOCK,
        UNMAP_BREAK_TABLES_PENDING,
        UNMAP_BREAK_TABLES_RECHECK, //
    },
    strategy::BatchOfPages, //
};
use kernel::mm::tlb::{
    tables::{
        Broken,
        WithTables, //
    },
    AnyPolicy,
    DriverPage,
    FileMappings, //
};

/// Which rules are broken.
#[derive(Clone, Copy, Default)]
pub(crate) struct BrokenTables(Broken);

impl BrokenTables {
    /// Those of an unmap's flags.
    pub(crate) fn new(flags: u32) -> Self {
        Self(Broken {
            mmap_lock: flags & UNMAP_BREAK_TABLES_LOCK != 0,
            recheck: flags & UNMAP_BREAK_TABLES_RECHECK != 0,
            pending: flags & UNMAP_BREAK_TABLES_PENDING != 0,
            lazy: flags & UNMAP_BREAK_TABLES_LAZY != 0,
        })
    }

    /// Takes tables out.
    pub(crate) fn take_tables<T: Send + Sync + 'static>(
        self,
        batch: BatchOfPages,
        mappings: &FileMappings<'_, T>,
        is_unused: impl Fn(usize, usize) -> bool,
    ) -> WithTables<DriverPage, AnyPolicy> {
        let recheck = self.0.recheck;
        let may_be_empty = |first, last| recheck || is_unused(first, last);
        batch.take_tables_broken(mappings, may_be_empty, self.0)
    }
}
