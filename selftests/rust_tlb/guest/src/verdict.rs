// SPDX-License-Identifier: GPL-2.0

//! What a value that was read from a page says about the translation it came through.
//!
//! Each watching thread has a word of its own in every page, which nobody else writes but the
//! device. The driver numbers the unmaps of a page: it publishes `started` before the call, and
//! `done` when the flush is over. So a thread knows, without a lock:
//!
//! - [`POISON`] was written after the flush: whoever reads it came through a stale translation.
//! - A write that ended before an unmap started is in the page which that unmap took away. Reading
//!   it back after the unmap is done means that both went through a stale translation. This finds
//!   those who only ever see their own writes, which cover the poison.
//! - A fresh page is zero. Zero where no unmap can have happened since the write is a lost write.

use crate::abi::POISON;

/// What a thread remembers of its last write to its word of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub value: u64,
    /// Unmaps that were done before the write began.
    pub done_before: u64,
    /// Unmaps that had started before the write began.
    pub started_before: u64,
    /// Unmaps that had started when the write had ended.
    pub started_after: u64,
}

/// Judgement of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The page is the one that was there before.
    Same,
    /// The page is a fresh one.
    Fresh,
    /// The read, or an earlier write, went to a page that was unmapped and flushed before.
    Stale,
    /// The thread's write is gone although nobody unmapped the page.
    Lost,
    /// Neither zero nor poison nor anything that a watching thread writes.
    Garbage,
}

/// Upper byte of every value that is written, so that it is none of zero, poison and garbage.
const MARK: u64 = 0x57 << 56;

/// A value that tells writer, page and write apart.
pub fn stamp(slot: usize, page: u64, nr_write: u64) -> u64 {
    MARK | (slot as u64 & 0xff) << 48 | (page & 0xffff) << 32 | (nr_write & 0xffff_ffff)
}

fn is_stamp(value: u64) -> bool {
    value >> 56 == MARK >> 56
}

/// Judges `value`, where the thread's last write to the word was `last`, `done_before` unmaps were
/// done before the read, and `started_after` had started after it.
pub fn judge(value: u64, last: Option<Write>, done_before: u64, started_after: u64) -> Verdict {
    match (value, last) {
        (POISON, _) => Verdict::Stale,
        (0, None) => Verdict::Same,
        (0, Some(last)) if untouched_since(last, started_after) => Verdict::Lost,
        (0, Some(_)) => Verdict::Fresh,
        (value, Some(last)) if value == last.value && done_before <= last.started_after => {
            Verdict::Same
        }
        (value, _) if is_stamp(value) => Verdict::Stale,
        _ => Verdict::Garbage,
    }
}

/// Whether no unmap was under way when the write began, and none has started since.
fn untouched_since(last: Write, started: u64) -> bool {
    last.done_before == last.started_before && last.started_before == started
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = MARK | 7;

    /// A write between unmap 2 and unmap 3.
    const QUIET: Write = Write {
        value: OWN,
        done_before: 2,
        started_before: 2,
        started_after: 2,
    };

    /// A write while unmap 3 is under way.
    const DURING: Write = Write {
        value: OWN,
        done_before: 2,
        started_before: 3,
        started_after: 3,
    };

    #[test]
    fn poison_is_always_stale() {
        assert_eq!(judge(POISON, None, 0, 0), Verdict::Stale);
        assert_eq!(judge(POISON, Some(QUIET), 2, 2), Verdict::Stale);
    }

    #[test]
    fn an_own_write_is_stale_once_a_later_unmap_is_done() {
        assert_eq!(judge(OWN, Some(QUIET), 2, 3), Verdict::Same);
        assert_eq!(judge(OWN, Some(QUIET), 3, 3), Verdict::Stale);
    }

    #[test]
    fn a_write_during_an_unmap_may_be_in_either_page() {
        assert_eq!(judge(OWN, Some(DURING), 3, 3), Verdict::Same);
        assert_eq!(judge(0, Some(DURING), 3, 3), Verdict::Fresh);
        assert_eq!(judge(OWN, Some(DURING), 4, 4), Verdict::Stale);
    }

    #[test]
    fn zero_without_an_unmap_is_a_lost_write() {
        assert_eq!(judge(0, Some(QUIET), 2, 2), Verdict::Lost);
        assert_eq!(judge(0, Some(QUIET), 2, 3), Verdict::Fresh);
        assert_eq!(judge(0, None, 2, 2), Verdict::Same);
    }

    #[test]
    fn other_values_are_someone_elses_page_or_garbage() {
        assert_eq!(judge(stamp(1, 2, 3), Some(QUIET), 2, 2), Verdict::Stale);
        assert_eq!(judge(stamp(1, 2, 3), None, 2, 2), Verdict::Stale);
        assert_eq!(judge(42, None, 2, 2), Verdict::Garbage);
    }

    #[test]
    fn a_stamp_is_never_poison() {
        assert!(!is_stamp(POISON));
        assert!(is_stamp(stamp(255, u64::MAX, u64::MAX)));
    }
}
