// SPDX-License-Identifier: GPL-2.0

//! Negative controls: page tables are taken out with a rule broken.

use crate::{
    abi::{
        UNMAP_BREAK_TABLES_HINT,
        UNMAP_BREAK_TABLES_LAZY,
        UNMAP_BREAK_TABLES_LOCK,
        UNMAP_BREAK_TABLES_PENDING,
        UNMAP_BREAK_TABLES_RANGE,
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
pub(crate) struct BrokenTables {
    rules: Broken,
    /// Tables are looked at that show pages in use, too.
    hint: bool,
}

impl BrokenTables {
    /// Those of an unmap's flags.
    pub(crate) fn new(flags: u32) -> Self {
        let is_set = |flag: u32| flags & flag != 0;
        let rules = Broken {
            mmap_lock: is_set(UNMAP_BREAK_TABLES_LOCK),
            recheck: is_set(UNMAP_BREAK_TABLES_RECHECK),
            pending: is_set(UNMAP_BREAK_TABLES_PENDING),
            lazy: is_set(UNMAP_BREAK_TABLES_LAZY),
            range: is_set(UNMAP_BREAK_TABLES_RANGE),
        };
        Self {
            hint: is_set(UNMAP_BREAK_TABLES_HINT) || rules.recheck,
            rules,
        }
    }

    /// Takes tables out.
    pub(crate) fn take_tables<T: Send + Sync + 'static>(
        self,
        batch: BatchOfPages,
        mappings: &FileMappings<'_, T>,
        is_unused: impl Fn(usize, usize) -> bool,
    ) -> WithTables<DriverPage, AnyPolicy> {
        let may_be_empty = |first, last| self.hint || is_unused(first, last);
        batch.take_tables_broken(mappings, may_be_empty, self.rules)
    }
}
