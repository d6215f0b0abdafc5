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
];

/// How much of an oops is shown.
const EXCERPT_LINES: usize = 60;

/// What makes this line a complaint, if anything does.
pub fn complaint(line: &str) -> Option<&'static str> {
    let line = without_stamp(line);
    // The guest's init writes to the kernel's log as well, and warns of what it finds missing.
    if line.starts_with("virtme-ng-init: ") {
        return None;
    }
    COMPLAINTS
        .iter()
        .copied()
        .find(|complaint| line.contains(complaint))
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
    let start = log.iter().position(|line| complaint(line).is_some())?;
    let end = log[start..]
        .iter()
        .position(|line| line.contains("---[ end"))
        .map_or(EXCERPT_LINES, |end| end + 1);
    Some(&log[start..log.len().min(start + end.min(EXCERPT_LINES))])
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "[    0.900000] virtme-init: waiting for udev to settle",
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
}
