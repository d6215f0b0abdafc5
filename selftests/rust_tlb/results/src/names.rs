// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is told apart by name in rows. The names are those in the results.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Makes an enum of names: it is written, read and printed by them, and compared with them.
macro_rules! names {
    ($(#[$of_all:meta])* $type:ident { $($(#[$of_one:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[cfg_attr(test, schemars(inline))]
        pub enum $type { $($(#[$of_one])* #[serde(rename = $name)] $variant,)* }

        impl $type {
            /// In the results.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, name: &&str) -> bool {
                self.name() == *name
            }
        }
    };
}

names! {
    /// How pages lie.
    Layout {
        /// They are neighbours.
        Contiguous = "contiguous",
        /// There is at least one between two of them.
        Scattered = "scattered",
    }
}

names! {
    /// Where the threads are that use the pages, the driver's aside.
    Placement {
        /// One is busy on each of the other CPUs. If there are more processes than that, they sleep.
        All = "all",
        /// All on the second CPU, where one is busy, and the others sleep.
        One = "one",
        /// All are asleep, each on a CPU of its own, which is idle.
        Idle = "idle",
    }
}

names! {
    /// Who moves memory, and when the old addresses are flushed.
    Mover {
        /// `mremap()`, page table by page table.
        Kernel = "kernel",
        /// `mremap()`, once for several entries.
        KernelDeferred = "kernel_deferred",
        /// The device, before each page table is unlocked.
        DeviceLocked = "device_locked",
        /// The device, once, at the end.
        DeviceDeferred = "device_deferred",
    }
}

names! {
    /// How pages are taken back whose page tables are looked at.
    TableUser {
        /// `MADV_DONTNEED`, in the process that maps them: the kernel frees the tables. The device
        /// keeps its pages.
        Madvise = "madvise",
        /// By the device, which frees the tables.
        Unmap = "unmap",
        /// By the device, whose worker frees the tables.
        UnmapAsync = "unmap_async",
        /// By the device, which leaves them.
        None = "none",
    }
}

names! {
    /// How Rust Binder's shrinker takes idle pages.
    Shrinker {
        /// Page by page.
        Before = "before",
        /// In one batch for each scan.
        After = "after",
    }
}

names! {
    /// How instructions are run.
    Accel {
        Kvm = "kvm",
        Tcg = "tcg",
    }
}

names! {
    /// How CPUs are run.
    CpuThreads {
        /// At the same time.
        Parallel = "parallel",
        /// One after the other, by the emulator.
        Sliced = "sliced",
        /// One after the other, by a clock that counts instructions.
        Counted = "counted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_is_written_and_read() {
        for one in [TableUser::UnmapAsync, TableUser::None] {
            let json = serde_json::to_string(&one).unwrap();
            assert_eq!(json, format!("\"{one}\""));
            assert_eq!(serde_json::from_str::<TableUser>(&json).unwrap(), one);
        }
        assert!(serde_json::from_str::<Layout>("\"other\"").is_err());
        assert!(Layout::Scattered == "scattered");
    }
}
