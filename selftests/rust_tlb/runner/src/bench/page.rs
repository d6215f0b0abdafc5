// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The results as one page of HTML, which needs nothing else.

use maud::{html, Markup, PreEscaped, DOCTYPE};
use rust_tlb_results::names::Layout;
use rust_tlb_results::strategies;
use rust_tlb_results::written::Results;

use super::binder;
use super::moves;
use super::plots::Plot;
use super::tables::{self, typical};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn render(results: &Results, plots: &[Plot]) -> String {
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "rust-tlb: what it costs to take pages back" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What it costs to take pages back" }
                (summary(results))
                (tables::targets(results))
                h2 { "What was measured" }
                (method(results))
                h2 { "Side by side" }
                @for layout in [Layout::Scattered, Layout::Contiguous] { (tables::ratios(results, layout)) }
                h2 { "Pictures" }
                p.note { "Points are medians, thin lines reach from the least to the greatest value." }
                @for plot in plots { (figure(plot)) }
                h2 { "Who is interrupted" }
                (tables::victims(results))
                h2 { "More mapped pages than memory" }
                (tables::headline(results))
                h2 { "Memory that is moved" }
                (moves::table(&results.moves))
                h2 { "A real driver: Rust Binder" }
                (binder::table(&results.binder))
                h2 { "Every measurement" }
                (tables::rows(results))
                h2 { "Do the counters agree?" }
                (tables::checks(results))
                h2 { "On what" }
                (tables::environment(results))
            }
        }
    };
    body.into_string()
}

fn summary(results: &Results) -> Markup {
    let Some((zap, ours)) = typical(results, "zap", Layout::Scattered).zip(typical(
        results,
        "broadcast",
        Layout::Scattered,
    )) else {
        return html! {};
    };
    html! {
        p.lead {
            "To take " (zap.nr_pages) " scattered pages back from a process that is busy on "
            (zap.nr_cpus) " CPUs, one " code { "zap_vma_range()" } " per page sends "
            strong { (zap.ipis_received) " interrupts" } ", a batch "
            strong { (ours.ipis_received) } "; it costs "
            strong { (format!("{:.0}", ours.instructions_per_page / zap.instructions_per_page * 100.0)) " %" }
            " of the instructions."
        }
    }
}

fn method(results: &Results) -> Markup {
    let cpus = results.environment.cpus;
    html! {
        p {
            "The same pages are taken back from the same threads in each of these ways, all of them in each of three "
            "boots (below: on what), in an order that changes from round to round; a row is the median of all rounds. Before each round everybody "
            "uses every page, and what the way before it has left to flush is flushed."
        }
        dl {
            @for strategy in &strategies::ALL {
                dt { (strategy.name) } dd { (strategy.meaning) }
            }
        }
        p {
            strong { "Rounds" } " and " strong { "IPIs" } " are the kernel's own counts. "
            strong { "Instructions" } " are those of all " (cpus) " CPUs while the call lasts, from a second boot of "
            "the same binary in an emulator whose clock counts them; they include the interrupted CPUs', and not "
            "what the hardware does by itself: delivering interrupts, walking page tables. "
            strong { "Time" } " is the emulator's where there is no KVM: look at ratios. "
            strong { "Kept" } ": of 64 pages of its own that a thread on another CPU has used just before, how many "
            "translations were still in that CPU's TLB afterwards, by the Accessed bit; the control is the same "
            "where nothing of its process is unmapped. The emulator's TLB has no PCID and forgets everything when "
            "a CPU changes address spaces. "
            strong { "Stale" } ": accesses to pages after they were released, seen by threads that read all the time."
        }
    }
}

fn figure(plot: &Plot) -> Markup {
    html! {
        figure {
            (PreEscaped(&plot.svg))
            figcaption { (plot.caption) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{plots, sample};
    use super::*;

    fn page() -> String {
        let results = sample::results();
        render(&results, &plots::all(&results).unwrap())
    }

    #[test]
    fn everything_is_on_the_page() {
        let page = page();
        for text in [
            "What it costs to take pages back",
            "512 scattered pages, one process, 8 CPUs",
            "<svg",
            "reclaim of a file",
            "A real driver: Rust Binder",
            "binder, 8 processes: flush rounds of a scan",
            "QEMU emulator version 9",
        ] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page().replace("http://www.w3.org/2000/svg", "");
        for text in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!page.contains(text), "{text}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let page = page();
        assert!(page.contains("a CPU &lt;of sorts&gt;"));
        assert!(!page.contains("<of sorts>"));
    }
}
