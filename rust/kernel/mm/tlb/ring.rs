// SPDX-License-Identifier: GPL-2.0

//! The ring of flushes of an address space: what its last generations were for, so that a CPU which
//! missed some of them can invalidate those pages and keep all else.
//!
//! It rests on one claim: *a CPU whose local generation is at least g holds no translation that
//! generation g revoked*. So nothing may skip a generation, wait for one, or change a published
//! one; and doubt is always allowed, because the answer to doubt is a full flush.
//!
//! # The calls
//!
//! 1. The page tables are changed. The generation goes up, to g: a full barrier.
//! 2. [`publish`] says what g is for, in the slot g mod N. If it cannot, it gives up at once: an
//!    unpublished generation is everything.
//! 3. The CPUs of the address space are read, and asked.
//! 4. A CPU that is asked, or comes back to the address space after it was lazy, reads the
//!    generation once. [`catch_up`] from its own to that one invalidates what each in between was
//!    for, or returns why that cannot be known: then, everything.
//! 5. *That* generation becomes the CPU's own, never one that is read later.
//!
//! Neither call sleeps, waits, takes a lock, allocates or panics; both may be made from an
//! interrupt that came in the middle of the other.
//!
//! # A slot
//!
//! A slot is a tag and [`MAX_RUNS`] runs, one cache line. The tag is the generation that the runs
//! belong to, [`EMPTY`], or [`BUSY`] while they are written.
//!
//! | publish(g)                            | catch up on g                      |
//! |---------------------------------------|------------------------------------|
//! | seen = tag; give up if BUSY or >= g   | tag == g, load-acquire             |
//! | cmpxchg(tag, seen, BUSY): full barrier| read the runs                      |
//! | write the runs                        | read barrier                       |
//! | store-release(tag, g)                 | tag == g, again                    |
//!
//! The store-release is the partner of the load-acquire: who sees g sees the runs. The barrier of
//! the cmpxchg is the partner of the read barrier: who read a run of a later generation sees BUSY,
//! or that generation, in the tag. No tag value is stored twice, because a generation has one
//! owner. Litmus: `tlb-ring-slot`, `tlb-ring-claim` in `Documentation/litmus-tests/tlb/`.
//!
//! Without the claim, generations g and g + N, which share a slot, could mix their runs under a
//! tag that looks right.
//!
//! # The memory
//!
//! Both calls are generic over [`Words`]: each of its methods is one access to shared memory, and
//! they make no other. The kernel's is [`Ring`]; a model may count each access as a step, and have
//! fewer and smaller slots ([`Words::NR_SLOTS`], [`Words::NR_RUNS`]). Tests break a [`Rule`] by
//! [`Words::keeps`].

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

pub use kernel::mm::run::Run;
use kernel::sync::{
    atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
    barrier::{
        smp_mb,
        Read, //
    }, //
};

/// Slots of a ring. A power of two.
pub const NR_SLOTS: usize = 64;
/// Runs of a slot: with the tag they fill a cache line.
pub const MAX_RUNS: usize = 7;

/// Tag of a slot that was never used. No generation: Linux calls it `TLB_GENERATION_INVALID`.
pub const EMPTY: u64 = 0;
/// Tag of a slot that is being written.
pub const BUSY: u64 = u64::MAX;

/// The shared memory of a ring, one access a method.
pub trait Words {
    /// How many slots there are: a power of two.
    const NR_SLOTS: usize;
    /// How many runs a slot has: one to [`MAX_RUNS`].
    const NR_RUNS: usize;

    /// Reads the tag of `slot`: load-acquire.
    fn load_tag(&self, slot: usize) -> u64;
    /// Reads the tag of `slot` after the runs that were read: read barrier, then a relaxed load.
    fn reload_tag(&self, slot: usize) -> u64;
    /// Makes the tag of `slot` [`BUSY`] if it is `seen`, and returns whether it was. A full barrier
    /// if so.
    fn claim(&self, slot: usize, seen: u64) -> bool;
    /// Stores the tag of `slot`: store-release.
    fn release(&self, slot: usize, tag: u64);
    /// Reads a run: relaxed.
    fn load_run(&self, slot: usize, index: usize) -> Run;
    /// Writes a run: relaxed.
    fn store_run(&self, slot: usize, index: usize, run: Run);

    /// Whether `rule` is kept. Always, but for a test that shows what happens if it is not.
    #[inline(always)]
    fn keeps(&self, _rule: Rule) -> bool {
        true
    }
}

/// What tests may break, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Rule {
    /// A slot is claimed before it is written.
    Claim = 0,
    /// The tag is checked before the runs are read.
    TagBefore = 1,
    /// The tag is checked after the runs were read.
    TagAfter = 2,
    /// A generation that is not in its slot is everything, not nothing.
    UnpublishedIsFull = 3,
    /// Freed page tables are everything, not a few addresses.
    TablesAreFull = 4,
    /// What a run cannot hold is everything, not nothing.
    OddIsFull = 5,
}

/// Why a CPU flushes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Doubt {
    /// More generations behind than the ring holds, or than pages may be flushed one by one.
    Far = 0,
    /// A generation was not published (yet).
    Unpublished = 1,
    /// A later generation took the slot.
    Overwritten = 2,
    /// A slot changed while it was read.
    Torn = 3,
    /// A generation was for everything.
    Everything = 4,
    /// A generation freed page tables.
    Tables = 5,
    /// All in all more pages than may be flushed one by one.
    Many = 6,
}

impl Doubt {
    /// How many there are.
    pub const NR: usize = 7;
}

/// Why a generation is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GaveUp {
    /// Someone else writes to the slot.
    Busy = 0,
    /// The slot belongs to a later generation already, or the generation is none.
    Late = 1,
}

/// Says that `generation` is for `runs`. All that does not fit into a slot is [`Run::FULL`], and so
/// is nothing.
///
/// The caller has just increased the generation to `generation`, after it changed the page tables,
/// and asks the CPUs afterwards; so nobody else publishes it.
///
/// # Errors
///
/// - [`GaveUp`] if the slot is not to be had. The generation remains unpublished, which is correct.
pub fn publish<W: Words>(words: &W, generation: u64, runs: &[Run]) -> Result<(), GaveUp> {
    let slot = slot_of::<W>(generation);
    let seen = words.load_tag(slot);
    if seen == BUSY && words.keeps(Rule::Claim) {
        return Err(GaveUp::Busy);
    }
    if !is_number(generation) || seen >= generation && seen != BUSY {
        return Err(GaveUp::Late);
    }
    if words.keeps(Rule::Claim) && !words.claim(slot, seen) {
        return Err(GaveUp::Busy);
    }
    let fits = !runs.is_empty() && runs.len() <= W::NR_RUNS;
    let runs = if fits { runs } else { &[Run::FULL] };
    let padded = runs.iter().copied().chain(core::iter::repeat(Run::NONE));
    for (index, run) in padded.take(W::NR_RUNS).enumerate() {
        let is_lost = run.is_full() && !words.keeps(Rule::OddIsFull);
        words.store_run(slot, index, if is_lost { Run::NONE } else { run });
    }
    words.release(slot, generation);
    Ok(())
}

/// Calls `invalidate` with all runs of generations above `local`, up to and with `target`, and
/// returns how many pages (of any size) they are, duplicates counted.
///
/// # Errors
///
/// - [`Doubt`]: everything has to be invalidated, whatever `invalidate` was called with so far.
///   Above `limit` pages, too.
pub fn catch_up<W: Words>(
    words: &W,
    local: u64,
    target: u64,
    limit: usize,
    mut invalidate: impl FnMut(Run),
) -> Result<usize, Doubt> {
    let nr_behind = target.wrapping_sub(local);
    // Each generation is for a page at least.
    if nr_behind > W::NR_SLOTS.min(limit) as u64 {
        return Err(Doubt::Far);
    }
    let missed = || (1..=nr_behind).map(|n| local.wrapping_add(n));
    let mut nr_pages = 0usize;
    for generation in missed() {
        let runs = read(words, generation)?;
        nr_pages = runs.nr_pages().saturating_add(nr_pages);
        if nr_pages > limit {
            return Err(Doubt::Many);
        }
    }
    // What was read above may have been overwritten since: this reading alone is relied on.
    for generation in missed() {
        let runs = read(words, generation)?;
        // A loop: what adapters make of these types has a longer name than modpost takes.
        for run in runs.as_slice() {
            invalidate(*run);
        }
    }
    Ok(nr_pages)
}

/// Adds `run` to what `generation` was published for: the negative control of "nothing changes a
/// published generation".
#[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
pub fn extend<W: Words>(words: &W, generation: u64, run: Run) -> bool {
    let slot = slot_of::<W>(generation);
    let is_free = |index: &usize| words.load_run(slot, *index).is_none();
    if words.load_tag(slot) != generation {
        return false;
    }
    let free = (0..W::NR_RUNS).find(is_free);
    free.map(|index| words.store_run(slot, index, run))
        .is_some()
}

/// The runs of one generation, in memory that is nobody else's.
struct Runs([Run; MAX_RUNS]);

impl Runs {
    fn as_slice(&self) -> &[Run] {
        let nr_runs = self.0.iter().position(|run| run.is_none());
        self.0.get(..nr_runs.unwrap_or(MAX_RUNS)).unwrap_or(&[])
    }

    fn nr_pages(&self) -> usize {
        // At most seven times 2^16.
        let all = self.as_slice().iter();
        all.fold(0, |nr, run| run.nr_strides().wrapping_add(nr))
    }
}

/// Reads what `generation` was for, if that is certain, and can be invalidated page by page.
fn read<W: Words>(words: &W, generation: u64) -> Result<Runs, Doubt> {
    let slot = slot_of::<W>(generation);
    let mut runs = Runs([Run::NONE; MAX_RUNS]);
    if let Err(doubt) = check_tag(words.load_tag(slot), generation) {
        if !words.keeps(Rule::UnpublishedIsFull) {
            return Ok(runs);
        }
        if words.keeps(Rule::TagBefore) {
            return Err(doubt);
        }
    }
    for (index, run) in runs.0.iter_mut().enumerate().take(W::NR_RUNS) {
        *run = words.load_run(slot, index);
    }
    if words.reload_tag(slot) != generation && words.keeps(Rule::TagAfter) {
        return Err(Doubt::Torn);
    }
    for run in runs.as_slice() {
        if run.is_full() {
            return Err(Doubt::Everything);
        }
        if run.frees_tables() && words.keeps(Rule::TablesAreFull) {
            return Err(Doubt::Tables);
        }
    }
    Ok(runs)
}

fn check_tag(tag: u64, generation: u64) -> Result<(), Doubt> {
    match tag {
        _ if !is_number(generation) => Err(Doubt::Unpublished),
        _ if tag == generation => Ok(()),
        BUSY => Err(Doubt::Unpublished),
        _ if tag > generation => Err(Doubt::Overwritten),
        _ => Err(Doubt::Unpublished),
    }
}

/// The first and the last value of a generation are no tags: near the end, all is doubt.
const fn is_number(generation: u64) -> bool {
    generation != EMPTY && generation != BUSY
}

const fn slot_of<W: Words>(generation: u64) -> usize {
    generation as usize & (W::NR_SLOTS - 1)
}

/// A slot of a [`Ring`].
#[repr(C, align(64))]
struct Slot {
    tag: Atomic<u64>,
    runs: [Atomic<u64>; MAX_RUNS],
}

/// A ring in memory: a page, which is empty if it is zeroed.
#[repr(C)]
pub struct Ring([Slot; NR_SLOTS]);

const _: () = assert!(size_of::<Ring>() == kernel::page::PAGE_SIZE);

impl Ring {
    /// Makes an empty ring: too large for a stack.
    #[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
    pub const fn empty() -> Self {
        Self(
            [const {
                Slot {
                    tag: Atomic::new(EMPTY),
                    runs: [const { Atomic::new(0) }; MAX_RUNS],
                }
            }; NR_SLOTS],
        )
    }

    #[inline(always)]
    fn slot(&self, slot: usize) -> &Slot {
        // The mask leaves nothing to check.
        &self.0[slot & (NR_SLOTS - 1)]
    }
}

impl Words for Ring {
    const NR_SLOTS: usize = NR_SLOTS;
    const NR_RUNS: usize = MAX_RUNS;

    #[inline(always)]
    fn load_tag(&self, slot: usize) -> u64 {
        self.slot(slot).tag.load(Acquire)
    }

    #[inline(always)]
    fn reload_tag(&self, slot: usize) -> u64 {
        smp_mb(Read);
        self.slot(slot).tag.load(Relaxed)
    }

    #[inline(always)]
    fn claim(&self, slot: usize, seen: u64) -> bool {
        self.slot(slot).tag.cmpxchg(seen, BUSY, Full).is_ok()
    }

    #[inline(always)]
    fn release(&self, slot: usize, tag: u64) {
        self.slot(slot).tag.store(tag, Release);
    }

    #[inline(always)]
    fn load_run(&self, slot: usize, index: usize) -> Run {
        let word = self.slot(slot).runs.get(index);
        word.map_or(Run::FULL, |word| Run::from_word(word.load(Relaxed)))
    }

    #[inline(always)]
    fn store_run(&self, slot: usize, index: usize, run: Run) {
        if let Some(word) = self.slot(slot).runs.get(index) {
            word.store(run.into_word(), Relaxed);
        }
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_ring))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    const N: u64 = NR_SLOTS as u64;

    fn pages(first: usize, nr: usize) -> Run {
        Run::new(first * PAGE_SIZE, (first + nr) * PAGE_SIZE, 12, false)
    }

    /// What catching up invalidates: the sum of page numbers and strides, which tells the runs of
    /// these tests apart without any memory.
    fn caught(ring: &Ring, local: u64, target: u64, limit: usize) -> (Result<usize, Doubt>, usize) {
        let mut sum = 0;
        let result = catch_up(ring, local, target, limit, |run| {
            sum += (run.start() / PAGE_SIZE) * 1000 + run.nr_strides();
        });
        (result, sum)
    }

    #[test]
    fn several_generations_are_caught_up_together() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        assert_eq!(publish(ring, 1, &[pages(7, 1)]), Ok(()));
        assert_eq!(publish(ring, 2, &[pages(1, 2), pages(9, 3)]), Ok(()));
        assert_eq!(publish(ring, 3, &[pages(4, 1); MAX_RUNS]), Ok(()));
        assert_eq!(caught(ring, 0, 3, 33), (Ok(13), 45_013));
        assert_eq!(caught(ring, 1, 2, 33), (Ok(5), 10_005));
        assert_eq!(caught(ring, 3, 3, 33), (Ok(0), 0));
    }

    #[test]
    fn each_doubt_is_a_full_flush_and_says_why() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        assert_eq!(caught(ring, 0, 1, 33), (Err(Doubt::Unpublished), 0));
        assert_eq!(publish(ring, 1, &[pages(7, 1)]), Ok(()));
        assert_eq!(caught(ring, 0, 2, 33), (Err(Doubt::Unpublished), 0));
        assert_eq!(publish(ring, 2, &[pages(7, 33)]), Ok(()));
        assert_eq!(caught(ring, 0, 2, 33), (Err(Doubt::Many), 0));
        assert_eq!(caught(ring, 0, 2, 34), (Ok(34), 14_034));
        assert_eq!(publish(ring, 3, &[pages(1, 1), Run::FULL]), Ok(()));
        assert_eq!(caught(ring, 2, 3, 33), (Err(Doubt::Everything), 0));
        assert_eq!(publish(ring, 4, &[Run::new(0, 4096, 12, true)]), Ok(()));
        assert_eq!(caught(ring, 3, 4, 33), (Err(Doubt::Tables), 0));
        assert_eq!(caught(ring, 0, N + 1, 1000), (Err(Doubt::Far), 0));
        assert_eq!(caught(ring, 0, 3, 2), (Err(Doubt::Far), 0));
        // Behind itself: no CPU is, and it would be very far.
        assert_eq!(caught(ring, 4, 3, 33), (Err(Doubt::Far), 0));
    }

    #[test]
    fn what_does_not_fit_into_a_slot_is_everything() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        assert_eq!(publish(ring, 1, &[]), Ok(()));
        assert_eq!(publish(ring, 2, &[pages(1, 1); MAX_RUNS + 1]), Ok(()));
        for local in [0, 1] {
            assert_eq!(
                caught(ring, local, local + 1, 33),
                (Err(Doubt::Everything), 0)
            );
        }
    }

    #[test]
    fn a_slot_is_used_again_and_never_for_less() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        for generation in 1..=3 * N {
            assert_eq!(publish(ring, generation, &[pages(1, 1)]), Ok(()));
        }
        assert_eq!(caught(ring, 2 * N, 3 * N, 64), (Ok(64), 64_064));
        assert_eq!(
            caught(ring, 2 * N - 1, 2 * N, 64),
            (Err(Doubt::Overwritten), 0)
        );
        // A publisher that was away for a whole turn of the ring.
        assert_eq!(publish(ring, N, &[pages(9, 1)]), Err(GaveUp::Late));
        assert_eq!(caught(ring, 3 * N - 1, 3 * N, 64), (Ok(1), 1_001));
    }

    #[test]
    fn a_slot_that_is_written_is_left_alone() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        assert_eq!(publish(ring, 1, &[pages(7, 1)]), Ok(()));
        assert!(ring.claim(1, 1));
        assert_eq!(publish(ring, N + 1, &[pages(9, 1)]), Err(GaveUp::Busy));
        assert_eq!(caught(ring, 0, 1, 33), (Err(Doubt::Unpublished), 0));
        assert_eq!(caught(ring, N, N + 1, 33), (Err(Doubt::Unpublished), 0));
    }

    #[test]
    fn the_last_generations_are_doubt() {
        static RING: Ring = Ring::empty();
        let ring = &RING;
        let last = u64::MAX - 1;
        assert_eq!(publish(ring, last, &[pages(3, 1)]), Ok(()));
        assert_eq!(caught(ring, last - 1, last, 33), (Ok(1), 3_001));
        for generation in [u64::MAX, 0] {
            let published = publish(ring, generation, &[pages(3, 1)]);
            assert_eq!(published, Err(GaveUp::Late));
            let before = generation.wrapping_sub(1);
            assert_eq!(
                caught(ring, before, generation, 33),
                (Err(Doubt::Unpublished), 0)
            );
        }
        // Near 2^63, where a signed number would turn over, nothing happens.
        let middle = 1 << 63;
        assert_eq!(publish(ring, middle - 1, &[pages(3, 1)]), Ok(()));
        assert_eq!(publish(ring, middle, &[pages(3, 1)]), Ok(()));
        assert_eq!(caught(ring, middle - 2, middle, 33), (Ok(2), 6_002));
    }
}
