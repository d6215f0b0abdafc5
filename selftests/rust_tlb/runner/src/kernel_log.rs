// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Judges a kernel's log: whatever the tests say, a kernel that complains has failed.

/// What a kernel says when something is wrong with it.
const COMPLAINTS: &[&str] = &[
    // Crashes.
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "double fault",
    "panicked at",
    // Things that should not be.
    "WARNING:",
    "UBSAN:",
    "refcount_t:",
    "corruption",
    // Pages that are lost, or counted wrong.
    "Bad page",
    "Bad rss-counter",
    "kmemleak:",
    // Locks.
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "suspicious usage",
    "bad unlock balance",
    "held lock freed",
    "lock held when returning to user space",
    "DEBUG_LOCKS_WARN_ON",
    // Nothing happens any more.
    "soft lockup",
    "hard LOCKUP",
    "detected stall",
    "blocked for more than",
    "hung_task:",
    "unregister_netdevice: waiting",
    // File systems that are gone, with something left of them.
    "Busy inodes after unmount",
    OUT_OF_MEMORY,
];

/// What a fault says that found no memory, and nobody to kill. None is short, unless a test makes it
/// so; and that says when.
const OUT_OF_MEMORY: &str = "Huh VM_FAULT_OOM leaked out";
/// What the guest's `failing_allocations.rs` writes to the log.
const FAIL_ON_PURPOSE: &str = "rust-tlb: allocations fail on purpose";
const WORK_AGAIN: &str = "rust-tlb: allocations work again";

/// What the guest's `complaint.rs` writes to the log, followed by how the complaint begins that a test
/// has the kernel make.
const IS_EXPECTED: &str = "rust-tlb: a complaint is expected: ";
const NONE_IS_EXPECTED: &str = "rust-tlb: no complaint is expected";

/// How KCSAN's report of a data race begins.
const DATA_RACE: &str = "BUG: KCSAN: ";
/// And how it ends, as does its first line above.
const DATA_RACE_ENDS: &str = "==========";
/// What a data race of ours has in one of its stacks: the C below the Rust code, or what it calls.
/// The kernel's own data races, of which there are some, are not ours to judge.
const OUR_FUNCTIONS: &[&str] = &["tlb_batch_", "mm_note_tlb_flush_batched"];
/// Functions that read the cpumask of an mm while a CPU enters it, as they must. Why that is right is
/// H1 in `Documentation/mm/tlb_batch.rst`.
const READ_THE_CPUMASK: &[&str] = &["tlb_batch_add_pending", "smp_call_function_many_cond"];

/// How much of an oops is shown.
const EXCERPT_LINES: usize = 60;

/// Reads a log, line by line.
#[derive(Debug, Default)]
pub struct Judge {
    fail_on_purpose: bool,
    expected: Option<String>,
}

impl Judge {
    /// What makes the next line a complaint, if anything does. Whether a data race is one, only the
    /// whole report says: see [`first_complaint`].
    pub fn complaint(&mut self, line: &str) -> Option<&'static str> {
        let line = without_stamp(line);
        if self.is_announcement(line) || line.starts_with(DATA_RACE) {
            return None;
        }
        let mut complaints = COMPLAINTS.iter().copied();
        let complaint = complaints.find(|complaint| line.contains(complaint))?;
        (!self.is_announced(line, complaint)).then_some(complaint)
    }

    /// Whether a test says here what comes.
    fn is_announcement(&mut self, line: &str) -> bool {
        if line.starts_with(FAIL_ON_PURPOSE) || line.starts_with(WORK_AGAIN) {
            self.fail_on_purpose = line.starts_with(FAIL_ON_PURPOSE);
            return true;
        }
        let expected = line.strip_prefix(IS_EXPECTED);
        let is_one = expected.is_some() || line.starts_with(NONE_IS_EXPECTED);
        if is_one {
            self.expected = expected.map(String::from);
        }
        is_one
    }

    fn is_announced(&self, line: &str, complaint: &str) -> bool {
        let is_expected = self.expected.as_ref().is_some_and(|e| line.starts_with(e));
        is_expected || (complaint == OUT_OF_MEMORY && self.fail_on_purpose)
    }
}

/// The line without the time stamp that the kernel puts before it.
pub fn without_stamp(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((stamp, rest))
            if stamp
                .trim_start()
                .chars()
                .all(|c| c.is_ascii_digit() || c == '.') =>
        {
            rest
        }
        _ => line,
    }
}

/// From the first complaint to the end of what the kernel says about it.
pub fn first_complaint(log: &[String]) -> Option<&[String]> {
    let mut judge = Judge::default();
    let Some(start) = log.iter().position(|line| judge.complaint(line).is_some()) else {
        return data_races(log).find(|report| is_ours(report));
    };
    let end = log[start..]
        .iter()
        .position(|line| line.contains("---[ end"))
        .map_or(EXCERPT_LINES, |end| end + 1);
    Some(&log[start..log.len().min(start + end.min(EXCERPT_LINES))])
}

/// KCSAN's reports, each from its first line to its last.
fn data_races(log: &[String]) -> impl Iterator<Item = &[String]> {
    let starts = |line: &String| without_stamp(line).starts_with(DATA_RACE);
    let ends = |line: &String| without_stamp(line).starts_with(DATA_RACE_ENDS);
    let starts = log.iter().enumerate().filter(move |(_, line)| starts(line));
    starts.map(move |(start, _)| {
        let rest = &log[start..];
        &rest[..rest.iter().position(ends).unwrap_or(rest.len())]
    })
}

fn is_ours(data_race: &[String]) -> bool {
    let says = |line: &String, names: &[&str]| names.iter().any(|name| line.contains(name));
    data_race.iter().any(|line| says(line, OUR_FUNCTIONS)) && !says(&data_race[0], READ_THE_CPUMASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: &str) -> Option<&'static str> {
        Judge::default().complaint(line)
    }

    #[test]
    fn who_makes_memory_short_may_say_so() {
        let mut judge = Judge::default();
        let mut is_complaint = |line: &str| judge.complaint(line).is_some();
        let huh = format!("[   12.0] {OUT_OF_MEMORY} to the #PF handler. Retrying PF");
        assert!(is_complaint(&huh));
        assert!(!is_complaint(&format!("[   12.1] {FAIL_ON_PURPOSE}")));
        assert!(!is_complaint(&huh));
        assert!(is_complaint("[   12.2] BUG: unable to handle page fault"));
        assert!(!is_complaint(&format!("[   12.3] {WORK_AGAIN}")));
        assert!(is_complaint(&huh));
    }

    #[test]
    fn complaints_are_seen_behind_a_time_stamp() {
        for line in [
            "[    3.141592] BUG: unable to handle page fault for address: 0000000000001000",
            "[    3.141592] WARNING: possible circular locking dependency detected",
            "[    3.141592] BUG: Bad rss-counter state mm:(ptrval) type:MM_FILEPAGES val:-1",
            "[  245.000001] INFO: task demo:77 blocked for more than 122 seconds.",
            "[   12.0] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [demo:77]",
            "[   12.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   12.0] rust_kernel: panicked at 'attempt to add with overflow'",
            "[   12.0] =============================\n[ 12.0] WARNING: suspicious RCU usage",
            "[   12.0] Oops: Oops: 0002 [#1] SMP NOPTI",
            "[   12.0] Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF",
        ] {
            assert!(complaint(line).is_some(), "{line}");
        }
    }

    #[test]
    fn an_ordinary_boot_is_no_complaint() {
        for line in [
            "[    0.000000] Linux version 7.3.4 (rust-tlb@rust-tlb)",
            "[    0.000000] Command line: earlyprintk=serial,ttyS0,115200 panic=-1",
            "[    0.000000] [Firmware Bug]: TSC doesn't count with P0 frequency!",
            "[    0.100000] rcu: RCU restricting CPUs from NR_CPUS=8 to nr_cpu_ids=4.",
            "[    0.100000] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc.",
            "[    0.900000] Run /build/rust-tlb-init as init process",
            "[    0.900000] rust_tlb: loaded",
        ] {
            assert_eq!(complaint(line), None, "{line}");
        }
    }

    #[test]
    fn the_stamp_is_a_number_in_brackets() {
        assert_eq!(without_stamp("[    1.234567] ok 1 a\r"), "ok 1 a");
        assert_eq!(without_stamp("[drm] ok 1 a"), "[drm] ok 1 a");
        assert_eq!(without_stamp("ok 1 a"), "ok 1 a");
    }

    #[test]
    fn a_complaint_can_be_announced() {
        let log = lines(
            "[ 1.0] rust-tlb: a complaint is expected: BUG: a at x.c\n[ 1.1] BUG: a at x.c:7\n\
             [ 1.2] rust-tlb: no complaint is expected\nfine",
        );
        assert_eq!(first_complaint(&log), None);
        for (nr, other) in [
            (1, "BUG: b at x.c:7"),
            (1, "WARNING: c"),
            (3, "BUG: a at x.c:7"),
        ] {
            let mut log = log.clone();
            log[nr] = other.into();
            assert_eq!(first_complaint(&log), Some(&log[nr..]), "{other}");
        }
        assert!(first_complaint(&log[1..]).is_some());
    }

    #[test]
    fn an_excerpt_ends_with_the_trace() {
        let log = [
            "fine",
            "BUG: a",
            "Call Trace:",
            "---[ end trace 0 ]---",
            "fine",
        ];
        let log: Vec<String> = log.map(String::from).into();
        assert_eq!(first_complaint(&log), Some(&log[1..4]));
        assert_eq!(first_complaint(&log[4..]), None);
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    #[test]
    fn a_data_race_is_ours_if_we_are_in_it() {
        let report = |title: &str, frame: &str| {
            lines(&format!(
                "fine\n[ 9.0] =================\n[ 9.0] BUG: KCSAN: data-race in {title}\n[ 9.0] \n\
                 [ 9.0] read to 0xff of 8 bytes by task 7 on cpu 1:\n[ 9.0]  {frame}\n\
                 [ 9.0] =================\n[ 9.0]  tlb_batch_later+0x1/0x2\n"
            ))
        };
        let ours = report("folio_put / folio_put", "tlb_batch_clear_parts+0x1/0x2");
        assert_eq!(first_complaint(&ours), Some(&ours[2..6]));
        for (title, frame) in [
            ("mas_walk / mas_wmb_replace", "lock_vma_under_rcu+0x1/0x2"),
            (
                "tlb_batch_add_pending+0x3e/0x70",
                "tlb_batch_add_pending+0x3e/0x70",
            ),
            (
                "smp_call_function_many_cond+0xce/0x660",
                "tlb_batch_flush_mm_range+0x1/0x2",
            ),
        ] {
            assert_eq!(first_complaint(&report(title, frame)), None, "{title}");
        }
    }

    #[test]
    fn what_is_worse_than_a_data_race_comes_first() {
        let log =
            lines("BUG: KCSAN: data-race in tlb_batch_a / b\n=====\nkernel BUG at mm/x.c\nend");
        assert_eq!(first_complaint(&log), Some(&log[2..]));
    }
}
