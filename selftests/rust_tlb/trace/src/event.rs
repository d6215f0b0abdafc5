// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One recorded event: a line of tracefs' `trace`, of `trace-cmd report` or of `perf script`.
//!
//! ```text
//!    rust-tlb-demo-172     [000] d..2.     5.710839: tlb_flush: pages:-1 reason:remote IPI send (4)
//!    rust-tlb-demo   172 [000]     5.710839:         tlb:tlb_flush: pages:-1 reason:remote IPI send (4)
//! ```

/// What happened, when, where, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the trace's clock.
    pub at: u64,
    pub cpu: u32,
    /// The task that the CPU ran, interrupted or not.
    pub comm: String,
    pub pid: u32,
    /// Without the system that it belongs to.
    pub name: String,
    /// Its fields, as printed.
    pub detail: String,
}

impl Event {
    /// Reads a line; [`None`] if it is none: a comment, or what another program said.
    pub fn parse(line: &str) -> Option<Self> {
        let (who, cpu, rest) = split_at_cpu(line)?;
        let (comm, pid) = task(who)?;
        let (at, rest) = time(rest)?;
        let (name, detail) = match rest.split_once(": ") {
            Some((name, detail)) => (name, detail.trim()),
            None => (rest.strip_suffix(':')?, ""),
        };
        let name = name.rsplit(':').next()?.trim();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        Some(Self {
            at,
            cpu,
            comm: comm.into(),
            pid,
            name: name.into(),
            detail: detail.into(),
        })
    }

    /// The value of a field, which is printed as `name=value` or `name:value`.
    pub fn text(&self, field: &str) -> Option<&str> {
        let words = self.detail.split_whitespace();
        let value = |word: &'_ str| -> Option<usize> {
            let value = word.strip_prefix(field)?.strip_prefix(['=', ':'])?;
            Some(value.len())
        };
        words
            .filter_map(|word| value(word).map(|len| &word[word.len() - len..]))
            .map(|value| value.trim_end_matches(','))
            .next()
    }

    /// The value of a field that is a decimal number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.text(field)?.parse().ok()
    }

    /// The value of a field that is an address. NULL has several names.
    pub fn address(&self, field: &str) -> Option<u64> {
        match self.text(field)? {
            "(nil)" | "(null)" => Some(0),
            text => u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok(),
        }
    }

    /// The number in brackets at the end: of a `tlb_flush`, its reason.
    pub fn code(&self) -> Option<u64> {
        let (_, code) = self.detail.strip_suffix(')')?.rsplit_once('(')?;
        code.parse().ok()
    }
}

/// All events of a text, in the order in which they happened.
pub fn parse(text: &str) -> Vec<Event> {
    let mut events: Vec<Event> = text.lines().filter_map(Event::parse).collect();
    // Stable: what one CPU did at the same time stays in order.
    events.sort_by_key(|event| event.at);
    events
}

/// Splits at ` [003] `, which every format has after the task.
fn split_at_cpu(line: &str) -> Option<(&str, u32, &str)> {
    let mut from = 0;
    while let Some(found) = line[from..].find('[') {
        let open = from + found;
        let (number, rest) = line[open + 1..].split_once(']')?;
        if let (3.., Ok(cpu)) = (number.len(), number.parse()) {
            return Some((line[..open].trim(), cpu, rest));
        }
        from = open + 1;
    }
    None
}

/// `comm-pid`, with a thread group in brackets if one asked for it, or perf's `comm pid`.
fn task(who: &str) -> Option<(&str, u32)> {
    let who = match who.rsplit_once('(') {
        Some((before, _)) if who.ends_with(')') => before.trim(),
        _ => who,
    };
    if let Some((comm, number)) = who.rsplit_once(char::is_whitespace) {
        let tid = number.rsplit('/').next()?;
        if let Ok(pid) = tid.parse() {
            return Some((comm.trim(), pid));
        }
    }
    let (comm, pid) = who.rsplit_once('-')?;
    Some((comm, pid.parse().ok()?))
}

/// Seconds and their fraction before a colon, behind flags or not.
fn time(rest: &str) -> Option<(u64, &str)> {
    let (first, after) = rest.trim_start().split_once(char::is_whitespace)?;
    if let Some(at) = nanoseconds(first) {
        return Some((at, after.trim_start()));
    }
    let (second, after) = after.trim_start().split_once(char::is_whitespace)?;
    Some((nanoseconds(second)?, after.trim_start()))
}

fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.strip_suffix(':')?.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10u64.pow(9 - fraction.len() as u32);
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + fraction.parse::<u64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "pages:-1 reason:remote IPI send (4)";

    fn expected() -> Event {
        Event {
            at: 5_710_839_000,
            cpu: 0,
            comm: "rust-tlb-demo".into(),
            pid: 172,
            name: "tlb_flush".into(),
            detail: SENT.into(),
        }
    }

    #[test]
    fn every_format_is_read() {
        for line in [
            format!("   rust-tlb-demo-172     [000] d..2.     5.710839: tlb_flush: {SENT}"),
            format!("   rust-tlb-demo-172  (    170) [000] d..2.     5.710839: tlb_flush: {SENT}"),
            format!("   rust-tlb-demo-172   [000]     5.710839: tlb_flush:            {SENT}"),
            format!("   rust-tlb-demo   172 [000]     5.710839:    tlb:tlb_flush: {SENT}"),
            format!("   rust-tlb-demo   170/172 [000]  5.710839:    tlb:tlb_flush: {SENT}"),
        ] {
            assert_eq!(Event::parse(&line), Some(expected()), "{line}");
        }
    }

    #[test]
    fn names_of_tasks_may_be_strange() {
        let line = |who: &str| format!("{who} [001] ..... 1.000000: x: ");
        let task = |who: &str| Event::parse(&line(who)).map(|event| (event.comm, event.pid));
        assert_eq!(task("<idle>-0"), Some(("<idle>".into(), 0)));
        assert_eq!(task("a [b] c-7"), Some(("a [b] c".into(), 7)));
        assert_eq!(
            task("kworker/0:1-12-34"),
            Some(("kworker/0:1-12".into(), 34))
        );
        assert_eq!(task("two words 9"), Some(("two words".into(), 9)));
    }

    #[test]
    fn what_is_no_event_is_none() {
        for line in [
            "# tracer: nop",
            "",
            "CPU:1 [LOST 23 EVENTS]",
            "ROW {\"a\":[001]}",
            "[ perf record: Woken up 1 times to write data ]",
            "x-1 [000] d..2. soon: tlb_flush: ",
        ] {
            assert_eq!(Event::parse(line), None, "{line}");
        }
    }

    #[test]
    fn fields_have_values() {
        let event = |detail: &str| Event {
            detail: detail.into(),
            ..expected()
        };
        assert_eq!(expected().code(), Some(4));
        assert_eq!(expected().text("pages"), Some("-1"));
        let call = event("mm=(nil) start=0 end=ffffffffffffffff cpus=3 full");
        assert_eq!(call.address("mm"), Some(0));
        assert_eq!(call.address("end"), Some(u64::MAX));
        assert_eq!(call.number("cpus"), Some(3));
        assert_eq!(call.number("cpu"), None);
        assert_eq!(call.code(), None);
        let csd = event("func=flush_tlb_func, csd=0xff11000000c36000");
        assert_eq!(csd.text("func"), Some("flush_tlb_func"));
        assert_eq!(csd.address("csd"), Some(0xff11_0000_00c3_6000));
    }

    #[test]
    fn events_are_sorted() {
        let text = "b-1 [000] ..... 2.5: y: \na-1 [001] ..... 1.25: x: \n";
        let times: Vec<u64> = parse(text).iter().map(|event| event.at).collect();
        assert_eq!(times, [1_250_000_000, 2_500_000_000]);
    }
}
