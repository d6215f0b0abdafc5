// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Makes what is written to `results.json` of what was said in all boots, and holds it against its schema.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use rust_tlb_results::said::{self, PageTables};
use rust_tlb_results::spread::Spread;
use rust_tlb_results::strategies;
use rust_tlb_results::written::{self, Boot, Environment, Headline, Results, Victims, VERSION};
use serde_json::Value;

use super::binder;
use super::merge;
use super::moves;
use super::said::Said;
use super::targets;

const SCHEMA: &str = include_str!("../../../bench.schema.json");

/// Makes results of what was said in all parts.
pub fn assemble(
    environments: Vec<(&'static str, Environment)>,
    quick: bool,
    elapsed: Duration,
    said: &Said,
) -> Result<Results> {
    let boot = |(part, of): &(&'static str, Environment)| Boot {
        part: part.to_string(),
        accel: of.accel,
        cpu_threads: of.cpu_threads,
        cpus: of.cpus,
    };
    let boots = environments.iter().map(boot).collect();
    let first = environments.into_iter().next().context("no boot")?;
    let rows = merge::rows(said)?;
    let binder = binder::rows(&said.binder[0], &said.binder[1])?;
    let mut targets = targets::judge(&rows);
    targets.extend(binder::targets(&binder));
    Ok(Results {
        schema_version: VERSION,
        environment: first.1,
        boots,
        quick,
        seconds: elapsed.as_secs_f64(),
        victims: victims(&said.victims),
        headline: headline(&said.headline),
        moves: moves::rows(&said.moves[0], &said.moves[1])?,
        page_tables: said.page_tables.iter().map(page_tables).collect(),
        binder,
        targets,
        checks: said.checks.iter().map(check).collect(),
        rows,
    })
}

/// All turns of each of those that `name` tells apart, in the order in which they first came.
fn by_name<T>(turns: &[T], name: impl Fn(&T) -> &str) -> Vec<Vec<&T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for turn in turns {
        let same = |group: &&mut Vec<&T>| name(group[0]) == name(turn);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(turn),
            None => groups.push(vec![turn]),
        }
    }
    groups
}

fn check((part, said): &(&'static str, said::Check)) -> written::Check {
    written::Check {
        part: part.to_string(),
        what: said.what.clone(),
        ours: said.ours,
        kernels: said.kernels,
        agree: said.agree,
    }
}

fn page_tables(said: &PageTables) -> written::PageTables {
    written::PageTables {
        how: said.how,
        nr_pages: said.nr_pages,
        vm_pte_before_kb: said.vm_pte_before_kb,
        vm_pte_held_kb: said.vm_pte_held_kb,
        vm_pte_after_kb: said.vm_pte_after_kb,
        instructions_per_page: said.ticks_per_page,
        rounds: said.rounds,
        nr_tables_freed: said.nr_tables_freed,
    }
}

fn victims(turns: &[said::Victims]) -> Vec<Victims> {
    let groups = by_name(turns, |turn| &turn.strategy);
    let mut rows: Vec<_> = groups.iter().map(|group| victims_row(group)).collect();
    rows.sort_by_key(|row| strategies::position(&row.strategy));
    rows
}

fn victims_row(turns: &[&said::Victims]) -> Victims {
    let of = |value: fn(&said::Victims) -> f64| Spread::of(turns.iter().map(|turn| value(turn)));
    let throughput = of(said::Victims::throughput);
    let lost = of(said::Victims::lost_ns_per_page);
    let longest = of(|turn| turn.unmapping.longest_ns);
    Victims {
        strategy: turns[0].strategy.clone(),
        nr_pages: turns[0].nr_pages,
        nr_victims: turns[0].nr_victims,
        nr_turns: turns.len() as u64,
        nr_unmaps: turns.iter().map(|turn| turn.unmapping.nr_unmaps).sum(),
        throughput: throughput.median,
        throughput_min: throughput.min,
        throughput_max: throughput.max,
        lost_ns_per_page: lost.median,
        lost_ns_per_page_min: lost.min,
        lost_ns_per_page_max: lost.max,
        pass_p50_ns: of(|turn| turn.unmapping.pass_p50_ns).median,
        pass_p99_ns: of(|turn| turn.unmapping.pass_p99_ns).median,
        pass_p99_ns_control: of(|turn| turn.control.pass_p99_ns).median,
        longest_stall_ns: longest.median,
        longest_stall_ns_min: longest.min,
        longest_stall_ns_max: longest.max,
        longest_stall_ns_control: of(|turn| turn.control.longest_ns).median,
    }
}

fn headline(turns: &[said::Headline]) -> Vec<Headline> {
    let groups = by_name(turns, |turn| &turn.way);
    let mut rows: Vec<_> = groups.iter().map(|group| headline_row(group)).collect();
    rows.sort_by(|a, b| a.way.cmp(&b.way));
    rows
}

fn headline_row(turns: &[&said::Headline]) -> Headline {
    let of = |value: fn(&said::Headline) -> f64| Spread::of(turns.iter().map(|turn| value(turn)));
    let seconds = of(|t| t.seconds);
    Headline {
        way: turns[0].way.clone(),
        nr_cpus: turns[0].nr_cpus,
        nr_turns: turns.len() as u64,
        memory_pages: turns[0].memory_pages,
        nr_pages: of(|t| t.nr_pages as f64).median as u64,
        seconds: seconds.median,
        seconds_min: seconds.min,
        seconds_max: seconds.max,
        system_seconds: of(|t| t.system_seconds).median,
        rounds: of(|t| t.rounds as f64).median,
        interrupts: of(|t| t.interrupts as f64).median,
        interrupts_per_second: of(|t| t.interrupts as f64 / t.seconds).median,
        interrupts_per_page: of(|t| t.interrupts as f64 / t.nr_pages as f64).median,
        ns_per_page: of(|t| t.seconds * 1e9 / t.nr_pages as f64).median,
        system_ns_per_page: of(|t| t.system_seconds * 1e9 / t.nr_pages as f64).median,
    }
}

/// Holds what is written against its schema.
///
/// # Errors
///
/// If it does not follow it, with the places where.
pub fn validate(results: &Value) -> Result<()> {
    let schema = serde_json::from_str(SCHEMA)?;
    let validator = jsonschema::validator_for(&schema)?;
    let errors: Vec<String> = validator
        .iter_errors(results)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    ensure!(
        errors.is_empty(),
        "the results break their schema: {errors:#?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn is_valid(results: &Value) -> bool {
        validate(results).is_ok()
    }

    fn results() -> Value {
        serde_json::to_value(sample::results()).unwrap()
    }

    #[test]
    fn what_is_written_is_valid() {
        validate(&results()).unwrap();
    }

    #[test]
    fn an_error_says_where() {
        let mut bad = results();
        bad["rows"][0]["nr_pages"] = Value::from(0);
        let error = validate(&bad).unwrap_err().to_string();
        assert!(error.contains("/rows/0/nr_pages"), "{error}");
    }

    #[test]
    fn no_field_of_a_row_may_be_missing_or_unknown() {
        let good = results();
        let names: Vec<String> = good["rows"][0]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        for name in &names {
            let mut bad = good.clone();
            bad["rows"][0].as_object_mut().unwrap().remove(name);
            assert!(!is_valid(&bad), "without {name}");
        }
        let mut bad = good.clone();
        bad["rows"][0]["more"] = 1.into();
        assert!(!is_valid(&bad));
    }

    #[test]
    fn values_have_their_bounds() {
        for (name, value) in [
            ("victim_translations_kept", Value::from(1.5)),
            ("nr_pages", Value::from(0)),
            ("rounds", Value::from(-1)),
            ("rounds", Value::from("1")),
            ("strategy", Value::from("none")),
            ("ns_per_page", Value::Null),
        ] {
            let mut bad = results();
            bad["rows"][0][name] = value.clone();
            assert!(!is_valid(&bad), "{name}: {value}");
        }
        let mut good = results();
        good["rows"][0]["stale_accesses"] = Value::Null;
        assert!(is_valid(&good));
    }

    #[test]
    fn a_result_without_rows_is_none() {
        let mut bad = results();
        bad["rows"] = Value::Array(Vec::new());
        assert!(!is_valid(&bad));
        let nothing = assemble(Vec::new(), true, Duration::ZERO, &Said::default());
        assert!(nothing.is_err());
    }

    #[test]
    fn victims_are_compared_with_the_control() {
        let results = sample::results();
        let zap = results.victims.iter().find(|row| row.strategy == "zap");
        let zap = zap.unwrap();
        assert_eq!(zap.throughput, 0.8);
        // 0.2 s for 100 unmaps of 128 pages.
        assert_eq!(zap.lost_ns_per_page.round(), 15625.0);
    }
}
