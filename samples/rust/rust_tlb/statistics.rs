// SPDX-License-Identifier: GPL-2.0

//! What all open files did since the module was loaded, or since it was reset: `rust_tlb/` in
//! debugfs. A line each is explained in `Documentation/mm/tlb_batch_trace.rst`.

use kernel::{
    debugfs::Dir,
    fmt,
    mm::tlb::{
        force_flush::Reason,
        moves::{
            Done,
            When, //
        },
        Why, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::Delta,
    uaccess::UserSliceReader, //
};

/// Powers of two that a histogram tells apart; what is above goes into the last.
const NR_BUCKETS: usize = 24;

/// Names of [`Why`], by number.
const WHYS: [&str; Why::NR] = [
    "end", "dirty", "phase", "refault", "full", "old", "pressure", "scope", "asked", "other",
    "dropped", "leaf",
];

/// Names of [`Reason`], by number.
const REASONS: [&str; Reason::NR] = ["no_page", "locked", "bad", "rmap", "writeback"];

/// How often a value was in `[2^(n-1), 2^n)`; bucket 0 counts zeroes.
struct Histogram([Atomic<u64>; NR_BUCKETS]);

impl Histogram {
    const fn new() -> Self {
        Self([const { Atomic::new(0) }; NR_BUCKETS])
    }

    fn add(&self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.0[bucket.min(NR_BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    fn reset(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, bucket) in self.0.iter().enumerate() {
            let (count, from) = (bucket.load(Relaxed), (1u64 << n) >> 1);
            if count > 0 {
                writeln!(f, "{name} {from} {count}")?;
            }
        }
        Ok(())
    }
}

/// Sums and histograms over all open files.
pub(crate) struct Statistics {
    whys: [Atomic<u64>; Why::NR],
    moves_locked: Atomic<u64>,
    moves_deferred: Atomic<u64>,
    moved_ptes: Atomic<u64>,
    forced: [Atomic<u64>; Reason::NR],
    pages: Histogram,
    mms: Histogram,
    deferral_us: Histogram,
}

pub(crate) static STATISTICS: Statistics = Statistics {
    whys: [const { Atomic::new(0) }; Why::NR],
    moves_locked: Atomic::new(0),
    moves_deferred: Atomic::new(0),
    moved_ptes: Atomic::new(0),
    forced: [const { Atomic::new(0) }; Reason::NR],
    pages: Histogram::new(),
    mms: Histogram::new(),
    deferral_us: Histogram::new(),
};

impl Statistics {
    /// A batch of so many pages and address spaces was flushed.
    pub(crate) fn batch(&self, nr_pages: usize, nr_mms: usize, why: Why) {
        self.why(why);
        self.pages.add(nr_pages as u64);
        self.mms.add(nr_mms as u64);
    }

    /// It was deferred for so long.
    pub(crate) fn deferral(&self, age: Delta) {
        self.deferral_us.add(age.as_micros_ceil().max(0) as u64);
    }

    /// A flush was made, but the batch stays.
    pub(crate) fn why(&self, why: Why) {
        self.whys[why as usize].fetch_add(1, Relaxed);
    }

    /// PTEs were moved.
    pub(crate) fn moved(&self, when: When, done: &Done) {
        let moves = match when {
            When::Locked => &self.moves_locked,
            _ => &self.moves_deferred,
        };
        moves.fetch_add(1, Relaxed);
        self.moved_ptes.fetch_add(done.nr_ptes as u64, Relaxed);
        for (count, nr) in self.forced.iter().zip(done.reasons) {
            count.fetch_add(nr as u64, Relaxed);
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in WHYS.iter().zip(&self.whys) {
            writeln!(f, "flushes_{name} {}", count.load(Relaxed))?;
        }
        writeln!(f, "moves_locked {}", self.moves_locked.load(Relaxed))?;
        writeln!(f, "moves_deferred {}", self.moves_deferred.load(Relaxed))?;
        writeln!(f, "moved_ptes {}", self.moved_ptes.load(Relaxed))?;
        for (name, count) in REASONS.iter().zip(&self.forced) {
            writeln!(f, "moved_flushed_{name} {}", count.load(Relaxed))?;
        }
        Ok(())
    }

    fn show_histograms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pages.show("batch_pages", f)?;
        self.mms.show("batch_mms", f)?;
        self.deferral_us.show("deferral_us", f)
    }

    fn reset(&self) {
        self.whys.iter().for_each(|count| count.store(0, Relaxed));
        self.forced.iter().for_each(|count| count.store(0, Relaxed));
        for count in [&self.moves_locked, &self.moves_deferred, &self.moved_ptes] {
            count.store(0, Relaxed);
        }
        self.pages.reset();
        self.mms.reset();
        self.deferral_us.reset();
    }
}

type File = kernel::debugfs::File<()>;

/// The files; they go with it.
#[pin_data]
pub(crate) struct Files {
    #[pin]
    counters: File,
    #[pin]
    histograms: File,
    #[pin]
    reset: File,
    _dir: Dir,
}

impl Files {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let dir = Dir::new(c"rust_tlb");
            Ok(try_pin_init!(Self {
                counters <- dir.read_callback_file(c"counters", (), &|(): &(), f| STATISTICS.show(f)),
                histograms <- dir.read_callback_file(
                    c"histograms",
                    (),
                    &|(): &(), f| STATISTICS.show_histograms(f),
                ),
                reset <- dir.write_callback_file(c"reset", (), &reset),
                _dir: dir.clone(),
            } ? Error))
        })
    }
}

/// Whatever is written resets.
fn reset((): &(), written: &mut UserSliceReader) -> Result {
    written.skip(written.len())?;
    STATISTICS.reset();
    Ok(())
}
