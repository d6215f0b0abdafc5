// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/mm.rs`, without what needs the kernel.

#[path = "../../srctree/rust/kernel/mm/parts.rs"]
pub mod parts;
#[path = "../../srctree/rust/kernel/mm/place.rs"]
pub mod place;
#[allow(dead_code, reason = "only the kernel and the model make PTEs")]
#[path = "../../srctree/rust/kernel/mm/pte.rs"]
pub mod pte;
#[path = "../../srctree/rust/kernel/mm/range.rs"]
pub mod range;
#[path = "../../srctree/rust/kernel/mm/run.rs"]
pub mod run;
#[path = "../../srctree/rust/kernel/mm/stale.rs"]
pub mod stale;
pub mod tlb;
#[path = "../../srctree/rust/kernel/mm/window.rs"]
pub mod window;
